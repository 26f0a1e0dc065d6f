"""What a store offers: domain operations, each one transaction, none of them SQL-shaped.

SQLite is the embedded default (`dvm.ledger.sqlite`); another database fits behind the same operations
without touching a caller. All amounts are integer msat, all times unix seconds, ids and public keys hex.
The ledger knows neither Nostr nor HTTP: what must be published reaches it as finished bytes
(`Publication`), and a receipt as a function that it calls inside the transaction (`ReceiptMaker`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class JobState(StrEnum):
    """Where a job stands; `dvm.jobs.transitions` says what leads from one to another."""

    RECEIVED = "received"
    QUOTED = "quoted"
    PAID = "paid"
    WAITING = "waiting"
    RUNNING = "running"
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
class PendingPayment:
    """An invoice that was made for a job (or for a top-up: `job` None), to be watched for."""

    payment_hash: str
    source: str
    customer: str
    job: str | None
    bolt11: str
    msat: int
    created_at: int
    expires_at: int


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
    """What became of a settled payment: it paid `job` (now in state paid), or stands on the balance of
    `customer`. `fresh` is False when it had been credited before: nothing was changed then."""

    customer: str
    job: str | None
    msat: int
    fresh: bool
    paid: bool


@dataclass(frozen=True, slots=True)
class Posting:
    """What a job cost in the end and what went back to the customer, in msat."""

    cost: int
    change: int


@dataclass(frozen=True, slots=True)
class Balance:
    """A customer's money: `available` admits jobs, `held` stands behind running ones."""

    available: int
    held: int


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
    """Usage and earnings of one day (UTC, `YYYY-MM-DD`), kind and model."""

    day: str
    kind: int
    model: str
    jobs: int
    input: int
    cached: int
    output: int
    thoughts: int
    msat: int


class Store(Protocol):
    """The ledger, the jobs and the outbox. Every method that changes money returns only once it is durable.

    Each raises StoreError when the database fails, and ConflictError when the job has meanwhile moved on.
    """

    async def open_job(self, job: Job) -> Opened:
        """Remember a job for ever, unless it is known already."""
        ...

    async def cancel_before(self, job_id: str, customer: str, at: int) -> None:
        """Remember that `customer` deleted a job that has not come yet."""
        ...

    async def hold(self, job_id: str, terms: Terms, at: int) -> bool:
        """received → paid out of the customer's balance; False, with nothing changed, if it is too low."""
        ...

    async def quote(
        self, job_id: str, terms: Terms, payment: PendingPayment, publication: Publication, stamp: int
    ) -> None:
        """received → quoted, with the invoice to watch for and the quote to publish."""
        ...

    async def deposit(self, payment_hash: str, msat: int, at: int, credit: ReceiptMaker) -> Deposit | None:
        """Credit a payment that our wallet says is settled, once, and open the hold of the job that it pays.

        Late, too little, or for a job that is no longer open: it stands on the customer's balance, and
        `credit` makes the receipt that says so. None: no such payment is expected.
        """
        ...

    async def claim(self, job_id: str, lease_until: int, at: int) -> Job:
        """paid → running, one attempt more."""
        ...

    async def renew(self, job_ids: Collection[str], lease_until: int) -> None:
        """Keep the leases of jobs that are running."""
        ...

    async def release(self, job_id: str, *, attempted: bool, stamp: int = 0) -> None:
        """running → paid, to be run again; an attempt that was not the model's fault does not count. `stamp` is
        the newest that the attempt has used."""
        ...

    async def post(
        self,
        job_id: str,
        *,
        to: JobState,
        cost: int,
        used: Metered,
        publications: Sequence[Publication],
        receipt: ReceiptMaker,
        at: int,
        stamp: int,
        reason: str | None = None,
    ) -> Posting:
        """running → delivered or cancelled: bill at most the quote, return the rest, store what to publish."""
        ...

    async def void(
        self,
        job_id: str,
        *,
        to: JobState,
        reason: str,
        used: Metered | None,
        publications: Sequence[Publication],
        receipt: ReceiptMaker,
        at: int,
        stamp: int,
        states: Collection[JobState] = HOLDING,
    ) -> None:
        """paid, waiting or running (or only those of `states`) → failed or cancelled: the whole hold goes back.
        A receipt is made only if a payment or usage was involved."""
        ...

    async def close_unpaid(
        self,
        job_id: str,
        *,
        to: JobState,
        reason: str,
        publications: Sequence[Publication],
        at: int,
        stamp: int,
        states: Collection[JobState] = UNPAID,
    ) -> None:
        """received or quoted (or only those of `states`) → rejected, expired or cancelled. Its invoice is still
        watched for."""
        ...

    async def job(self, job_id: str) -> Job | None: ...

    async def jobs(self, states: Collection[JobState], limit: int = 100_000) -> list[Job]:
        """Jobs in any of these states, oldest first."""
        ...

    async def quoted(self) -> dict[str, int]:
        """How many quotes are open, by customer."""
        ...

    async def overdue(self, at: int, limit: int) -> list[tuple[str, str]]:
        """Job and payment hash of quotes whose time is up, oldest first."""
        ...

    async def watched(self, at: int) -> list[PendingPayment]:
        """Every payment that may still settle, oldest first."""
        ...

    async def outbox(self, limit: int, skip: Collection[str] = ()) -> list[Outgoing]:
        """What no relay has accepted yet, oldest first, without the events of these ids."""
        ...

    async def published(self, ids: Collection[str], at: int) -> None:
        """Some relay has accepted these."""
        ...

    async def answers(self, job_id: str) -> list[Outgoing]:
        """Everything that was published for a job, oldest first."""
        ...

    async def balance(self, customer: str) -> Balance: ...

    async def statement(self, customer: str, limit: int = 1000) -> list[Entry]:
        """The customer's receipts, newest first."""
        ...

    async def accounts(self) -> dict[str, int]:
        """Totals in msat: wallet, customers, held, revenue, fees. Their sum is zero."""
        ...

    async def report(self, since: int) -> list[UsageRow]: ...

    async def recall(self, key: str) -> str | None:
        """A small fact that must survive a restart (a cursor, say)."""
        ...

    async def remember(self, key: str, value: str) -> None: ...

    async def close(self) -> None:
        """Finish what was begun and close. Safe to call twice."""
        ...
