"""Paying with LND: SendPaymentV2, and TrackPaymentV2 wherever that leaves doubt.

LND pays a payment hash once: it refuses a second attempt while one is under way or has succeeded, and takes one only
after the last has failed for good. Each attempt has an index of its own, which tells a new one's failure from an old.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from dataclasses import dataclass

from dvm.lightning.base import InvoiceState, Payment, WalletError
from dvm.lightning.bolt11 import MAX_MSAT
from dvm.lightning.checks import hash_of, payable, text_of
from dvm.lightning.lnd_client import LndClient, for_path, is_unknown_thing, number
from dvm.lightning.nip47 import opens
from dvm.lightning.rest import NotSent, Refused

log = logging.getLogger(__name__)

_SEND = "/v2/router/send"
_GRACE = 5.0  # seconds, at most, for LND to tell that its own time is over
_DOUBTS = 10_000
_STATES = {
    "INITIATED": InvoiceState.PENDING,
    "IN_FLIGHT": InvoiceState.PENDING,
    "SUCCEEDED": InvoiceState.SETTLED,
    "FAILED": InvoiceState.FAILED,
}
_NEVER_HEARD_OF = Payment(InvoiceState.UNKNOWN, known=False)
_UNKNOWN = Payment(InvoiceState.UNKNOWN)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What LND says of a payment hash. `index` counts its payments; `reason` is why this one failed."""

    payment: Payment
    index: int
    reason: str

    @classmethod
    def parse(cls, raw: dict[str, object], payment_hash: str) -> _Attempt:
        """Raises WalletError `untrustworthy`: also for a success without proof, which is neither a failure."""
        state = _STATES.get(text_of(raw.get("status")))
        if state is None or raw.get("payment_hash") != payment_hash:
            raise WalletError("untrustworthy", "lnd's payment is none, or another")
        fee, preimage = 0, None
        if state is InvoiceState.SETTLED:
            fee, preimage = number(raw, "fee_msat", MAX_MSAT), text_of(raw.get("payment_preimage"))
            if not opens(preimage, payment_hash):
                raise WalletError("untrustworthy", "lnd's preimage is not the invoice's")
        return cls(Payment(state, fee, preimage), number(raw, "payment_index"), text_of(raw.get("failure_reason")))


class Payments:
    """Outgoing payments. `patience`: seconds for which LND looks for routes, and is listened to."""

    def __init__(self, client: LndClient, patience: float) -> None:
        self._client, self._patience = client, patience
        self._doubts: dict[str, int] = {}  # payment hash → index of what had failed before an attempt got lost

    async def pay(self, bolt11: str, *, fee_limit_msat: int) -> Payment:
        """As `Wallet.pay`."""
        said, _ = payable(bolt11)
        if not 0 <= fee_limit_msat <= MAX_MSAT:
            raise WalletError("failed", f"a fee limit of {fee_limit_msat} msat")
        try:
            before = await self._track(said.payment_hash)
        except WalletError as error:
            if error.code != "unreachable":
                raise
            raise NotSent(str(error).partition(": ")[2]) from None
        if before is not None and before.payment.state is not InvoiceState.FAILED:
            return before.payment
        if said.expires_at <= time.time():
            raise WalletError("failed", "the invoice has expired")
        earlier = 0 if before is None else before.index
        refusal: WalletError | None = None
        try:
            attempt = await self._send(bolt11, said.payment_hash, fee_limit_msat)
            if attempt is not None:
                return _final(attempt)
        except NotSent:
            raise
        except Refused as error:
            # LND's own refusals are definite, "already paid" among them; a proxy's are not.
            refusal = None if error.code == "unreachable" or not error.body else error
        except WalletError as error:
            log.info("wallet: the outcome of a payment is open: %s", error)
        return await self._outcome(said.payment_hash, earlier, refusal)

    async def payment(self, payment_hash: str) -> Payment:
        """As `Wallet.payment`."""
        if hash_of(payment_hash) is None:
            return _UNKNOWN
        try:
            attempt = await self._track(payment_hash)
        except WalletError as error:
            log.debug("wallet: a payment cannot be looked up: %s", error)
            return _UNKNOWN
        if attempt is None:
            return _NEVER_HEARD_OF
        if attempt.payment.state is InvoiceState.FAILED and self._doubts.get(payment_hash) == attempt.index:
            return _NEVER_HEARD_OF  # that one failed before; of the attempt that got lost, LND knows nothing yet
        return attempt.payment

    async def _send(self, bolt11: str, payment_hash: str, fee_limit_msat: int) -> _Attempt | None:
        """The attempt once it is final, or None if it is not by the time that LND has. Raises WalletError."""
        order = {
            "payment_request": bolt11,
            "fee_limit_msat": str(fee_limit_msat),
            "timeout_seconds": max(int(self._patience), 1),
        }
        silence = self._patience + min(_GRACE, self._patience)
        try:
            async with (
                asyncio.timeout(silence),
                aclosing(self._client.updates("POST", _SEND, json=order, silence=silence)) as updates,
            ):
                async for raw in updates:
                    attempt = _Attempt.parse(raw, payment_hash)
                    if attempt.payment.state is not InvoiceState.PENDING:
                        return attempt
        except TimeoutError:
            log.info("wallet: a payment is still under way after %g s", silence)
        return None

    async def _outcome(self, payment_hash: str, earlier: int, refusal: WalletError | None) -> Payment:
        """What became of an attempt that LND has refused, or that got no final answer."""
        try:
            attempt = await self._track(payment_hash)
        except WalletError as error:
            log.debug("wallet: a payment cannot be looked up: %s", error)
            attempt = None
            known = True
        else:
            known = False
        if attempt is not None and attempt.index != earlier:
            return _final(attempt)
        if refusal is not None and not known:
            raise refusal
        if earlier:
            self._doubts[payment_hash] = earlier
            if len(self._doubts) > _DOUBTS:
                del self._doubts[next(iter(self._doubts))]
        return _UNKNOWN if known else _NEVER_HEARD_OF

    async def _track(self, payment_hash: str) -> _Attempt | None:
        """What LND knows of a payment now: the first of its updates. None if it has never heard of it. Raises
        WalletError."""
        path = f"/v2/router/track/{for_path(payment_hash)}"
        try:
            async with aclosing(self._client.updates("GET", path, silence=self._patience)) as updates:
                async for raw in updates:
                    return _Attempt.parse(raw, payment_hash)
        except WalletError as error:
            if is_unknown_thing(error):
                return None
            raise
        raise WalletError("untrustworthy", "lnd says nothing of a payment")


def _final(attempt: _Attempt) -> Payment:
    """Raises WalletError `insufficient` for a failure of that kind, since nothing has left."""
    if attempt.payment.state is InvoiceState.FAILED:
        if attempt.reason == "FAILURE_REASON_INSUFFICIENT_BALANCE":
            raise WalletError("insufficient", "lnd's channels cannot send that much")
        log.info("wallet: a payment has failed: %s", attempt.reason[:60])
    return attempt.payment
