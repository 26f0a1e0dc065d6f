"""What a store is told and tells: plain values and errors, of which `dvm.ledger.base` makes operations.

All amounts are integer msat, all times unix seconds, ids and public keys hex.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands; `dvm.jobs.transitions` says what leads from one to another."""

    RECEIVED = "received"
    QUOTED = "quoted"
    PAID = "paid"
    WAITING = "waiting"
    RUNNING = "running"
    SETTLING = "settling"
    DELIVERED = "delivered"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    EXPIRED = "expired"


UNPAID = frozenset({JobState.RECEIVED, JobState.QUOTED})
HOLDING = frozenset({JobState.PAID, JobState.WAITING, JobState.RUNNING})


class LedgerError(Exception):
    """The operation was refused; nothing of it was done."""


class ConflictError(LedgerError):
    """The job is no longer in the state that the operation starts from."""


class TooLittle(LedgerError):
    """The account does not hold what is to be paid out; nothing was reserved."""


class TooMuch(LedgerError):
    """More than may be paid out in a day; nothing was reserved."""


class StoreError(LedgerError):
    """The database itself failed (disk full, file damaged); nothing of the operation was done."""


@dataclass(frozen=True, slots=True)
class Job:
    """A stored job. `request` is the signed request, as JSON text; `stamp` the newest `created_at` used
    for an event of this job; `price` what `dvm.pricing.price_to_json` gave, as JSON text."""

    id: str
    customer: str
    kind: int
    state: JobState
    request: str
    received_at: int
    stamp: int
    model: str | None = None
    price: str | None = None
    input_tokens: int = 0
    max_output: int = 0
    quote_msat: int = 0
    expires_at: int | None = None
    attempts: int = 0
    lease_until: int | None = None
    reason: str | None = None
    result: str | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """What became of a job that came in. `known` is the state of one that had come before (CANCELLED, if its
    author deleted it first), None for a new one; `available` its customer's balance at that moment."""

    known: JobState | None
    available: int


@dataclass(frozen=True, slots=True)
class Terms:
    """What was quoted, and is therefore billed (money.md, rule 10)."""

    model: str
    price: str
    input_tokens: int
    max_output: int
    msat: int


@dataclass(frozen=True, slots=True)
class GatheredInputs:
    """What was gathered for a job before it was priced: a `digest` of it, to compare with when it runs; `prior`, the
    delivered job that it continues; and a keyed hash of the `session` that it belongs to."""

    digest: str
    prior: str | None = None
    session: str | None = None


@dataclass(frozen=True, slots=True)
class PendingPayment:
    """An invoice that was made for a job (or for a top-up: `job` None), to be watched for.

    `customer` is whose balance it is if it pays no job, "" for a gift, which is revenue; with a job it is stored
    as the job's, whoever pays.
    `hold`: a hold invoice, which only our preimage settles; it is for a job. `zap`: the signed zap request
    (9734) as JSON text, if a zap receipt is ours to publish.
    """

    payment_hash: str
    source: str
    customer: str
    job: str | None
    bolt11: str
    msat: int
    created_at: int
    expires_at: int
    hold: bool = False
    zap: str | None = None


@dataclass(frozen=True, slots=True)
class Unsettled:
    """The payments that may still settle, as a sweep asks for them: oldest first, made at or after `since`. `holds`
    are the hold invoices among them, and `idle` those whose job is a quote that nothing has paid yet."""

    payment_hashes: list[str]
    since: int
    holds: frozenset[str]
    idle: frozenset[str]


@dataclass(frozen=True, slots=True)
class Publication:
    """Signed bytes that must reach the relays, stored before they are sent and never made anew."""

    id: str
    role: str
    payload: str
    relays: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A publication that still waits in the outbox."""

    id: str
    job: str | None
    role: str
    payload: str
    relays: tuple[str, ...]
    created_at: int


@dataclass(frozen=True, slots=True)
class Received:
    """Money that a receipt names: where it came by (`bolt11`, `zap`, `l402`), its hash and amount."""

    source: str
    payment_hash: str
    msat: int


@dataclass(frozen=True, slots=True)
class Link:
    """A receipt's place in its customer's chain. `after = before + Σ payments − cost`."""

    seq: int
    prev: str | None
    before: int
    after: int
    cost: int
    payments: tuple[Received, ...]


ReceiptMaker = Callable[[Link], Publication]


@dataclass(frozen=True, slots=True)
class Metered:
    """What a run used, in tokens of disjoint classes, for the operator's reports."""

    model: str
    input: int = 0
    cached: int = 0
    output: int = 0
    thoughts: int = 0
    estimated: str = ""
    finish: str = ""


@dataclass(frozen=True, slots=True)
class Deposit:
    """What became of a settled payment: it paid `job` (now in state paid, or further on if a promise had paid it),
    or stands on the balance of `customer`. `fresh` is False when it had been credited before: nothing was changed
    then. Of a promise (`Store.accept`), `msat` waits at the wallet and `paid` says whether it pays its job."""

    customer: str
    job: str | None
    msat: int
    fresh: bool
    paid: bool


@dataclass(frozen=True, slots=True)
class Finished:
    """An answer that is ready and must not be seen before its hold invoice is settled: what `settle` bills
    and publishes, after whatever crash. `work` is text that the caller makes its receipt from."""

    answer: Publication
    cost: int
    used: Metered
    work: str


class PayoutState(StrEnum):
    """RESERVED: set aside, and perhaps sent. PAID and FAILED are what the wallet said for good; REFUSED
    never was reserved, and is kept so that the same request is not taken up again."""

    RESERVED = "reserved"
    PAID = "paid"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Payout:
    """A payment that leaves: a customer's withdrawal, or (`customer` None) the operator's, out of revenue.

    `id` is the id of the request (64 hex digits). `msat` goes to the payee; up to `fee_limit_msat` more is
    reserved for routing, of which `fee_msat` was used in the end (what is above the limit, the operator bears).
    `created_at` is when it was reserved by our own clock, since the daily limit goes by it. `relays` are where
    its answers go.
    """

    id: str
    customer: str | None
    bolt11: str
    payment_hash: str
    msat: int
    fee_limit_msat: int
    state: PayoutState
    created_at: int
    expires_at: int
    ended_at: int | None = None
    fee_msat: int = 0
    reason: str | None = None
    scheme: str | None = None
    relays: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Posting:
    """What a job cost in the end and what went back to the customer, in msat."""

    cost: int
    change: int


@dataclass(frozen=True, slots=True)
class Balance:
    """A customer's money: `available` admits jobs, `held` stands behind running ones, `leaving` is reserved
    for withdrawals that are under way."""

    available: int
    held: int
    leaving: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a customer's statement: a receipt."""

    seq: int
    receipt: str
    job: str | None
    at: int
    paid: int
    cost: int
    after: int


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Usage and earnings of one day (UTC, `YYYY-MM-DD`), kind and model; or, not `billed`, what models used that
    nobody paid for: `jobs` are then attempts that failed, and answers that were given back."""

    day: str
    kind: int
    model: str
    jobs: int
    input: int
    cached: int
    output: int
    thoughts: int
    msat: int
    billed: bool = True
