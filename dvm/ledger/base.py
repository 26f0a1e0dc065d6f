"""What a store offers: domain operations, each one transaction, none of them SQL-shaped.

SQLite is the embedded default (`dvm.ledger.sqlite`); another database fits behind the same operations
without touching a caller. All amounts are integer msat, all times unix seconds, ids and public keys hex.
The ledger knows neither Nostr nor HTTP: what must be published reaches it as finished bytes
(`Publication`), and a receipt as a function that it calls inside the transaction (`ReceiptMaker`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from dvm.ledger.records import (
    HOLDING,
    UNPAID,
    Balance,
    ConflictError,
    Deposit,
    Entry,
    Finished,
    GatheredInputs,
    Job,
    JobState,
    LedgerError,
    Link,
    Metered,
    Opened,
    Outgoing,
    Payout,
    PayoutState,
    PendingPayment,
    Posting,
    Publication,
    ReceiptMaker,
    Received,
    StoreError,
    Terms,
    TooLittle,
    TooMuch,
    Unsettled,
    UsageRow,
)

__all__ = [
    "HOLDING",
    "UNPAID",
    "Balance",
    "ConflictError",
    "Deposit",
    "Entry",
    "Finished",
    "GatheredInputs",
    "Job",
    "JobState",
    "LedgerError",
    "Link",
    "Metered",
    "Opened",
    "Outgoing",
    "Payout",
    "PayoutState",
    "PendingPayment",
    "Posting",
    "Publication",
    "ReceiptMaker",
    "Received",
    "Store",
    "StoreError",
    "Terms",
    "TooLittle",
    "TooMuch",
    "Unsettled",
    "UsageRow",
]


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
        self,
        job_id: str,
        terms: Terms,
        payment: PendingPayment | None,
        publication: Publication,
        stamp: int,
        expires_at: int | None = None,
    ) -> None:
        """received → quoted, with the invoice to watch for (None: only a zap can pay it, until `expires_at`)
        and the quote to publish."""
        ...

    async def expect(self, payment: PendingPayment) -> bool:
        """Watch for one more payment: a zap, or a top-up. False, with nothing changed, if its hash is known
        already, from whatever payment or payout: whom an invoice credits is fixed when it is first heard of.
        Raises LedgerError if its job is unknown."""
        ...

    async def pending(self, payment_hash: str) -> PendingPayment | None:
        """A payment that is or was watched for."""
        ...

    async def deposit(
        self,
        payment_hash: str,
        msat: int,
        at: int,
        credit: ReceiptMaker,
        publications: Sequence[Publication] = (),
    ) -> Deposit | None:
        """Credit a payment that our wallet says is settled, once, and open the hold of the job that it pays.

        Late, too little, or for a job that is no longer open: it stands on the customer's balance, and
        `credit` makes the receipt that says so. Should all that was paid towards the job which the payment names
        now cover its quote, and still be there, the job is paid with it; never with the rest of the balance, which
        a stranger's zap must not spend. The promise of a job that is still open stands behind that job
        and becomes its hold. `publications` (a zap receipt) are stored with it if it is fresh. None: no such
        payment is expected.
        """
        ...

    # Hold invoices: nothing is deposited before our preimage settles them.

    async def accept(self, payment_hash: str, msat: int) -> Deposit | None:
        """The HTLCs of a hold invoice are there: quoted → paid, by a promise; no money moves. `paid` False:
        its job does not need it any more, or it is too little, and the invoice is to be cancelled: that is final.
        Asked again (`fresh` False), `paid` says whether its job may still deliver. None: no such hold invoice."""
        ...

    async def promise(self, job_id: str) -> PendingPayment | None:
        """The accepted hold invoice that pays a job; None for a job that was paid in another way, and once the
        invoice is settled or cancelled."""
        ...

    async def promises(self) -> list[tuple[PendingPayment, JobState]]:
        """Every accepted hold invoice that is neither settled nor cancelled, with its job's state; also one that
        is settled whose job is still settling, and one that was refused whose job has ended."""
        ...

    async def finish(self, job_id: str, finished: Finished, stamp: int) -> None:
        """running → settling, for a job that is paid by a promise. Nothing is published. Raises ConflictError for
        another job, and if the promise was cancelled."""
        ...

    async def finished(self, job_id: str) -> Finished | None:
        """What `finish` stored, until the job ends."""
        ...

    async def settle(self, job_id: str, msat: int, receipt: ReceiptMaker, at: int) -> Posting:
        """settling → delivered: the wallet confirms that `msat` were settled. Deposit, hold and posting in
        one transaction with the answer and its receipt, which may now be published. Raises ConflictError when it
        was done before."""
        ...

    async def cancelled_hold(self, payment_hash: str, at: int) -> None:
        """The wallet confirms that a hold invoice was cancelled or has expired: it is watched no more."""
        ...

    # Payments that leave.

    async def reserve(self, payout: Payout, *, day_limit: int, publications: Sequence[Publication] = ()) -> bool:
        """Set `msat` + `fee_limit_msat` aside. False, with nothing changed, if its id is known, or its payment
        hash: from another payout that was not refused, or from a payment that we wait for or had. `day_limit`
        (msat, 0: none) bounds what one customer may reserve within 24 hours; the operator's payouts are not bound
        by it, but by the revenue. Raises TooLittle, TooMuch."""
        ...

    async def refuse_payout(self, payout: Payout, reason: str) -> None:
        """Remember that a request was refused, so that it is not taken up when it comes again."""
        ...

    async def payout(self, payout_id: str) -> Payout | None: ...

    async def payouts(self, states: Collection[PayoutState], limit: int = 10_000) -> list[Payout]:
        """Oldest first."""
        ...

    async def paid_out(
        self,
        payout_id: str,
        fee_msat: int,
        receipt: ReceiptMaker | None,
        publications: Sequence[Publication],
        at: int,
    ) -> bool:
        """reserved → paid: the wallet says that it has been paid, with this fee. The rest of the reserve
        returns; what the fee was above its limit is the operator's (`fees`). A customer's withdrawal is a link
        of the chain: `receipt` gets the payment with a negative amount, and must be there. False if it was ended
        before. Raises LedgerError if there is no such payout."""
        ...

    async def not_paid_out(self, payout_id: str, reason: str, publications: Sequence[Publication], at: int) -> bool:
        """reserved → failed: the wallet says that it never will be paid. All of it returns. False if it was
        ended before. Raises LedgerError if there is no such payout."""
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
        """running → delivered or cancelled: bill at most the quote, return the rest, store what to publish.
        Raises ConflictError for a job that is paid by a promise: see `finish`."""
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
        """paid, waiting or running (or only those of `states`, settling too) → failed or cancelled: the whole
        hold goes back. A receipt is made only if a payment or usage was involved, and money has moved or could
        have: a job that a promise paid has none, and its hold invoice is to be cancelled."""
        ...

    async def unbilled(self, job_id: str, used: Sequence[Metered], at: int) -> None:
        """Remember what attempts at a job used that nobody is billed for; no money moves."""
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

    # What jobs are about, and which of them continue others.

    async def gathered(self, job_id: str, inputs: GatheredInputs) -> None:
        """Remember what was gathered for a received job, until it ends, and what it continues, for ever if it is
        delivered; what was remembered for it before is replaced. Raises ConflictError also if what it continues is
        no delivered job of the same customer and kind."""
        ...

    async def gathered_digest(self, job_id: str) -> str | None:
        """That of what was gathered for a job, until it ends."""
        ...

    async def prior(self, job_id: str) -> Job | None:
        """The job that this one continues."""
        ...

    async def newest_of(self, session: str) -> Job | None:
        """The newest delivered job of a session, by its keyed hash."""
        ...

    async def turns(self, job_id: str, limit: int) -> list[tuple[Job, str]]:
        """A delivered job, the last of those that it continues, oldest first, each with the signed result ("" if
        it is lost); only the newest `limit` of them."""
        ...

    async def job(self, job_id: str) -> Job | None: ...

    async def jobs(self, states: Collection[JobState], limit: int = 100_000) -> list[Job]:
        """Jobs in any of these states, oldest first."""
        ...

    async def cancellable(self, limit: int) -> list[tuple[str, int]]:
        """Jobs that their customers may still cancel, and when each was received: those with money behind them
        first, then the newest."""
        ...

    async def quoted(self) -> dict[str, int]:
        """How many quotes are open, by customer."""
        ...

    async def overdue(self, at: int, limit: int) -> list[tuple[str, str | None]]:
        """Job and payment hash of quotes whose time is up, oldest first. One line a job: the hash is that of its
        invoice, else of a zap that has not settled, else None."""
        ...

    async def watched(self, at: int) -> list[PendingPayment]:
        """Every payment that may still settle, oldest first."""
        ...

    async def unsettled(self, at: int) -> Unsettled:
        """The same ones, without reading what is not needed again and again."""
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

    async def job_of_event(self, event_id: str) -> str | None:
        """The job whose quote or result this event is."""
        ...

    async def balance(self, customer: str) -> Balance: ...

    async def statement(self, customer: str, limit: int = 1000, before: int | None = None) -> list[Entry]:
        """The customer's receipts, newest first; with `before` only those of a lower number."""
        ...

    async def accounts(self) -> dict[str, int]:
        """Totals in msat: wallet, customers, held, leaving, revenue, fees. Their sum is zero."""
        ...

    async def report(self, since: int) -> list[UsageRow]: ...

    async def close(self) -> None:
        """Finish what was begun and close. Safe to call twice."""
        ...
