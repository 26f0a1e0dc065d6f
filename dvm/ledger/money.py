"""Double entry on one connection, inside the caller's transaction: transfers, holds, the receipt chain.

Each function does nothing the second time it is called with the same key (money.md, rule 2).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from dvm.ledger.base import ConflictError, LedgerError, Link, Publication, ReceiptMaker, Received

WALLET = "wallet"
REVENUE = "revenue"
FEES = "fees"


def customer(pubkey: str) -> str:
    """The account of a customer."""
    return f"customer:{pubkey}"


def held(job_id: str) -> str:
    """The account that stands behind one running job."""
    return f"held:{job_id}"


def leaving(payout_id: str) -> str:
    """The account that stands behind one payment that leaves."""
    return f"payout:{payout_id}"


def transfer(db: sqlite3.Connection, what: str, ref: str, debit: str, credit: str, msat: int, at: int) -> bool:
    """Move `msat` (> 0) from `debit` to `credit`; False if `what:ref` was applied before.

    Raises LedgerError when the debited account has too little.
    """
    done = db.execute(
        "INSERT INTO transfers (what, ref, debit, credit, msat, at) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (what, ref, debit, credit, msat, at),
    )
    if done.rowcount == 0:
        return False
    try:
        took = db.execute("UPDATE accounts SET msat = msat - ? WHERE name = ?", (msat, debit))
    except sqlite3.IntegrityError:
        raise LedgerError(f"{what}:{ref}: the account holds less than {msat} msat") from None
    if took.rowcount == 0:
        raise LedgerError(f"{what}:{ref}: the account is empty")
    db.execute(
        "INSERT INTO accounts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET msat = msat + excluded.msat",
        (credit, msat),
    )
    return True


def available(db: sqlite3.Connection, pubkey: str) -> int:
    """A customer's balance, in msat. The one query that both shows it and admits a job (case 9)."""
    return holdings(db, customer(pubkey))


def holdings(db: sqlite3.Connection, account: str) -> int:
    """What an account holds, in msat."""
    row = db.execute("SELECT msat FROM accounts WHERE name = ?", (account,)).fetchone()
    return row[0] if row else 0


def drop(db: sqlite3.Connection, account: str) -> None:
    """Forget an account that was for one job or payout, once it is empty."""
    db.execute("DELETE FROM accounts WHERE name = ? AND msat = 0", (account,))


def settled(db: sqlite3.Connection, payment_hash: str, pubkey: str, msat: int, at: int) -> None:
    """The deposit of a settled payment (money.md, rule 4). What is nobody's, a gift, is revenue."""
    transfer(db, "invoice", payment_hash, WALLET, customer(pubkey) if pubkey else REVENUE, msat, at)
    db.execute(
        "UPDATE payments SET received_msat = ?, settled_at = ? WHERE payment_hash = ? AND settled_at IS NULL",
        (msat, at, payment_hash),
    )


def has_hold(db: sqlite3.Connection, job_id: str) -> bool:
    """Whether money of ours stands behind a job; none does while only a promise pays it."""
    return db.execute("SELECT 1 FROM holds WHERE job = ? AND state = 'open'", (job_id,)).fetchone() is not None


def open_hold(db: sqlite3.Connection, job_id: str, pubkey: str, msat: int, at: int) -> None:
    """Set `msat` (0 for a free job) of a customer's balance aside for a job."""
    db.execute("INSERT INTO holds VALUES (?, ?, ?, 'open')", (job_id, pubkey, msat))
    if msat:
        transfer(db, "hold", job_id, customer(pubkey), held(job_id), msat, at)


def post_hold(db: sqlite3.Connection, job_id: str, cost: int, at: int) -> tuple[int, int]:
    """End a hold: `cost`, at most the hold, is revenue; the rest returns. The two amounts, in msat."""
    pubkey, msat = _end_hold(db, job_id, "posted")
    cost = min(cost, msat)
    if cost:
        transfer(db, "settle", job_id, held(job_id), REVENUE, cost, at)
    if msat > cost:
        transfer(db, "change", job_id, held(job_id), customer(pubkey), msat - cost, at)
    drop(db, held(job_id))
    return cost, msat - cost


def void_hold(db: sqlite3.Connection, job_id: str, at: int) -> int:
    """End a hold: all of it, in msat, returns to the customer."""
    pubkey, msat = _end_hold(db, job_id, "voided")
    if msat:
        transfer(db, "void", job_id, held(job_id), customer(pubkey), msat, at)
    drop(db, held(job_id))
    return msat


def unnamed(db: sqlite3.Connection, job_id: str) -> tuple[Received, ...]:
    """The job's settled payments that no receipt names yet."""
    rows = db.execute(
        "SELECT source, payment_hash, received_msat FROM payments"
        " WHERE job = ? AND settled_at IS NOT NULL AND receipt IS NULL ORDER BY settled_at",
        (job_id,),
    )
    return tuple(Received(*row) for row in rows)


def add_receipt(
    db: sqlite3.Connection,
    pubkey: str,
    job_id: str | None,
    cost: int,
    payments: Sequence[Received],
    make: ReceiptMaker,
    at: int,
) -> Publication:
    """The next link of the customer's chain: numbered, made, stored, and naming its payments."""
    last = db.execute(
        "SELECT seq, id, after FROM receipts WHERE customer = ? ORDER BY seq DESC LIMIT 1", (pubkey,)
    ).fetchone()
    seq, prev, before = last or (0, None, 0)
    paid = sum(payment.msat for payment in payments)
    link = Link(seq + 1, prev, before, before + paid - cost, cost, tuple(payments))
    publication = make(link)
    db.execute(
        "INSERT INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (publication.id, pubkey, link.seq, prev, job_id, paid, cost, link.after, at),
    )
    for payment in payments:
        if payment.msat > 0:  # what left is no payment that came
            db.execute("UPDATE payments SET receipt = ? WHERE payment_hash = ?", (publication.id, payment.payment_hash))
    return publication


def _end_hold(db: sqlite3.Connection, job_id: str, state: str) -> tuple[str, int]:
    row: tuple[str, int] | None = db.execute(
        "UPDATE holds SET state = ? WHERE job = ? AND state = 'open' RETURNING customer, msat",
        (state, job_id),
    ).fetchone()
    if row is None:
        raise ConflictError(f"job {job_id} has no open hold")
    return row
