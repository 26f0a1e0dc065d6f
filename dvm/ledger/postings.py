"""How a job that was paid for ends, on one connection, inside the caller's transaction: billed or voided.

Its state, the money, its answer and its receipt go together (money.md, rules 5 and 6).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from dvm.ledger import jobs, money, outbox, promises, queries
from dvm.ledger.base import (
    ConflictError,
    Job,
    JobState,
    Metered,
    Posting,
    Publication,
    ReceiptMaker,
)


def post(
    db: sqlite3.Connection,
    job: Job,
    *,
    to: JobState,
    cost: int,
    used: Metered,
    publications: Sequence[Publication],
    receipt: ReceiptMaker,
    at: int,
    stamp: int,
    reason: str | None,
) -> Posting:
    """Bill at most the quote out of the job's hold and return the rest. Raises ConflictError without a hold."""
    billed, change = money.post_hold(db, job.id, min(cost, job.quote_msat), at)
    result = next((each.id for each in publications if each.role == "result"), None)
    jobs.end(db, job.id, to, reason, result, stamp)
    outbox.store(db, job.id, publications, at)
    _meter(db, job, used, billed, at, billed=True)
    made = money.add_receipt(db, job.customer, job.id, billed, money.unnamed(db, job.id), receipt, at)
    outbox.store(db, job.id, (made,), at)
    return Posting(billed, change)


def settle(db: sqlite3.Connection, job_id: str, msat: int, receipt: ReceiptMaker, at: int) -> Posting:
    """settling → delivered: the promise is kept on both sides. Deposit, hold, posting and answer at once."""
    job = jobs.job_in(db, job_id, {JobState.SETTLING})
    finished = promises.finished(db, job_id)
    payment_hash = promises.hash_of(db, job_id)
    if finished is None or payment_hash is None:
        raise ConflictError(f"job {job_id} has no answer that waits for its payment")
    if not money.has_hold(db, job_id):  # else its settlement was deposited before
        money.settled(db, payment_hash, job.customer, msat, at)
        money.open_hold(db, job_id, job.customer, msat, at)
    promises.forget_finished(db, job_id)
    return post(
        db,
        job,
        to=JobState.DELIVERED,
        cost=finished.cost,
        used=finished.used,
        publications=(finished.answer,),
        receipt=receipt,
        at=at,
        stamp=job.stamp,
        reason=None,
    )


def void(
    db: sqlite3.Connection,
    job_id: str,
    *,
    to: JobState,
    reason: str,
    used: Metered | None,
    publications: Sequence[Publication],
    receipt: ReceiptMaker,
    at: int,
    stamp: int,
    states: Collection[JobState],
) -> None:
    """The whole hold goes back. A job that only a promise pays has none, and no receipt either."""
    job = jobs.job_in(db, job_id, states)
    held = money.has_hold(db, job_id)
    if held:
        money.void_hold(db, job_id, at)
    elif promises.hash_of(db, job_id) is None:
        raise ConflictError(f"job {job_id} has no open hold")
    promises.forget_finished(db, job_id)
    jobs.end(db, job_id, to, reason, None, stamp)
    outbox.store(db, job_id, publications, at)
    if used is not None:
        _meter(db, job, used, 0, at, billed=False)
    payments = money.unnamed(db, job_id)
    if held and (payments or used is not None):
        made = money.add_receipt(db, job.customer, job_id, 0, payments, receipt, at)
        outbox.store(db, job_id, (made,), at)


def unbilled(db: sqlite3.Connection, job_id: str, used: Sequence[Metered], at: int) -> None:
    """Attempts that nobody is billed for; the job goes on, or has ended."""
    job = queries.find_job(db, job_id)
    if job is None:
        raise ConflictError(f"job {job_id} is unknown")
    for each in used:
        _meter(db, job, each, 0, at, billed=False)


def _meter(db: sqlite3.Connection, job: Job, used: Metered, msat: int, at: int, *, billed: bool) -> None:
    db.execute(
        "INSERT INTO usage (job, kind, model, input, cached, output, thoughts, estimated, finish, msat, at, billed)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
            billed,
        ),
    )
