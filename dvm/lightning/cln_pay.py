"""Paying from a CLN node, and what became of it.

`pay` has a fee limit (`maxfee`) and returns an earlier success instead of paying again; where it is gone (it is
deprecated from 26.06 on), `xpay` does the same. Neither's word of a failure is the last one: parts may still be
under way, so `listpays` decides.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from dvm.lightning.base import InvoiceState, Payment, WalletError
from dvm.lightning.bolt11 import Bolt11
from dvm.lightning.checks import hash_of, readable
from dvm.lightning.cln_rpc import Rpc, RpcError, msat_of, time_of
from dvm.lightning.nip47 import opens
from dvm.lightning.rest import NotSent

log = logging.getLogger(__name__)

_GRACE = 300  # seconds past `retry_for` until a listed failure is for good, whatever the two clocks say
_REMEMBERED = 10_000
_NOT_DONE = ("unauthorized", "restricted", "rate_limited", "unsupported")  # said before anything is done
_NO_FUNDS = frozenset({215})  # PAY_INSUFFICIENT_FUNDS


@dataclass(frozen=True, slots=True)
class _Listed:
    """What `listpays` says of a hash. `began`: when the latest attempt was made, by the node's clock."""

    state: InvoiceState
    fee_msat: int = 0
    preimage: str | None = None
    began: int = 0
    known: bool = True


class Payer:
    """Outgoing payments. `retry_for`: seconds for which the node looks for routes."""

    def __init__(self, rpc: Rpc, retry_for: int, timeout: float) -> None:
        self._rpc, self._retry_for, self._timeout = rpc, retry_for, timeout
        self._under_way: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._may: bool | None = None
        # Until when (monotonic) a payment that was asked for here may be tried anew; None: the node said no.
        self._until: dict[str, float | None] = {}

    async def pay(self, bolt11: str, fee_limit_msat: int) -> Payment:
        """As `Wallet.pay`."""
        said = readable(bolt11)
        if said.msat is None:
            raise WalletError("failed", "the invoice leaves the amount open")
        lock = self._under_way.setdefault(said.payment_hash, asyncio.Lock())
        async with lock:
            return await self._pay(bolt11, said, max(fee_limit_msat, 0))

    async def payment(self, payment_hash: str) -> Payment:
        """As `Wallet.payment`."""
        if hash_of(payment_hash) is None:
            return Payment(InvoiceState.UNKNOWN)
        try:
            listed = await self._listed(payment_hash)
        except WalletError as error:
            log.debug("wallet: a payment cannot be looked up: %s", error)
            return Payment(InvoiceState.UNKNOWN)
        if listed.state is InvoiceState.FAILED and not self._for_good(payment_hash, listed):
            return Payment(InvoiceState.PENDING)  # between two attempts of one that is still being tried
        return Payment(listed.state, listed.fee_msat, listed.preimage, listed.known)

    async def may_pay(self) -> bool:
        """Whether the rune allows it: asked by paying without an invoice, which the node refuses and a rune
        without the right does not let through. Raises WalletError."""
        if self._may is None:
            try:
                await self._ask({}, {}, self._timeout)
            except RpcError:
                self._may = True
            except WalletError as error:
                if error.code not in ("restricted", "unsupported"):
                    raise
                self._may = False
            else:
                raise WalletError("untrustworthy", "pay: done, without an invoice?")
        return self._may

    async def _pay(self, bolt11: str, said: Bolt11, maxfee: int) -> Payment:
        before = await self._listed(said.payment_hash)
        if before.state in (InvoiceState.SETTLED, InvoiceState.PENDING):
            return Payment(before.state, before.fee_msat, before.preimage)
        if before.state is InvoiceState.FAILED and not self._for_good(said.payment_hash, before):
            return Payment(InvoiceState.PENDING)
        self._note(said.payment_hash, time.monotonic() + self._retry_for + _GRACE)
        try:
            how = {"maxfee": maxfee, "retry_for": self._retry_for}
            result = await self._ask({"bolt11": bolt11} | how, {"invstring": bolt11} | how, self._timeout)
        except WalletError as error:
            if isinstance(error, NotSent) or error.code in _NOT_DONE:
                self._note(said.payment_hash, None)
                raise
            return await self._outcome(said.payment_hash, error)
        preimage = result.get("payment_preimage")
        if not opens(preimage, said.payment_hash):
            return await self._outcome(
                said.payment_hash, WalletError("untrustworthy", "the node's preimage is not the invoice's")
            )
        self._note(said.payment_hash, None)
        sent, delivered = msat_of(result.get("amount_sent_msat")), msat_of(result.get("amount_msat"))
        return Payment(InvoiceState.SETTLED, _fee(sent, delivered or said.msat), str(preimage))

    async def _ask(self, pay: dict[str, Any], xpay: dict[str, Any], seconds: float) -> dict[str, Any]:
        """`pay`, or `xpay` where there is no `pay`, or none for this rune. Raises WalletError."""
        try:
            return await self._rpc.call("pay", pay, timeout=seconds)
        except WalletError as error:
            if error.code not in ("unsupported", "restricted"):
                raise
            first = error
        try:
            return await self._rpc.call("xpay", xpay, timeout=seconds)
        except WalletError as error:
            if error.code == "unsupported":
                raise first from None
            raise

    async def _outcome(self, payment_hash: str, error: WalletError) -> Payment:
        """What became of a payment that was answered with `error`, or not at all."""
        over = isinstance(error, RpcError)  # no further part will be sent; some may be on their way
        try:
            listed = await self._listed(payment_hash)
        except WalletError as again:
            log.info("wallet: the outcome of a payment is open: %s; then %s", error, again)
            return Payment(InvoiceState.UNKNOWN)
        if listed.state in (InvoiceState.SETTLED, InvoiceState.PENDING):
            return Payment(listed.state, listed.fee_msat, listed.preimage)
        if not over:  # what is listed as failed may be an earlier attempt, or the node may be trying again
            return Payment(InvoiceState.UNKNOWN)
        self._note(payment_hash, None)
        if listed.known:
            log.info("wallet: a payment has failed: %s", error)
            return Payment(InvoiceState.FAILED)
        if isinstance(error, RpcError) and error.number in _NO_FUNDS:
            raise WalletError("insufficient", str(error).partition(": ")[2])
        raise error

    async def _listed(self, payment_hash: str) -> _Listed:
        """Raises WalletError where the node cannot be asked, or answers nonsense."""
        told = await self._rpc.call("listpays", {"payment_hash": payment_hash})
        pays = told.get("pays")
        if not isinstance(pays, list):
            raise WalletError("untrustworthy", "listpays: an answer without payments")
        ours = [each for each in pays if isinstance(each, dict) and each.get("payment_hash") == payment_hash]
        if len(ours) < len(pays):
            raise WalletError("untrustworthy", "listpays: payments that were not asked for")
        if not ours:
            return _Listed(InvoiceState.UNKNOWN, known=False)
        began = max(time_of(each.get("created_at")) or 0 for each in ours)
        states = {each.get("status"): each for each in ours}
        if (complete := states.get("complete")) is not None:
            preimage = complete.get("preimage")
            sent, delivered = msat_of(complete.get("amount_sent_msat")), msat_of(complete.get("amount_msat"))
            proof = str(preimage) if opens(preimage, payment_hash) else None
            return _Listed(InvoiceState.SETTLED, _fee(sent, delivered), proof, began)
        if states.keys() == {"failed"}:
            return _Listed(InvoiceState.FAILED, began=began)
        return _Listed(InvoiceState.PENDING, began=began)

    def _for_good(self, payment_hash: str, listed: _Listed) -> bool:
        """Whether a listed failure is the end: `listpays` says "failed" between two attempts as well."""
        if payment_hash in self._until:
            until = self._until[payment_hash]
            return until is None or time.monotonic() > until
        return time.time() > listed.began + self._retry_for + _GRACE

    def _note(self, payment_hash: str, until: float | None) -> None:
        self._until.pop(payment_hash, None)
        self._until[payment_hash] = until
        if len(self._until) > _REMEMBERED:
            del self._until[next(iter(self._until))]


def _fee(sent: int | None, delivered: int | None) -> int:
    """What was paid beyond the amount; a wallet that does not tell is taken to have paid none."""
    return max(sent - delivered, 0) if sent is not None and delivered is not None else 0
