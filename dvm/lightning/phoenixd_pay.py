"""Paying from a phoenixd, and what became of it.

`payinvoice` takes no fee limit: what leaves is the amount and phoenixd's fee, a fixed 0.4 % and 4 sat that its
peer charges for finding the route (`TrampolineFees`; one attempt, at that price). So a payment whose fee is
above the limit is refused before it is asked for. phoenixd itself refuses to pay a hash twice, or while it is
being paid. A payment is tried once, and its failure is for good.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from dvm.lightning.base import InvoiceState, Payment, WalletError
from dvm.lightning.bolt11 import MAX_MSAT, Bolt11
from dvm.lightning.checks import hash_of, readable
from dvm.lightning.nip47 import opens
from dvm.lightning.rest import NotSent, Refused, Rest, clean

log = logging.getLogger(__name__)

FEE_BASE_MSAT = 4_000
FEE_PER_MILLION = 4_000
_ARRIVES = 60  # seconds past our own patience in which a request may still arrive there
_REMEMBERED = 10_000
_NOT_DONE = (400, 404, 405, 415)  # said of the request, before anything is done
_NO_ENDPOINT = "Unknown endpoint"  # with the status of "Not found"


def fee_of(msat: int) -> int:
    """What phoenixd charges for paying that amount, in msat."""
    return FEE_BASE_MSAT + msat * FEE_PER_MILLION // 1_000_000


@dataclass(frozen=True, slots=True)
class _Listed:
    """What phoenixd says of a hash; `id` tells one payment for it from another."""

    state: InvoiceState
    fee_msat: int = 0
    preimage: str | None = None
    id: str | None = None


_STRANGE = _Listed(InvoiceState.UNKNOWN)


class Payer:
    """Outgoing payments."""

    def __init__(self, rest: Rest, timeout: float) -> None:
        self._rest, self._timeout = rest, timeout
        self._under_way: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._may: bool | None = None
        # What was asked for here without an answer: until when (monotonic) it may still arrive at phoenixd, and
        # the payment that was listed before.
        self._open: dict[str, tuple[float, str | None]] = {}

    async def pay(self, bolt11: str, fee_limit_msat: int) -> Payment:
        """As `Wallet.pay`."""
        said = readable(bolt11)
        if said.msat is None:
            raise WalletError("failed", "the invoice leaves the amount open")
        lock = self._under_way.setdefault(said.payment_hash, asyncio.Lock())
        async with lock:
            return await self._pay(bolt11, said, said.msat, fee_limit_msat)

    async def payment(self, payment_hash: str) -> Payment:
        """As `Wallet.payment`."""
        if hash_of(payment_hash) is None:
            return Payment(InvoiceState.UNKNOWN)
        try:
            listed = await self._listed(payment_hash)
        except WalletError as error:
            log.debug("wallet: a payment cannot be looked up: %s", error)
            return Payment(InvoiceState.UNKNOWN)
        until, before = self._open.get(payment_hash, (0.0, None))
        if listed.state is InvoiceState.FAILED and listed.id == before and time.monotonic() < until:
            return Payment(InvoiceState.UNKNOWN)  # that is the one before
        return Payment(listed.state, listed.fee_msat, listed.preimage, known=listed.id is not None)

    async def may_pay(self) -> bool:
        """Whether the password is the one with full access: asked by paying nothing that could be paid, which
        the limited one may not even ask. Raises WalletError."""
        if self._may is None:
            try:
                await self._rest.call("POST", "/payinvoice", data={"invoice": ""})
            except Refused as refused:
                if refused.status not in (401, *_NOT_DONE):
                    raise
                self._may = refused.status != 401
            else:
                raise WalletError("untrustworthy", "payinvoice: done, without an invoice?")
        return self._may

    async def _pay(self, bolt11: str, said: Bolt11, msat: int, fee_limit_msat: int) -> Payment:
        before = await self._listed(said.payment_hash)
        if before.state in (InvoiceState.SETTLED, InvoiceState.PENDING):
            return Payment(before.state, before.fee_msat, before.preimage)
        if fee_of(msat) > fee_limit_msat:
            raise WalletError(
                "failed",
                f"phoenixd's fee is 0.4 % and 4 sat: {fee_of(msat)} msat for {msat} msat, and the limit is "
                f"{fee_limit_msat} msat; payouts.fee_sats = 7 lets it pay any amount",
            )
        self._note(said.payment_hash, before.id)
        try:
            told = await self._rest.call("POST", "/payinvoice", data={"invoice": bolt11}, timeout=self._timeout)
        except NotSent:
            self._open.pop(said.payment_hash, None)
            raise
        except Refused as refused:
            if refused.status == 401:
                self._open.pop(said.payment_hash, None)
                raise WalletError(
                    "restricted", "this password may not pay: take http-password of phoenix.conf, not the limited one"
                ) from None
            return await self._outcome(said.payment_hash, before, refused, over=refused.status in _NOT_DONE)
        except WalletError as error:
            return await self._outcome(said.payment_hash, before, error, over=False)
        if isinstance(told, dict) and opens(told.get("paymentPreimage"), said.payment_hash):
            return await self._sent(said.payment_hash, told)
        return await self._outcome(said.payment_hash, before, *_refused(told))

    async def _sent(self, payment_hash: str, told: dict[str, Any]) -> Payment:
        """Its answer has the fee in whole sats; the books have it in msat."""
        self._open.pop(payment_hash, None)
        fee = told.get("routingFeeSat")
        fee = fee * 1000 if type(fee) is int and 0 <= fee < MAX_MSAT else 0
        try:
            listed = await self._listed(payment_hash)
            fee = listed.fee_msat if listed.state is InvoiceState.SETTLED else fee
        except WalletError as error:
            log.debug("wallet: a payment's exact fee cannot be learned: %s", error)
        return Payment(InvoiceState.SETTLED, fee, str(told["paymentPreimage"]))

    async def _outcome(self, payment_hash: str, before: _Listed, error: WalletError, over: bool) -> Payment:
        """What became of a payment that was answered with `error`, or not at all. `over`: it was a no."""
        try:
            listed = await self._listed(payment_hash)
        except WalletError as again:
            log.info("wallet: the outcome of a payment is open: %s; then %s", error, again)
            return Payment(InvoiceState.UNKNOWN)
        if listed.state in (InvoiceState.SETTLED, InvoiceState.PENDING):
            return Payment(listed.state, listed.fee_msat, listed.preimage)
        new = listed.id is not None and listed.id != before.id
        if not over and not new:
            return Payment(InvoiceState.UNKNOWN)
        self._open.pop(payment_hash, None)
        if new:
            log.info("wallet: a payment has failed: %s", error)
            return Payment(InvoiceState.FAILED)
        raise error

    async def _listed(self, payment_hash: str) -> _Listed:
        """Raises WalletError where phoenixd cannot be asked, or answers nonsense."""
        try:
            entry = await self._rest.get(f"/payments/outgoingbyhash/{payment_hash}")
        except Refused as refused:
            if refused.status == 404 and _NO_ENDPOINT not in str(refused):
                return _STRANGE
            if refused.status == 404:
                raise WalletError(
                    "unsupported", "this phoenixd does not tell what became of a payment: 0.5 or newer is needed"
                ) from None
            raise
        if not isinstance(entry, dict) or entry.get("paymentHash") != payment_hash:
            raise WalletError("untrustworthy", "outgoingbyhash: an answer about something else")
        id_, fee = str(entry.get("paymentId")), entry.get("fees")
        fee = fee if type(fee) is int and 0 <= fee <= MAX_MSAT else 0
        if entry.get("isPaid") is True:
            preimage = entry.get("preimage")
            return _Listed(InvoiceState.SETTLED, fee, preimage if opens(preimage, payment_hash) else None, id_)
        over = entry.get("isPaid") is False and type(entry.get("completedAt")) is int
        return _Listed(InvoiceState.FAILED if over else InvoiceState.PENDING, id=id_)

    def _note(self, payment_hash: str, before: str | None) -> None:
        self._open[payment_hash] = (time.monotonic() + self._timeout + _ARRIVES, before)
        if len(self._open) > _REMEMBERED:
            del self._open[next(iter(self._open))]


def _refused(told: object) -> tuple[WalletError, bool]:
    """An answer without the preimage: phoenixd's reason, or nonsense; and whether it was a no."""
    reason = told.get("reason") if isinstance(told, dict) else None
    if not isinstance(reason, str):
        return WalletError("untrustworthy", "payinvoice: neither a preimage nor a reason"), False
    return WalletError("insufficient" if "not enough funds" in reason else "failed", clean(reason)), True
