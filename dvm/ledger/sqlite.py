"""The embedded store: SQLite in WAL mode, one writer thread, many readers."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

from sqlite_utils import Database

from dvm.ledger import money, queries
from dvm.ledger.base import (
    HOLDING,
    UNPAID,
    Balance,
    ConflictError,
    Deposit,
    Entry,
    Job,
    JobState,
    Metered,
    Opened,
    Outgoing,
    PendingPayment,
    Posting,
    Publication,
    ReceiptMaker,
    Received,
    StoreError,
    Terms,
    UsageRow,
)
from dvm.ledger.schema import migrations
from dvm.ledger.writer import Writer

T = TypeVar("T")
FILE = "dvm.db"

_CLAIM = """UPDATE jobs SET state = 'running', attempts = attempts + 1, lease_until = ?, stamp = max(stamp + 1, ?)
    WHERE id = ? AND state = 'paid' RETURNING """
_CLAIM += queries.JOB_COLUMNS


class SqliteStore:
    """`Store` on one SQLite file. Open it with `SqliteStore.open`, inside a running event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = Writer(lambda: _connect(path))

    @classmethod
    async def open(cls, directory: Path) -> SqliteStore:
        """Open the database in `directory`, made if missing, migrated if old. Raises StoreError."""
        path = directory / FILE
        await asyncio.to_thread(_prepare, path)
        return cls(path)

    async def close(self) -> None:
        await self._writer.close()

    # Jobs

    async def open_job(self, job: Job) -> Opened:
        def operation(db: sqlite3.Connection) -> Opened:
            available, known, deleted = db.execute(
                "SELECT (SELECT msat FROM accounts WHERE name = ?), (SELECT state FROM jobs WHERE id = ?),"
                " EXISTS (SELECT 1 FROM deletions WHERE job = ? AND customer = ?)",
                (money.customer(job.customer), job.id, job.id, job.customer),
            ).fetchone()
            if known:
                return Opened(JobState(known), available or 0)
            state = JobState.CANCELLED if deleted else job.state
            db.execute(
                "INSERT INTO jobs (id, customer, kind, state, request, received_at, stamp)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (job.id, job.customer, job.kind, state, job.request, job.received_at, job.stamp),
            )
            return Opened(state if deleted else None, available or 0)

        return await self._writer.submit(operation)

    async def cancel_before(self, job_id: str, customer: str, at: int) -> None:
        def operation(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO deletions VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (job_id, customer, at))

        await self._writer.submit(operation)

    async def hold(self, job_id: str, terms: Terms, at: int) -> bool:
        def operation(db: sqlite3.Connection) -> bool:
            job = _job_in(db, job_id, {JobState.RECEIVED})
            if terms.msat > money.available(db, job.customer):
                return False
            _set_terms(db, job_id, JobState.PAID, terms, None, job.stamp)
            money.open_hold(db, job_id, job.customer, terms.msat, at)
            return True

        return await self._writer.submit(operation)

    async def quote(
        self, job_id: str, terms: Terms, payment: PendingPayment, publication: Publication, stamp: int
    ) -> None:
        def operation(db: sqlite3.Connection) -> None:
            _set_terms(db, job_id, JobState.QUOTED, terms, payment.expires_at, stamp)
            db.execute(
                "INSERT INTO payments (payment_hash, source, customer, job, bolt11, msat, created_at, expires_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    payment.payment_hash,
                    payment.source,
                    payment.customer,
                    payment.job,
                    payment.bolt11,
                    payment.msat,
                    payment.created_at,
                    payment.expires_at,
                ),
            )
            _store(db, job_id, (publication,), stamp)

        await self._writer.submit(operation)

    async def claim(self, job_id: str, lease_until: int, at: int) -> Job:
        def operation(db: sqlite3.Connection) -> Job:
            row = db.execute(_CLAIM, (lease_until, at, job_id)).fetchone()
            if row is None:
                raise ConflictError(f"job {job_id} has moved on")
            return queries.job_of(row)

        return await self._writer.submit(operation, early=True)

    async def renew(self, job_ids: Collection[str], lease_until: int) -> None:
        def operation(db: sqlite3.Connection) -> None:
            db.executemany(
                "UPDATE jobs SET lease_until = ? WHERE id = ? AND state = 'running'",
                [(lease_until, job_id) for job_id in job_ids],
            )

        await self._writer.submit(operation, early=True)

    async def release(self, job_id: str, *, attempted: bool, stamp: int = 0) -> None:
        def operation(db: sqlite3.Connection) -> None:
            done = db.execute(
                "UPDATE jobs SET state = 'paid', lease_until = NULL, attempts = max(0, attempts - ?),"
                " stamp = max(stamp, ?) WHERE id = ? AND state = 'running'",
                (0 if attempted else 1, stamp, job_id),
            )
            _moved(done, job_id)

        await self._writer.submit(operation, early=True)

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
        def operation(db: sqlite3.Connection) -> None:
            _job_in(db, job_id, states)
            _end(db, job_id, to, reason, None, stamp)
            _store(db, job_id, publications, at)

        await self._writer.submit(operation, early=True)

    # Money

    async def deposit(self, payment_hash: str, msat: int, at: int, credit: ReceiptMaker) -> Deposit | None:
        if msat <= 0:
            raise ValueError("a deposit is a positive number of msat")

        def operation(db: sqlite3.Connection) -> Deposit | None:
            row = db.execute(
                "SELECT source, customer, job, received_msat FROM payments WHERE payment_hash = ?",
                (payment_hash,),
            ).fetchone()
            if row is None:
                return None
            source, customer, job_id, before = row
            if before is not None:
                return Deposit(customer, job_id, before, fresh=False, paid=False)
            money.transfer(db, "invoice", payment_hash, money.WALLET, money.customer(customer), msat, at)
            db.execute(
                "UPDATE payments SET received_msat = ?, settled_at = ? WHERE payment_hash = ?",
                (msat, at, payment_hash),
            )
            paid = job_id is not None and _pay_job(db, job_id, msat, at)
            if not paid:
                received = Received(source, payment_hash, msat)
                receipt = money.add_receipt(db, customer, job_id, 0, (received,), credit, at)
                _store(db, None, (receipt,), at)
            return Deposit(customer, job_id, msat, fresh=True, paid=paid)

        return await self._writer.submit(operation)

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

        def operation(db: sqlite3.Connection) -> Posting:
            job = _job_in(db, job_id, {JobState.RUNNING})
            billed, change = money.post_hold(db, job_id, min(cost, job.quote_msat), at)
            result = next((each.id for each in publications if each.role == "result"), None)
            _end(db, job_id, to, reason, result, stamp)
            _store(db, job_id, publications, at)
            _meter(db, job, used, billed, at)
            payments = money.unnamed(db, job_id)
            made = money.add_receipt(db, job.customer, job_id, billed, payments, receipt, at)
            _store(db, job_id, (made,), at)
            return Posting(billed, change)

        return await self._writer.submit(operation)

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
        def operation(db: sqlite3.Connection) -> None:
            job = _job_in(db, job_id, states)
            money.void_hold(db, job_id, at)
            _end(db, job_id, to, reason, None, stamp)
            _store(db, job_id, publications, at)
            if used is not None:
                _meter(db, job, used, 0, at)
            payments = money.unnamed(db, job_id)
            if payments or used is not None:
                made = money.add_receipt(db, job.customer, job_id, 0, payments, receipt, at)
                _store(db, job_id, (made,), at)

        await self._writer.submit(operation)

    # The outbox

    async def published(self, ids: Collection[str], at: int) -> None:
        def operation(db: sqlite3.Connection) -> None:
            db.executemany(
                "UPDATE outbox SET sent_at = ? WHERE id = ? AND sent_at IS NULL", [(at, each) for each in ids]
            )

        # Early: an event that is published again is the same event.
        await self._writer.submit(operation, early=True)

    async def outbox(self, limit: int, skip: Collection[str] = ()) -> list[Outgoing]:
        # Asked of the writer, and answered after its commit: nothing may leave that could still be undone.
        return await self._writer.submit(lambda db: queries.unsent(db, limit, skip))

    async def answers(self, job_id: str) -> list[Outgoing]:
        return await self._read(lambda db: queries.answers(db, job_id))

    # Looking things up

    async def job(self, job_id: str) -> Job | None:
        # Asked of the writer, which alone sees what it has not committed yet.
        return await self._writer.submit(lambda db: queries.find_job(db, job_id), early=True)

    async def jobs(self, states: Collection[JobState], limit: int = 100_000) -> list[Job]:
        return await self._read(lambda db: queries.jobs(db, states, limit))

    async def quoted(self) -> dict[str, int]:
        return await self._read(queries.quoted)

    async def overdue(self, at: int, limit: int) -> list[tuple[str, str]]:
        return await self._read(lambda db: queries.overdue(db, at, limit))

    async def watched(self, at: int) -> list[PendingPayment]:
        return await self._read(lambda db: queries.watched(db, at))

    async def balance(self, customer: str) -> Balance:
        return await self._read(lambda db: queries.balance(db, customer))

    async def statement(self, customer: str, limit: int = 1000) -> list[Entry]:
        return await self._read(lambda db: queries.statement(db, customer, limit))

    async def accounts(self) -> dict[str, int]:
        return await self._read(queries.accounts)

    async def report(self, since: int) -> list[UsageRow]:
        return await self._read(lambda db: queries.report(db, since))

    async def recall(self, key: str) -> str | None:
        return await self._read(lambda db: queries.recall(db, key))

    async def remember(self, key: str, value: str) -> None:
        def operation(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT INTO facts VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (key, value),
            )

        await self._writer.submit(operation)

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(_read_once, self._path, query)


def read(directory: Path, query: Callable[[sqlite3.Connection], T]) -> T:
    """One query on the database in `directory`, beside a running daemon. Raises StoreError."""
    path = directory / FILE
    if not path.exists():
        raise StoreError(f"there is no database in {directory} yet: `dvm run` makes it")
    return _read_once(path, query)


def _read_once(path: Path, query: Callable[[sqlite3.Connection], T]) -> T:
    try:
        db = _connect(path)
        try:
            db.execute("PRAGMA query_only = ON")
            return query(db)
        finally:
            db.close()
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
            migrations.apply(db)
        finally:
            db.close()
        path.chmod(0o600)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{path}: {error}") from error


def _job_in(db: sqlite3.Connection, job_id: str, states: Collection[JobState]) -> Job:
    job = queries.find_job(db, job_id)
    if job is None or job.state not in states:
        raise ConflictError(f"job {job_id} is {job.state if job else 'unknown'}")
    return job


def _moved(cursor: sqlite3.Cursor, job_id: str) -> None:
    if cursor.rowcount == 0:
        raise ConflictError(f"job {job_id} has moved on")


def _pay_job(db: sqlite3.Connection, job_id: str, msat: int, at: int) -> bool:
    job = queries.find_job(db, job_id)
    if job is None or job.state is not JobState.QUOTED or msat < job.quote_msat:
        return False
    # All of it, also what is more than the quote: until its receipt names the payment, it pays for nothing else.
    money.open_hold(db, job_id, job.customer, msat, at)
    db.execute("UPDATE jobs SET state = 'paid' WHERE id = ?", (job_id,))
    return True


def _set_terms(
    db: sqlite3.Connection, job_id: str, state: JobState, terms: Terms, expires_at: int | None, stamp: int
) -> None:
    done = db.execute(
        "UPDATE jobs SET state = ?, model = ?, price = ?, input_tokens = ?, max_output = ?, quote_msat = ?,"
        " expires_at = ?, stamp = ? WHERE id = ? AND state = 'received'",
        (state, terms.model, terms.price, terms.input_tokens, terms.max_output, terms.msat, expires_at, stamp, job_id),
    )
    _moved(done, job_id)


def _end(db: sqlite3.Connection, job_id: str, to: JobState, reason: str | None, result: str | None, stamp: int) -> None:
    # What was refused is known by its id for ever, but not kept: strangers choose how much they send.
    db.execute(
        "UPDATE jobs SET state = ?1, reason = ?2, result = ?3, stamp = max(stamp, ?4), lease_until = NULL,"
        " request = CASE WHEN ?1 = 'rejected' THEN '' ELSE request END WHERE id = ?5",
        (to, reason, result, stamp, job_id),
    )


def _store(db: sqlite3.Connection, job_id: str | None, publications: Sequence[Publication], at: int) -> None:
    for each in publications:
        db.execute(
            "INSERT INTO outbox (id, job, role, payload, relays, at) VALUES (?, ?, ?, ?, ?, ?)",
            (each.id, job_id, each.role, each.payload, json.dumps(each.relays) if each.relays else "[]", at),
        )


def _meter(db: sqlite3.Connection, job: Job, used: Metered, msat: int, at: int) -> None:
    db.execute(
        "INSERT INTO usage (job, kind, model, input, cached, output, thoughts, estimated, finish, msat, at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            job.id,
            job.kind,
            used.model,
            used.input,
            used.cached,
            used.output,
            used.thoughts,
            used.estimated,
            used.finish,
            msat,
            at,
        ),
    )
