"""A job's steps on one connection, inside the caller's transaction; its end, where money moves, is in `postings`.

Each raises ConflictError when the job is not in the state that the step starts from.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from dvm.ledger import conversations, money, outbox, payments, queries
from dvm.ledger.base import ConflictError, Job, JobState, Opened, PendingPayment, Publication, Terms

_CLAIM = """UPDATE jobs SET state = 'running', attempts = attempts + 1, lease_until = ?, stamp = max(stamp + 1, ?)
    WHERE id = ? AND state = 'paid' RETURNING """
_CLAIM += queries.JOB_COLUMNS


def open_job(db: sqlite3.Connection, job: Job) -> Opened:
    """Remember a job for ever, unless it is known already."""
    available, known, deleted = db.execute(
        "SELECT (SELECT msat FROM accounts WHERE name = ?), (SELECT state FROM jobs WHERE id = ?),"
        " EXISTS (SELECT 1 FROM deletions WHERE job = ? AND customer = ?)",
        (money.customer(job.customer), job.id, job.id, job.customer),
    ).fetchone()
    if known:
        return Opened(JobState(known), available or 0)
    state = JobState.CANCELLED if deleted else job.state
    db.execute(
        "INSERT INTO jobs (id, customer, kind, state, request, received_at, stamp) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (job.id, job.customer, job.kind, state, job.request, job.received_at, job.stamp),
    )
    return Opened(state if deleted else None, available or 0)


def cancel_before(db: sqlite3.Connection, job_id: str, customer: str, at: int) -> None:
    """Remember that `customer` deleted a job that has not come yet."""
    db.execute("INSERT INTO deletions VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (job_id, customer, at))


def hold(db: sqlite3.Connection, job_id: str, terms: Terms, at: int) -> bool:
    """received → paid out of the customer's balance; False if it is too low."""
    job = job_in(db, job_id, {JobState.RECEIVED})
    if terms.msat > money.available(db, job.customer):
        return False
    _set_terms(db, job_id, JobState.PAID, terms, None, job.stamp)
    money.open_hold(db, job_id, job.customer, terms.msat, at)
    return True


def quote(
    db: sqlite3.Connection,
    job_id: str,
    terms: Terms,
    payment: PendingPayment | None,
    publication: Publication,
    stamp: int,
    expires_at: int,
) -> None:
    """received → quoted, with the invoice to watch for, if there is one."""
    _set_terms(db, job_id, JobState.QUOTED, terms, expires_at, stamp)
    if payment is not None:
        payments.add(db, payment)
    outbox.store(db, job_id, (publication,), stamp)


def claim(db: sqlite3.Connection, job_id: str, lease_until: int, at: int) -> Job:
    """paid → running, one attempt more."""
    row = db.execute(_CLAIM, (lease_until, at, job_id)).fetchone()
    if row is None:
        raise ConflictError(f"job {job_id} has moved on")
    return queries.job_of(row)


def renew(db: sqlite3.Connection, job_ids: Collection[str], lease_until: int) -> None:
    """Keep the leases of jobs that are running."""
    db.executemany(
        "UPDATE jobs SET lease_until = ? WHERE id = ? AND state = 'running'",
        [(lease_until, job_id) for job_id in job_ids],
    )


def release(db: sqlite3.Connection, job_id: str, attempted: bool, stamp: int) -> None:
    """running → paid, to be run again."""
    done = db.execute(
        "UPDATE jobs SET state = 'paid', lease_until = NULL, attempts = max(0, attempts - ?),"
        " stamp = max(stamp, ?) WHERE id = ? AND state = 'running'",
        (0 if attempted else 1, stamp, job_id),
    )
    _moved(done, job_id)


def close_unpaid(
    db: sqlite3.Connection,
    job_id: str,
    to: JobState,
    reason: str,
    publications: Sequence[Publication],
    at: int,
    stamp: int,
    states: Collection[JobState],
) -> None:
    """received or quoted (those of `states`) → rejected, expired or cancelled."""
    job_in(db, job_id, states)
    end(db, job_id, to, reason, None, stamp)
    outbox.store(db, job_id, publications, at)


def job_in(db: sqlite3.Connection, job_id: str, states: Collection[JobState]) -> Job:
    """The job, which must be in one of these states."""
    job = queries.find_job(db, job_id)
    if job is None or job.state not in states:
        raise ConflictError(f"job {job_id} is {job.state if job else 'unknown'}")
    return job


def end(db: sqlite3.Connection, job_id: str, to: JobState, reason: str | None, result: str | None, stamp: int) -> None:
    """The job's last step, from whatever state."""
    # What was refused is known by its id for ever, but not kept: strangers choose how much they send.
    db.execute(
        "UPDATE jobs SET state = ?1, reason = ?2, result = ?3, stamp = max(stamp, ?4), lease_until = NULL,"
        " request = CASE WHEN ?1 = 'rejected' THEN '' ELSE request END WHERE id = ?5",
        (to, reason, result, stamp, job_id),
    )
    conversations.ended(db, job_id, to)


def _set_terms(
    db: sqlite3.Connection, job_id: str, state: JobState, terms: Terms, expires_at: int | None, stamp: int
) -> None:
    done = db.execute(
        "UPDATE jobs SET state = ?, model = ?, price = ?, input_tokens = ?, max_output = ?, quote_msat = ?,"
        " expires_at = ?, stamp = ? WHERE id = ? AND state = 'received'",
        (state, terms.model, terms.price, terms.input_tokens, terms.max_output, terms.msat, expires_at, stamp, job_id),
    )
    _moved(done, job_id)


def _moved(cursor: sqlite3.Cursor, job_id: str) -> None:
    if cursor.rowcount == 0:
        raise ConflictError(f"job {job_id} has moved on")
