"""Paying from a CLN node, and what became of it.

`pay` has a fee limit (`maxfee`) and returns an earlier success instead of paying again; where it is gone (it is
deprecated from 26.06 on), `xpay` does the same. Neither's word of a failure is the last one: parts may still be
under way, so `listpays` decides.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from dvm.lightning.base import InvoiceState, Payment, WalletError
from dvm.lightning.bolt11 import Bolt11
from dvm.lightning.checks import text_of
from dvm.lightning.cln_rpc import Rpc, RpcError, msat_of, time_of
from dvm.lightning.nip47 import opens
from dvm.lightning.payer import Listed, Payer
from dvm.lightning.rest import NotSent

_GRACE = 300  # seconds past `retry_for` until a listed failure is for good, whatever the two clocks say
_REMEMBERED = 10_000
_NOT_DONE = ("unauthorized", "restricted", "rate_limited", "unsupported")  # said before anything is done
_NO_FUNDS = frozenset({215})  # PAY_INSUFFICIENT_FUNDS


@dataclass(frozen=True, slots=True)
class ListedPays(Listed):
    """What `listpays` says of a hash. `began`: when the latest attempt was made, by the node's clock."""

    began: int = 0


class ClnPayer(Payer[ListedPays]):
    """Outgoing payments. `retry_for`: seconds for which the node looks for routes."""

    def __init__(self, rpc: Rpc, retry_for: int, timeout: float) -> None:
        super().__init__()
        self._rpc, self._retry_for, self._timeout = rpc, retry_for, timeout
        # Until when (monotonic) a payment that was asked for here may be tried anew; None: the node said no.
        self._until: dict[str, float | None] = {}

    async def _pay(self, bolt11: str, said: Bolt11, msat: int, before: ListedPays, fee_limit_msat: int) -> Payment:
        payment_hash = said.payment_hash
        self._note(payment_hash, time.monotonic() + self._retry_for + _GRACE)
        try:
            how = {"maxfee": max(fee_limit_msat, 0), "retry_for": self._retry_for}
            result = await self._ask({"bolt11": bolt11} | how, {"invstring": bolt11} | how)
        except WalletError as error:
            if isinstance(error, NotSent) or error.code in _NOT_DONE:
                self._ended(payment_hash)
                raise
            # lightningd's own no: no further part will be sent, but some may be on their way.
            return await self._outcome(payment_hash, before, _reason(error), over=isinstance(error, RpcError))
        preimage = result.get("payment_preimage")
        if not opens(preimage, payment_hash):
            wrong = WalletError("untrustworthy", "the node's preimage is not the invoice's")
            return await self._outcome(payment_hash, before, wrong, over=False)
        self._ended(payment_hash)
        sent, delivered = msat_of(result.get("amount_sent_msat")), msat_of(result.get("amount_msat"))
        return Payment(InvoiceState.SETTLED, _fee(sent, delivered or msat), str(preimage))

    async def _ask(self, pay: dict[str, Any], xpay: dict[str, Any]) -> dict[str, Any]:
        """`pay`, or `xpay` where there is no `pay`, or none for this rune. Raises WalletError."""
        try:
            return await self._rpc.call("pay", pay, timeout=self._timeout)
        except WalletError as error:
            if error.code not in ("unsupported", "restricted"):
                raise
            first = error
        try:
            return await self._rpc.call("xpay", xpay, timeout=self._timeout)
        except WalletError as error:
            if error.code == "unsupported":
                raise first from None
            raise

    async def _ask_whether_it_may(self) -> bool:
        """The node refuses to pay without an invoice, and a rune without the right is not let through to it."""
        try:
            await self._ask({}, {})
        except RpcError:
            return True
        except WalletError as error:
            if error.code not in ("restricted", "unsupported"):
                raise
            return False
        raise WalletError("untrustworthy", "pay: done, without an invoice?")

    async def _listed(self, payment_hash: str) -> ListedPays:
        told = await self._rpc.call("listpays", {"payment_hash": payment_hash})
        pays = told.get("pays")
        if not isinstance(pays, list):
            raise WalletError("untrustworthy", "listpays: an answer without payments")
        ours = [each for each in pays if isinstance(each, dict) and each.get("payment_hash") == payment_hash]
        if len(ours) < len(pays):
            raise WalletError("untrustworthy", "listpays: payments that were not asked for")
        if not ours:
            return ListedPays(Payment(InvoiceState.UNKNOWN, known=False))
        began = max(time_of(each.get("created_at")) or 0 for each in ours)
        states = {text_of(each.get("status")): each for each in ours}
        if (complete := states.get("complete")) is not None:
            preimage = complete.get("preimage")
            sent, delivered = msat_of(complete.get("amount_sent_msat")), msat_of(complete.get("amount_msat"))
            proof = str(preimage) if opens(preimage, payment_hash) else None
            return ListedPays(Payment(InvoiceState.SETTLED, _fee(sent, delivered), proof), began)
        failed = states.keys() == {"failed"}
        return ListedPays(Payment(InvoiceState.FAILED if failed else InvoiceState.PENDING), began)

    def _meant(self, payment_hash: str, listed: ListedPays) -> Payment:
        if listed.payment.state is InvoiceState.FAILED and not self._for_good(payment_hash, listed):
            return Payment(InvoiceState.PENDING)  # between two attempts of one that is still being tried
        return listed.payment

    def _has_failed(self, before: ListedPays, listed: ListedPays, over: bool) -> bool:
        """Without the node's no, what is listed as failed may be an earlier attempt, or it may be trying again."""
        return over and listed.payment.known

    def _for_good(self, payment_hash: str, listed: ListedPays) -> bool:
        """Whether a listed failure is the end: `listpays` says "failed" between two attempts as well."""
        if payment_hash in self._until:
            until = self._until[payment_hash]
            return until is None or time.monotonic() > until
        return time.time() > listed.began + self._retry_for + _GRACE

    def _ended(self, payment_hash: str) -> None:
        self._note(payment_hash, None)

    def _note(self, payment_hash: str, until: float | None) -> None:
        self._until.pop(payment_hash, None)
        self._until[payment_hash] = until
        if len(self._until) > _REMEMBERED:
            del self._until[next(iter(self._until))]


def _reason(error: WalletError) -> WalletError:
    if isinstance(error, RpcError) and error.number in _NO_FUNDS:
        return WalletError("insufficient", str(error).partition(": ")[2])
    return error


def _fee(sent: int | None, delivered: int | None) -> int:
    """What was paid beyond the amount; a wallet that does not tell is taken to have paid none."""
    return max(sent - delivered, 0) if sent is not None and delivered is not None else 0
