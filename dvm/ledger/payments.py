"""Payments that come, on one connection, inside the caller's transaction: watched for, then credited once."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from dvm.ledger import money, outbox, queries
from dvm.ledger.base import (
    HOLDING,
    Deposit,
    Job,
    JobState,
    LedgerError,
    PendingPayment,
    Publication,
    ReceiptMaker,
    Received,
)

OPEN = HOLDING | {JobState.SETTLING}
"""Where a job stands between its payment and its end."""


def expect(db: sqlite3.Connection, payment: PendingPayment) -> bool:
    """Watch for a payment, unless its hash is known."""
    known = db.execute(
        "SELECT EXISTS (SELECT 1 FROM payments WHERE payment_hash = ?1)"
        # An invoice that we pay is nobody's payment to us, whatever a zap receipt claims of it.
        " OR EXISTS (SELECT 1 FROM payouts WHERE payment_hash = ?1 AND state <> 'refused')",
        (payment.payment_hash,),
    ).fetchone()[0]
    if known:
        return False
    if payment.job is not None and queries.find_job(db, payment.job) is None:
        raise LedgerError(f"there is no job {payment.job}")
    add(db, payment)
    return True


def add(db: sqlite3.Connection, payment: PendingPayment) -> None:
    """Watch for a payment whose hash is new."""
    db.execute(
        "INSERT INTO payments (payment_hash, source, customer, job, bolt11, msat, created_at, expires_at, hold, zap)"
        " VALUES (?1, ?2, coalesce((SELECT customer FROM jobs WHERE id = ?4), ?3), ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        (
            payment.payment_hash,
            payment.source,
            payment.customer,
            payment.job,
            payment.bolt11,
            payment.msat,
            payment.created_at,
            payment.expires_at,
            payment.hold,
            payment.zap,
        ),
    )


def deposit(
    db: sqlite3.Connection,
    payment_hash: str,
    msat: int,
    at: int,
    credit: ReceiptMaker,
    publications: Sequence[Publication],
) -> Deposit | None:
    """Credit a settled payment once, and pay the job that it names, with it alone or with those before it."""
    row = db.execute(
        "SELECT source, customer, job, received_msat, promise FROM payments WHERE payment_hash = ?",
        (payment_hash,),
    ).fetchone()
    if row is None:
        return None
    source, customer, job_id, before, promise = row
    if before is not None:
        return Deposit(customer, job_id, before, fresh=False, paid=False)
    money.settled(db, payment_hash, customer, msat, at)
    outbox.store(db, None, publications, at)
    if not customer:
        return Deposit("", None, msat, fresh=True, paid=False)
    job = queries.find_job(db, job_id) if job_id is not None else None
    paid = job is not None and _pay(db, job, msat, at, promised=promise == "accepted")
    if not paid:
        received = Received(source, payment_hash, msat)
        receipt = money.add_receipt(db, customer, job_id, 0, (received,), credit, at)
        outbox.store(db, None, (receipt,), at)
        paid = job is not None and _pay_in_parts(db, job, at)
    return Deposit(customer, job_id, msat, fresh=True, paid=paid)


def _pay(db: sqlite3.Connection, job: Job, msat: int, at: int, *, promised: bool) -> bool:
    waits_for_it = promised and job.state in OPEN
    if not waits_for_it and (job.state is not JobState.QUOTED or msat < job.quote_msat):
        return False
    # All of it, also what is more than the quote: until its receipt names the payment, it pays for nothing else.
    money.open_hold(db, job.id, job.customer, msat, at)
    db.execute("UPDATE jobs SET state = 'paid' WHERE id = ? AND state = 'quoted'", (job.id,))
    return True


def _pay_in_parts(db: sqlite3.Connection, job: Job, at: int) -> bool:
    """Pay a quote with what was paid towards it bit by bit, which stands on the balance by now.

    Nothing else of the balance: strangers zap a quote as well, and one sat of theirs must not spend what its
    customer has for other jobs.
    """
    if job.state is not JobState.QUOTED:
        return False
    towards: int = db.execute(
        "SELECT coalesce(sum(received_msat), 0) FROM payments WHERE job = ? AND settled_at IS NOT NULL", (job.id,)
    ).fetchone()[0]
    if towards < job.quote_msat or money.available(db, job.customer) < job.quote_msat:
        return False
    money.open_hold(db, job.id, job.customer, job.quote_msat, at)
    db.execute("UPDATE jobs SET state = 'paid' WHERE id = ? AND state = 'quoted'", (job.id,))
    return True
