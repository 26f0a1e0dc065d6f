"""The embedded store: SQLite in WAL mode, one writer thread, many readers."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

from sqlite_utils import Database

from dvm.ledger import conversations, jobs, outbox, payments, payouts, postings, promises, queries
from dvm.ledger.base import (
    HOLDING,
    UNPAID,
    Balance,
    Deposit,
    Entry,
    Finished,
    GatheredInputs,
    Job,
    JobState,
    Metered,
    Opened,
    Outgoing,
    Payout,
    PayoutState,
    PendingPayment,
    Posting,
    Publication,
    ReceiptMaker,
    StoreError,
    Terms,
    Unsettled,
    UsageRow,
)
from dvm.ledger.readers import Readers
from dvm.ledger.schema import migrations
from dvm.ledger.writer import Writer

T = TypeVar("T")
FILE = "dvm.db"


class SqliteStore:
    """`Store` on one SQLite file. Open it with `SqliteStore.open`, inside a running event loop.

    What an operation does is in the modules beside this one, as functions on a connection. Here stands which
    thread does it: the writer, where what is `early` may still be undone by a crash, or a reader's own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = Writer(lambda: _connect(path))
        self._readers = Readers(lambda: _connect(path))

    @classmethod
    async def open(cls, directory: Path) -> SqliteStore:
        """Open the database in `directory`, made if missing, migrated if old. Raises StoreError."""
        path = directory / FILE
        await asyncio.to_thread(_prepare, path)
        return cls(path)

    async def close(self) -> None:
        await self._writer.close()
        self._readers.close()

    # Jobs

    async def open_job(self, job: Job) -> Opened:
        return await self._writer.submit(lambda db: jobs.open_job(db, job))

    async def cancel_before(self, job_id: str, customer: str, at: int) -> None:
        await self._writer.submit(lambda db: jobs.cancel_before(db, job_id, customer, at))

    async def hold(self, job_id: str, terms: Terms, at: int) -> bool:
        return await self._writer.submit(lambda db: jobs.hold(db, job_id, terms, at))

    async def quote(
        self,
        job_id: str,
        terms: Terms,
        payment: PendingPayment | None,
        publication: Publication,
        stamp: int,
        expires_at: int | None = None,
    ) -> None:
        end = payment.expires_at if expires_at is None and payment is not None else expires_at
        if end is None:
            raise ValueError("a quote without an invoice has an end of its own")
        await self._writer.submit(lambda db: jobs.quote(db, job_id, terms, payment, publication, stamp, end))

    async def claim(self, job_id: str, lease_until: int, at: int) -> Job:
        return await self._writer.submit(lambda db: jobs.claim(db, job_id, lease_until, at), early=True)

    async def renew(self, job_ids: Collection[str], lease_until: int) -> None:
        await self._writer.submit(lambda db: jobs.renew(db, job_ids, lease_until), early=True)

    async def release(self, job_id: str, *, attempted: bool, stamp: int = 0) -> None:
        await self._writer.submit(lambda db: jobs.release(db, job_id, attempted, stamp), early=True)

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
        await self._writer.submit(
            lambda db: jobs.close_unpaid(db, job_id, to, reason, publications, at, stamp, states), early=True
        )

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
        if cost < 0:
            raise ValueError("a cost is not negative")
        return await self._writer.submit(
            lambda db: postings.post(
                db,
                jobs.job_in(db, job_id, {JobState.RUNNING}),
                to=to,
                cost=cost,
                used=used,
                publications=publications,
                receipt=receipt,
                at=at,
                stamp=stamp,
                reason=reason,
            )
        )

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
        await self._writer.submit(
            lambda db: postings.void(
                db,
                job_id,
                to=to,
                reason=reason,
                used=used,
                publications=publications,
                receipt=receipt,
                at=at,
                stamp=stamp,
                states=states,
            )
        )

    async def unbilled(self, job_id: str, used: Sequence[Metered], at: int) -> None:
        await self._writer.submit(lambda db: postings.unbilled(db, job_id, used, at), early=True)

    # Payments that come

    async def expect(self, payment: PendingPayment) -> bool:
        return await self._writer.submit(lambda db: payments.expect(db, payment))

    async def pending(self, payment_hash: str) -> PendingPayment | None:
        return await self._look(lambda db: queries.pending(db, payment_hash))

    async def deposit(
        self,
        payment_hash: str,
        msat: int,
        at: int,
        credit: ReceiptMaker,
        publications: Sequence[Publication] = (),
    ) -> Deposit | None:
        _positive(msat)
        return await self._writer.submit(lambda db: payments.deposit(db, payment_hash, msat, at, credit, publications))

    async def accept(self, payment_hash: str, msat: int) -> Deposit | None:
        return await self._writer.submit(lambda db: promises.accept(db, payment_hash, msat))

    async def promise(self, job_id: str) -> PendingPayment | None:
        return await self._look(lambda db: promises.promise(db, job_id))

    async def promises(self) -> list[tuple[PendingPayment, JobState]]:
        return await self._look(promises.promises)

    async def finish(self, job_id: str, finished: Finished, stamp: int) -> None:
        if finished.cost < 0:
            raise ValueError("a cost is not negative")
        await self._writer.submit(lambda db: promises.finish(db, job_id, finished, stamp))

    async def finished(self, job_id: str) -> Finished | None:
        return await self._look(lambda db: promises.finished(db, job_id))

    async def settle(self, job_id: str, msat: int, receipt: ReceiptMaker, at: int) -> Posting:
        _positive(msat)
        return await self._writer.submit(lambda db: postings.settle(db, job_id, msat, receipt, at))

    async def cancelled_hold(self, payment_hash: str, at: int) -> None:
        await self._writer.submit(lambda db: promises.cancelled(db, payment_hash, at))

    # Payments that leave

    async def reserve(self, payout: Payout, *, day_limit: int, publications: Sequence[Publication] = ()) -> bool:
        return await self._writer.submit(lambda db: payouts.reserve(db, payout, day_limit, publications))

    async def refuse_payout(self, payout: Payout, reason: str) -> None:
        await self._writer.submit(lambda db: payouts.refuse(db, payout, reason))

    async def payout(self, payout_id: str) -> Payout | None:
        return await self._look(lambda db: payouts.find(db, payout_id))

    async def payouts(self, states: Collection[PayoutState], limit: int = 10_000) -> list[Payout]:
        return await self._read(lambda db: payouts.in_states(db, states, limit))

    async def paid_out(
        self,
        payout_id: str,
        fee_msat: int,
        receipt: ReceiptMaker | None,
        publications: Sequence[Publication],
        at: int,
    ) -> bool:
        if fee_msat < 0:
            raise ValueError("a fee is not negative")
        return await self._writer.submit(
            lambda db: payouts.paid_out(db, payout_id, fee_msat, receipt, publications, at)
        )

    async def not_paid_out(self, payout_id: str, reason: str, publications: Sequence[Publication], at: int) -> bool:
        return await self._writer.submit(lambda db: payouts.not_paid_out(db, payout_id, reason, publications, at))

    # The outbox

    async def published(self, ids: Collection[str], at: int) -> None:
        # Early: an event that is published again is the same event.
        await self._writer.submit(lambda db: outbox.published(db, ids, at), early=True)

    async def outbox(self, limit: int, skip: Collection[str] = ()) -> list[Outgoing]:
        # Asked of the writer, and answered after its commit: nothing may leave that could still be undone.
        return await self._writer.submit(lambda db: outbox.unsent(db, limit, skip))

    async def answers(self, job_id: str) -> list[Outgoing]:
        return await self._read(lambda db: outbox.answers(db, job_id))

    async def job_of_event(self, event_id: str) -> str | None:
        return await self._read(lambda db: outbox.job_of(db, event_id))

    # Inputs and conversations

    async def gathered(self, job_id: str, inputs: GatheredInputs) -> None:
        # Early: as long as a crash may undo it, the job is not priced either, and gathers anew.
        await self._writer.submit(lambda db: conversations.gathered(db, job_id, inputs), early=True)

    async def gathered_digest(self, job_id: str) -> str | None:
        return await self._look(lambda db: conversations.digest(db, job_id))

    async def prior(self, job_id: str) -> Job | None:
        return await self._look(lambda db: conversations.prior(db, job_id))

    async def newest_of(self, session: str) -> Job | None:
        return await self._look(lambda db: conversations.newest(db, session))

    async def turns(self, job_id: str, limit: int) -> list[tuple[Job, str]]:
        return await self._look(lambda db: conversations.turns(db, job_id, limit))

    # Looking things up

    async def job(self, job_id: str) -> Job | None:
        return await self._look(lambda db: queries.find_job(db, job_id))

    async def jobs(self, states: Collection[JobState], limit: int = 100_000) -> list[Job]:
        return await self._read(lambda db: queries.jobs(db, states, limit))

    async def cancellable(self, limit: int) -> list[tuple[str, int]]:
        return await self._read(lambda db: queries.cancellable(db, limit))

    async def quoted(self) -> dict[str, int]:
        return await self._read(queries.quoted)

    async def overdue(self, at: int, limit: int) -> list[tuple[str, str | None]]:
        return await self._read(lambda db: queries.overdue(db, at, limit))

    async def watched(self, at: int) -> list[PendingPayment]:
        return await self._read(lambda db: queries.watched(db, at))

    async def unsettled(self, at: int) -> Unsettled:
        return await self._read(lambda db: queries.unsettled(db, at))

    async def balance(self, customer: str) -> Balance:
        return await self._read(lambda db: queries.balance(db, customer))

    async def statement(self, customer: str, limit: int = 1000, before: int | None = None) -> list[Entry]:
        return await self._read(lambda db: queries.statement(db, customer, limit, before))

    async def accounts(self) -> dict[str, int]:
        return await self._read(queries.accounts)

    async def report(self, since: int) -> list[UsageRow]:
        return await self._read(lambda db: queries.report(db, since))

    async def _look(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Ask the writer, which alone sees what it has not committed yet."""
        return await self._writer.submit(query, early=True)

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(_read, self._path, self._readers, query)


def read(directory: Path, query: Callable[[sqlite3.Connection], T]) -> T:
    """One query on the database in `directory`, beside a running daemon. Raises StoreError."""
    path = directory / FILE
    if not path.exists():
        raise StoreError(f"there is no database in {directory} yet: `dvm run` makes it")
    readers = Readers(lambda: _connect(path))
    try:
        return _read(path, readers, query)
    finally:
        readers.close()


def _read(path: Path, readers: Readers, query: Callable[[sqlite3.Connection], T]) -> T:
    try:
        return readers.run(query)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30, cached_statements=256)
    db.execute("PRAGMA foreign_keys = ON")
    # The pages of the indexes are read and written again and again: keep them (KiB), and let the log grow
    # (pages) before they are copied back.
    db.execute("PRAGMA cache_size = -32768")
    db.execute("PRAGMA wal_autocheckpoint = 8000")
    return db


def _prepare(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        db = Database(_connect(path))
        try:
            db.enable_wal()
            # A migration that builds a table anew cannot do so while others refer to it; it checks them itself.
            db.execute("PRAGMA foreign_keys = OFF")
            migrations.apply(db)
        finally:
            db.close()
        path.chmod(0o600)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{path}: {error}") from error


def _positive(msat: int) -> None:
    if msat <= 0:
        raise ValueError("a deposit is a positive number of msat")
