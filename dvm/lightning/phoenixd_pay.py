"""Paying from a phoenixd, and what became of it.

`payinvoice` takes no fee limit: what leaves is the amount and phoenixd's fee, a fixed 0.4 % and 4 sat that its
peer charges for finding the route (`TrampolineFees`; one attempt, at that price). So a payment whose fee is
above the limit is refused before it is asked for. phoenixd itself refuses to pay a hash twice, or while it is
being paid. A payment is tried once, and its failure is for good.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from dvm.lightning.base import InvoiceState, Payment, WalletError
from dvm.lightning.bolt11 import MAX_MSAT, Bolt11
from dvm.lightning.checks import text_of
from dvm.lightning.nip47 import opens
from dvm.lightning.payer import Listed, Payer
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
class ListedPayment(Listed):
    """What phoenixd says of a hash; `id` tells one payment for it from another, None where there is none."""

    id: str | None = None


class PhoenixdPayer(Payer[ListedPayment]):
    """Outgoing payments."""

    def __init__(self, rest: Rest, timeout: float) -> None:
        super().__init__()
        self._rest, self._timeout = rest, timeout
        # What was asked for here without an answer: until when (monotonic) it may still arrive at phoenixd, and
        # the payment that was listed before.
        self._open: dict[str, tuple[float, str | None]] = {}

    async def _pay(self, bolt11: str, said: Bolt11, msat: int, before: ListedPayment, fee_limit_msat: int) -> Payment:
        if fee_of(msat) > fee_limit_msat:
            raise WalletError(
                "failed",
                f"phoenixd's fee is 0.4 % and 4 sat: {fee_of(msat)} msat for {msat} msat, and the limit is "
                f"{fee_limit_msat} msat; payouts.fee_sats = 7 lets it pay any amount",
            )
        payment_hash = said.payment_hash
        self._note(payment_hash, before.id)
        try:
            told = await self._rest.call("POST", "/payinvoice", data={"invoice": bolt11}, timeout=self._timeout)
        except NotSent:
            self._ended(payment_hash)
            raise
        except Refused as refused:
            if refused.status == 401:
                self._ended(payment_hash)
                raise WalletError(
                    "restricted", "this password may not pay: take http-password of phoenix.conf, not the limited one"
                ) from None
            return await self._outcome(payment_hash, before, refused, over=refused.status in _NOT_DONE)
        except WalletError as error:
            return await self._outcome(payment_hash, before, error, over=False)
        if isinstance(told, dict) and opens(told.get("paymentPreimage"), payment_hash):
            return await self._sent(payment_hash, told)
        reason, over = _refused(told)
        return await self._outcome(payment_hash, before, reason, over=over)

    async def _sent(self, payment_hash: str, told: dict[str, Any]) -> Payment:
        """Its answer has the fee in whole sats; the books have it in msat."""
        self._ended(payment_hash)
        sats = told.get("routingFeeSat")
        fee = sats * 1000 if type(sats) is int and 0 <= sats * 1000 <= MAX_MSAT else 0
        try:
            listed = (await self._listed(payment_hash)).payment
            fee = listed.fee_msat if listed.state is InvoiceState.SETTLED else fee
        except WalletError as error:
            log.debug("wallet: a payment's exact fee cannot be learned: %s", error)
        return Payment(InvoiceState.SETTLED, fee, str(told["paymentPreimage"]))

    async def _ask_whether_it_may(self) -> bool:
        """The limited password may not even ask to pay."""
        try:
            await self._rest.call("POST", "/payinvoice", data={"invoice": ""})
        except Refused as refused:
            if refused.status not in (401, *_NOT_DONE):
                raise
            return refused.status != 401
        raise WalletError("untrustworthy", "payinvoice: done, without an invoice?")

    async def _listed(self, payment_hash: str) -> ListedPayment:
        try:
            entry = await self._rest.get(f"/payments/outgoingbyhash/{payment_hash}")
        except Refused as refused:
            if refused.status == 404 and _NO_ENDPOINT not in str(refused):
                return ListedPayment(Payment(InvoiceState.UNKNOWN, known=False))
            if refused.status == 404:
                raise WalletError(
                    "unsupported", "this phoenixd does not tell what became of a payment: 0.5 or newer is needed"
                ) from None
            raise
        if not isinstance(entry, dict) or entry.get("paymentHash") != payment_hash:
            raise WalletError("untrustworthy", "outgoingbyhash: an answer about something else")
        id_, fee = text_of(entry.get("paymentId")), entry.get("fees")
        if entry.get("isPaid") is True:
            fee = fee if type(fee) is int and 0 <= fee <= MAX_MSAT else 0
            preimage = entry.get("preimage")
            proof = str(preimage) if opens(preimage, payment_hash) else None
            return ListedPayment(Payment(InvoiceState.SETTLED, fee, proof), id_)
        over = entry.get("isPaid") is False and type(entry.get("completedAt")) is int
        return ListedPayment(Payment(InvoiceState.FAILED if over else InvoiceState.PENDING), id_)

    def _meant(self, payment_hash: str, listed: ListedPayment) -> Payment:
        until, before = self._open.get(payment_hash, (0.0, None))
        if listed.payment.state is InvoiceState.FAILED and listed.id == before and time.monotonic() < until:
            return Payment(InvoiceState.UNKNOWN)  # that is the one before
        return listed.payment

    def _has_failed(self, before: ListedPayment, listed: ListedPayment, over: bool) -> bool:
        return listed.id is not None and listed.id != before.id

    def _ended(self, payment_hash: str) -> None:
        self._open.pop(payment_hash, None)

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
