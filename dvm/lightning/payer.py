"""Paying from a server that lists what became of its payments: its list decides, whatever it answers when it pays."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from dvm.lightning.base import InvoiceState, Payment, WalletError
from dvm.lightning.bolt11 import Bolt11
from dvm.lightning.checks import hash_of, payable

log = logging.getLogger(__name__)

_UNKNOWN = Payment(InvoiceState.UNKNOWN)
_DECIDED = (InvoiceState.SETTLED, InvoiceState.PENDING)  # nothing is to be paid any more


@dataclass(frozen=True, slots=True)
class Listed:
    """What the server's list says of a payment hash."""

    payment: Payment


L = TypeVar("L", bound=Listed)


class Payer(ABC, Generic[L]):
    """Outgoing payments, one at a time for each payment hash."""

    def __init__(self) -> None:
        self._under_way: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._may: bool | None = None

    async def pay(self, bolt11: str, fee_limit_msat: int) -> Payment:
        """As `Wallet.pay`."""
        said, msat = payable(bolt11)
        lock = self._under_way.setdefault(said.payment_hash, asyncio.Lock())
        async with lock:
            before = await self._listed(said.payment_hash)
            already = self._meant(said.payment_hash, before)
            if already.state in _DECIDED:
                return already
            return await self._pay(bolt11, said, msat, before, fee_limit_msat)

    async def payment(self, payment_hash: str) -> Payment:
        """As `Wallet.payment`."""
        if hash_of(payment_hash) is None:
            return _UNKNOWN
        try:
            return self._meant(payment_hash, await self._listed(payment_hash))
        except WalletError as error:
            log.debug("wallet: a payment cannot be looked up: %s", error)
            return _UNKNOWN

    async def may_pay(self) -> bool:
        """Whether what we show the server allows it: asked once, by paying nothing that could be paid. Raises
        WalletError."""
        if self._may is None:
            self._may = await self._ask_whether_it_may()
        return self._may

    # --- each server's own -----------------------------------------------------------------------------

    @abstractmethod
    async def _listed(self, payment_hash: str) -> L:
        """Raises WalletError where the server cannot be asked, or answers nonsense."""

    @abstractmethod
    def _meant(self, payment_hash: str, listed: L) -> Payment:
        """What that means for the latest payment that was asked for here: a listed failure may be of another."""

    @abstractmethod
    async def _pay(self, bolt11: str, said: Bolt11, msat: int, before: L, fee_limit_msat: int) -> Payment:
        """Pay what is neither paid nor under way. Raises WalletError, as `Wallet.pay`."""

    @abstractmethod
    def _has_failed(self, before: L, listed: L, over: bool) -> bool:
        """Whether what is listed now is this payment's own failure. `over` as in `_outcome`."""

    @abstractmethod
    def _ended(self, payment_hash: str) -> None:
        """Nothing of what was asked for here is under way any more."""

    @abstractmethod
    async def _ask_whether_it_may(self) -> bool:
        """Raises WalletError."""

    # --- when the answer was none, or a no -------------------------------------------------------------

    async def _outcome(self, payment_hash: str, before: L, error: WalletError, *, over: bool) -> Payment:
        """What became of a payment that was answered with `error`, or not at all. `over`: it was the server's own
        no, and nothing further will be sent. Raises that no where nothing was sent."""
        try:
            listed = await self._listed(payment_hash)
        except WalletError as again:
            log.info("wallet: the outcome of a payment is open: %s; then %s", error, again)
            return _UNKNOWN
        if listed.payment.state in _DECIDED:
            return listed.payment
        failed = self._has_failed(before, listed, over)
        if not failed and not over:  # the request may still arrive there, or be at work
            return _UNKNOWN
        self._ended(payment_hash)
        if not failed:
            raise error
        log.info("wallet: a payment has failed: %s", error)
        return Payment(InvoiceState.FAILED)
