"""The life of a payment that leaves, as a pure function: `row, doubt, happening, now → step`. No I/O, no clock.

    reserved ─▶ pay ─▶ settled             charged: what was sent, and the fee up to its limit
       ▲         │ ├─▶ failed for good     all of it returns
       └── wait ◀┘ └─▶ nobody knows        stays reserved: look at it, or ask for it again
             └─▶ look ─▶ …

Money is returned only when it can no longer leave (money.md, rule 8 and case 15), and that hangs on one thing:
whether a request to pay may still be on its way to the wallet. `doubt` is when the last such request was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from dvm.ledger import Payout
from dvm.lightning.base import InvoiceState, Payment, WalletErrorCode

FORGOTTEN_SECONDS = 3600
"""A wallet that answers and has never heard of a payment is believed this long after the invoice has expired:
by then no request of ours is still on its way, and no clock so wrong that the invoice could be paid after all."""
QUIET_SECONDS = 120
"""A failure is believed this long after the last request to pay whose answer never came: of two requests, one
may have failed while the other is still under way."""
PATIENCE_SECONDS = 600
"""How long a payment that has certainly not been sent waits for a wallet that is too busy to take it."""


class Effect(Enum):
    """What the engine does next."""

    PAY = auto()  # ask the wallet to pay; that it never pays an invoice twice is its contract
    LOOK = auto()  # ask the wallet what became of it
    WAIT = auto()  # until its turn comes again
    CHARGE = auto()  # it was paid
    RETURN = auto()  # it never will be


@dataclass(frozen=True, slots=True)
class Due:
    """Its turn has come: just reserved, found in the database, or waited for long enough."""


@dataclass(frozen=True, slots=True)
class Said:
    """The wallet's answer to `pay`."""

    payment: Payment


@dataclass(frozen=True, slots=True)
class Declined:
    """`pay` raised: this request was not, and will not be, carried out."""

    code: WalletErrorCode


@dataclass(frozen=True, slots=True)
class Told:
    """The wallet's answer to `payment`, which asks what became of it."""

    payment: Payment


Happening = Due | Said | Declined | Told

ReturnCode = Literal["expired", "failed", "unavailable"]


@dataclass(frozen=True, slots=True)
class Step:
    """What to do, and `doubt` from now on: when (unix seconds) a request to pay was last made of which nobody
    knows the end, None while there is none. `fee_msat` goes with CHARGE, `code` with RETURN."""

    effect: Effect
    doubt: int | None
    fee_msat: int = 0
    code: ReturnCode = "failed"


def step(payout: Payout, doubt: int | None, happening: Happening, now: int) -> Step:
    """What follows for a reserved payout."""
    expired = now >= payout.expires_at
    match happening:
        case Said(payment) | Told(payment) if payment.state is InvoiceState.SETTLED:
            return Step(Effect.CHARGE, doubt, fee_msat=max(0, payment.fee_msat))
        case Said(payment) | Told(payment) if payment.state is InvoiceState.FAILED:
            if doubt is None or now >= doubt + QUIET_SECONDS:
                return Step(Effect.RETURN, doubt)
            return Step(Effect.WAIT, doubt)
        case Due() if doubt is not None:
            return Step(Effect.LOOK, doubt)
        case Due():  # certainly not sent
            return Step(Effect.RETURN, None, code="expired") if expired else Step(Effect.PAY, None)
        case Said():
            return Step(Effect.WAIT, now)
        case Declined(code):
            return _declined(payout, doubt, code, now)
        case Told(Payment(state=InvoiceState.UNKNOWN)) if not expired:
            return Step(Effect.PAY, doubt)
        case Told(Payment(state=InvoiceState.UNKNOWN, known=False)) if now >= payout.expires_at + FORGOTTEN_SECONDS:
            return Step(Effect.RETURN, doubt, code="expired")
        case _:  # under way, or not to be learned
            return Step(Effect.WAIT, doubt)


def _declined(payout: Payout, doubt: int | None, code: WalletErrorCode, now: int) -> Step:
    if code in ("unreachable", "untrustworthy"):  # no answer that says it was not done
        return Step(Effect.WAIT, now)
    if doubt is not None:  # this request was refused; an earlier one may have been carried out
        return Step(Effect.WAIT, doubt)
    if code == "rate_limited" and now < min(payout.expires_at, payout.created_at + PATIENCE_SECONDS):
        return Step(Effect.WAIT, None)
    passing = code in ("rate_limited", "quota", "insufficient", "unauthorized", "restricted", "unsupported")
    return Step(Effect.RETURN, None, code="unavailable" if passing else "failed")
