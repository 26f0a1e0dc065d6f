"""The life of a job, as a pure function: `state, happening → state, effects`. No clock, no I/O.

    received ─▶ quoted ─▶ paid ─▶ running ─▶ delivered
       │          │         │        ├─▶ failed     hold voided, customer credited, error published
       │          │         │        └─▶ cancelled  used tokens billed, rest credited
       ▼          ▼         └─▶ waiting for another job's result
    rejected   expired | cancelled

A job that is sold on a hold invoice is paid by a promise: money that waits at the wallet until we reveal the
preimage. Then nothing is held or billed before the answer is there, and the answer is not seen before the
money is ours:

    quoted ─▶ paid ─▶ running ─▶ settling ─▶ delivered     the preimage is revealed, then the answer
                        │           └─▶ failed             the promise was lost before we could settle
                        └─▶ failed | cancelled             the money is sent back

The engine carries the effects out, each arrow in one database transaction; the ledger refuses an arrow
that starts from a state which the job has meanwhile left.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from dvm.ledger import JobState


class Effect(Enum):
    """What the engine does on the way into the new state."""

    PREPARE = auto()  # read the request, count its tokens, price it
    QUOTE = auto()  # store and publish the invoice
    HOLD = auto()  # set the most that it can cost aside
    RUN = auto()  # run the model
    STOP = auto()  # stop the model; how that ends is a happening of its own
    POST = auto()  # bill what was used, return the rest, publish
    VOID = auto()  # return the whole hold, publish the error
    RELEASE = auto()  # give the job back, to be run again
    CLOSE = auto()  # end it without money, publish the error if its author should know
    CREDIT = auto()  # the payment stands on the customer's balance, and a receipt says so
    REPEAT = auto()  # publish the stored answers again
    FINISH = auto()  # store the answer, unseen
    SETTLE = auto()  # reveal the preimage to the wallet; its look-up says how that ended
    REFUND = auto()  # cancel the hold invoice: the money goes back


# Happenings


@dataclass(frozen=True, slots=True)
class Covered:
    """It is free, or the customer's balance covers it."""


@dataclass(frozen=True, slots=True)
class Priced:
    """An invoice over the quote was made."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Admission, the request itself or its price rules it out."""


@dataclass(frozen=True, slots=True)
class Settled:
    """Our own wallet confirms a payment for this job; `enough` says whether it covers the quote."""

    enough: bool = True


@dataclass(frozen=True, slots=True)
class Held:
    """The wallet says that the money of a hold invoice waits. `enough`: it covers the quote; `late`: it goes
    back within so few blocks that no work may be begun, or gone on with, for it."""

    enough: bool = True
    late: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """The wallet says that a hold invoice was cancelled or has expired: nothing can be settled any more."""


@dataclass(frozen=True, slots=True)
class TimeUp:
    """The quote's time is over, and the wallet says that it was not paid."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """The job's author deleted it (kind 5)."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A place among the running jobs is free."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The model gave an answer, perhaps a shortened one; `promised`: for money that still waits."""

    promised: bool = False


@dataclass(frozen=True, slots=True)
class Stopped:
    """The customer cancelled, and the model was stopped, unless none had `begun`: it waited for its place, say."""

    promised: bool = False
    begun: bool = True


@dataclass(frozen=True, slots=True)
class Deserted:
    """The model was stopped because the promise that paid for it was lost, or is about to be."""


@dataclass(frozen=True, slots=True)
class UsedUp:
    """The model thought until the customer's own limit was met, and said nothing."""

    promised: bool = False


@dataclass(frozen=True, slots=True)
class Broke:
    """The model gave no answer; `again` says whether another attempt may help and is left."""

    again: bool


@dataclass(frozen=True, slots=True)
class ShutDown:
    """The daemon ends before the model did."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """The daemon started and found the job in this state; `attempts_left` after those that were begun."""

    attempts_left: bool = True


@dataclass(frozen=True, slots=True)
class AskedAgain:
    """The customer published the request once more."""


Happening = (
    Covered
    | Priced
    | Refused
    | Settled
    | Held
    | Lost
    | TimeUp
    | Deleted
    | Claimed
    | Answered
    | Stopped
    | Deserted
    | UsedUp
    | Broke
    | ShutDown
    | Restarted
    | AskedAgain
)


@dataclass(frozen=True, slots=True)
class Step:
    """Where the job goes and what is to be done."""

    state: JobState
    effects: tuple[Effect, ...] = ()


FINAL = frozenset({JobState.DELIVERED, JobState.FAILED, JobState.CANCELLED, JobState.REJECTED, JobState.EXPIRED})


def step(state: JobState, happening: Happening) -> Step:
    """What follows. A happening that means nothing in this state changes nothing: relays repeat
    themselves, and a customer may cancel what has long been delivered."""
    match state, happening:
        case JobState.RECEIVED, Covered():
            return Step(JobState.PAID, (Effect.HOLD, Effect.RUN))
        case JobState.RECEIVED, Priced():
            return Step(JobState.QUOTED, (Effect.QUOTE,))
        case JobState.RECEIVED, Refused():
            return Step(JobState.REJECTED, (Effect.CLOSE,))
        case JobState.RECEIVED, Restarted():
            return Step(state, (Effect.PREPARE,))
        case JobState.RECEIVED | JobState.QUOTED, Deleted():
            return Step(JobState.CANCELLED, (Effect.CLOSE,))
        case JobState.QUOTED, Settled(enough=True):
            return Step(JobState.PAID, (Effect.HOLD, Effect.RUN))
        case JobState.QUOTED, TimeUp():
            return Step(JobState.EXPIRED, (Effect.CLOSE,))
        case JobState.QUOTED, Held(enough=True, late=False):
            return Step(JobState.PAID, (Effect.RUN,))
        case JobState.QUOTED, Held():
            return Step(state, (Effect.REFUND,))
        case JobState.PAID | JobState.WAITING, Held(late=True):
            return Step(JobState.FAILED, (Effect.VOID, Effect.REFUND))
        case JobState.PAID | JobState.WAITING, Lost():
            return Step(JobState.FAILED, (Effect.VOID,))
        case JobState.RUNNING, Held(late=True) | Lost():
            return Step(state, (Effect.STOP,))
        case JobState.SETTLING, Held() | Restarted():
            return Step(state, (Effect.SETTLE,))
        case JobState.SETTLING, Settled():
            return Step(JobState.DELIVERED, (Effect.POST,))
        case JobState.SETTLING, Lost():
            return Step(JobState.FAILED, (Effect.VOID,))
        case _, Held() if state in FINAL:
            return Step(state, (Effect.REFUND,))
        case _, Settled():  # too little, too late or twice (money.md, case 16)
            return Step(state, (Effect.CREDIT,))
        case JobState.PAID | JobState.WAITING, Deleted():
            return Step(JobState.CANCELLED, (Effect.VOID,))
        case JobState.PAID, Claimed():
            return Step(JobState.RUNNING, (Effect.RUN,))
        case JobState.PAID, Restarted():
            return Step(state, (Effect.RUN,))
        case JobState.RUNNING, Deleted():
            return Step(state, (Effect.STOP,))
        case JobState.RUNNING, Stopped(promised=True):
            return Step(JobState.CANCELLED, (Effect.VOID, Effect.REFUND))
        case JobState.RUNNING, Deserted() | UsedUp(promised=True):  # no answer, no charge
            return Step(JobState.FAILED, (Effect.VOID, Effect.REFUND))
        case JobState.RUNNING, Answered(promised=True):
            return Step(JobState.SETTLING, (Effect.FINISH, Effect.SETTLE))
        case JobState.RUNNING, Stopped(begun=False):
            return Step(JobState.CANCELLED, (Effect.VOID,))
        case JobState.RUNNING, Stopped():
            return Step(JobState.CANCELLED, (Effect.POST,))
        case JobState.RUNNING, UsedUp():  # what the customer let it use is billed (money.md, case 12)
            return Step(JobState.FAILED, (Effect.POST,))
        case JobState.RUNNING, Answered():
            return Step(JobState.DELIVERED, (Effect.POST,))
        case JobState.RUNNING, Broke(again=True) | Restarted(attempts_left=True):
            return Step(JobState.PAID, (Effect.RELEASE, Effect.RUN))
        case JobState.RUNNING, Broke() | Restarted():
            return Step(JobState.FAILED, (Effect.VOID,))
        case JobState.RUNNING, ShutDown():
            return Step(JobState.PAID, (Effect.RELEASE,))
        case (JobState.QUOTED, AskedAgain()) | (_, AskedAgain()) if state in FINAL or state is JobState.QUOTED:
            return Step(state, (Effect.REPEAT,))
    return Step(state)
