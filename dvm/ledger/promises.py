"""Hold invoices on one connection, inside the caller's transaction: a promise pays a job, its settlement bills it.

No money is in the books before our preimage has settled the invoice; till then a job that is paid by a promise
has no hold in the ledger.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict

from dvm.ledger import jobs, outbox, queries
from dvm.ledger.base import ConflictError, Deposit, Finished, JobState, Metered, PendingPayment, Publication
from dvm.ledger.payments import OPEN

_ENDED = "('delivered', 'failed', 'cancelled', 'rejected', 'expired')"
# The constant states are said outright, so that each half finds its index.
_PROMISES = f"""
    SELECT {queries.PAYMENT_COLUMNS}, state FROM payments JOIN jobs ON jobs.id = payments.job
        WHERE promise IS NOT NULL AND settled_at IS NULL AND cancelled_at IS NULL
          AND (promise = 'accepted' OR state IN {_ENDED})
    UNION ALL
    SELECT {queries.PAYMENT_COLUMNS}, state FROM jobs JOIN payments ON payments.job = jobs.id
        WHERE state = 'settling' AND promise = 'accepted' AND settled_at IS NOT NULL
    ORDER BY created_at
"""  # noqa: S608 - the columns and states are ours


def accept(db: sqlite3.Connection, payment_hash: str, msat: int) -> Deposit | None:
    """quoted → paid, by a promise of `msat`; or refuse it, for good."""
    row = db.execute(
        "SELECT customer, job, promise, settled_at IS NOT NULL OR cancelled_at IS NOT NULL FROM payments"
        " WHERE payment_hash = ? AND hold = 1",
        (payment_hash,),
    ).fetchone()
    if row is None:
        return None
    customer, job_id, promise, ended = row
    job = queries.find_job(db, job_id)
    if promise is not None or ended or job is None:
        delivers = job is not None and (job.state in OPEN or job.state is JobState.DELIVERED)
        return Deposit(customer, job_id, msat, fresh=False, paid=promise == "accepted" and delivers)
    pays = job.state is JobState.QUOTED and msat >= job.quote_msat
    db.execute(
        "UPDATE payments SET promise = ? WHERE payment_hash = ?", ("accepted" if pays else "refused", payment_hash)
    )
    if pays:
        db.execute("UPDATE jobs SET state = 'paid' WHERE id = ? AND state = 'quoted'", (job_id,))
    return Deposit(customer, job_id, msat, fresh=True, paid=pays)


def promise(db: sqlite3.Connection, job_id: str) -> PendingPayment | None:
    """The accepted hold invoice that pays a job and has not ended."""
    row = db.execute(
        f"SELECT {queries.PAYMENT_COLUMNS} FROM payments"  # noqa: S608 - the columns are ours
        " WHERE job = ? AND promise = 'accepted' AND settled_at IS NULL AND cancelled_at IS NULL",
        (job_id,),
    ).fetchone()
    return queries.payment_of(row) if row else None


def promises(db: sqlite3.Connection) -> list[tuple[PendingPayment, JobState]]:
    """Every promise that is still to be settled or cancelled, oldest first."""
    return [(queries.payment_of(row[:-1]), JobState(row[-1])) for row in db.execute(_PROMISES)]


def hash_of(db: sqlite3.Connection, job_id: str) -> str | None:
    """The payment hash of the promise that paid a job, however it ended."""
    row = db.execute("SELECT payment_hash FROM payments WHERE job = ? AND promise = 'accepted'", (job_id,)).fetchone()
    return row[0] if row else None


def cancelled(db: sqlite3.Connection, payment_hash: str, at: int) -> None:
    """The invoice can no longer be paid, and what was paid for it went back."""
    db.execute(
        "UPDATE payments SET cancelled_at = ?"
        " WHERE payment_hash = ? AND hold = 1 AND settled_at IS NULL AND cancelled_at IS NULL",
        (at, payment_hash),
    )


def finish(db: sqlite3.Connection, job_id: str, finished: Finished, stamp: int) -> None:
    """running → settling, with the answer kept back."""
    jobs.job_in(db, job_id, {JobState.RUNNING})
    kept = db.execute(
        "SELECT 1 FROM payments WHERE job = ? AND promise = 'accepted' AND cancelled_at IS NULL", (job_id,)
    ).fetchone()
    if kept is None:
        raise ConflictError(f"job {job_id} is not paid by a promise, or by one that was cancelled")
    answer = finished.answer
    db.execute(
        "INSERT INTO finished (job, answer, role, payload, relays, cost, used, work) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            job_id,
            answer.id,
            answer.role,
            answer.payload,
            outbox.relays_to_json(answer.relays),
            finished.cost,
            json.dumps(asdict(finished.used)),
            finished.work,
        ),
    )
    db.execute(
        "UPDATE jobs SET state = 'settling', lease_until = NULL, stamp = max(stamp, ?) WHERE id = ?", (stamp, job_id)
    )


def finished(db: sqlite3.Connection, job_id: str) -> Finished | None:
    """What `finish` kept back."""
    row = db.execute(
        "SELECT answer, role, payload, relays, cost, used, work FROM finished WHERE job = ?", (job_id,)
    ).fetchone()
    if row is None:
        return None
    answer, role, payload, relays, cost, used, work = row
    publication = Publication(answer, role, payload, outbox.relays_from_json(relays))
    return Finished(publication, cost, Metered(**json.loads(used)), work)


def forget_finished(db: sqlite3.Connection, job_id: str) -> None:
    """Its job ends: the answer is in the outbox, or nobody has paid for it."""
    db.execute("DELETE FROM finished WHERE job = ?", (job_id,))
