"""A payment as LNbits tells of it, read with suspicion: one row, and what it means for us."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from dvm.lightning.base import UNKNOWN, InvoiceState, Lookup, Payment
from dvm.lightning.bolt11 import MAX_MSAT
from dvm.lightning.checks import hash_of
from dvm.lightning.nip47 import opens

_STATES: Mapping[str, InvoiceState] = {
    "success": InvoiceState.SETTLED,
    "pending": InvoiceState.PENDING,
    "failed": InvoiceState.FAILED,
}
_TIME_CHARS = 40  # of an ISO 8601 time


class InvalidRow(Exception):
    """What LNbits told is no payment, or makes no sense."""


@dataclass(frozen=True, slots=True)
class Row:
    """`msat` is positive for what was received, negative for what was paid. `changed_at`: when LNbits last
    touched it, by LNbits' clock; of a settled one, when it settled."""

    payment_hash: str
    msat: int
    fee_msat: int
    state: InvoiceState
    changed_at: float | None = None
    bolt11: str = ""
    preimage: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, raw: object) -> Row:
        """Raises InvalidRow."""
        if not isinstance(raw, dict):
            raise InvalidRow("a payment that is no object")
        payment_hash, msat = hash_of(raw.get("payment_hash")), raw.get("amount")
        fee, status = raw.get("fee"), raw.get("status")
        if payment_hash is None:
            raise InvalidRow("a payment without a hash")
        if type(msat) is not int or not 0 < abs(msat) <= MAX_MSAT:
            raise InvalidRow("a payment without an amount")
        preimage, bolt11 = raw.get("preimage"), raw.get("bolt11")
        return cls(
            payment_hash,
            msat,
            abs(fee) if type(fee) is int and abs(fee) <= MAX_MSAT else 0,
            _STATES.get(status, InvoiceState.UNKNOWN) if isinstance(status, str) else InvoiceState.UNKNOWN,
            _seconds(raw.get("updated_at")),
            bolt11 if isinstance(bolt11, str) else "",
            str(preimage) if opens(preimage, payment_hash) else None,
        )

    def received(self) -> Lookup:
        """What it says of an invoice of ours."""
        if self.msat <= 0 or self.state is InvoiceState.UNKNOWN:
            return UNKNOWN
        if self.state is not InvoiceState.SETTLED:
            return Lookup(self.state)
        return Lookup(self.state, self.msat, None if self.changed_at is None else int(self.changed_at))

    def paid(self) -> Payment:
        """What it says of a payment of ours."""
        if self.msat >= 0:
            return Payment(InvoiceState.UNKNOWN, known=False)
        if self.state is InvoiceState.SETTLED:
            return Payment(self.state, self.fee_msat, self.preimage)
        return Payment(self.state)


def _seconds(value: object) -> float | None:
    """A time of LNbits: ISO 8601, UTC where it names no zone."""
    if not isinstance(value, str) or len(value) > _TIME_CHARS:
        return None
    try:
        told = datetime.fromisoformat(value)
        return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
