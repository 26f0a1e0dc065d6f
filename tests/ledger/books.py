"""Short hands for the ledger's tests: jobs, payments and receipts without Nostr."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from itertools import count
from pathlib import Path

from dvm.ledger import Job, JobState, Link, Metered, PendingPayment, Publication, ReceiptMaker, SqliteStore, Terms
from dvm.ledger.sqlite import FILE

NOW = 1_800_000_000
USED = Metered("flash", input=10, output=20)
_serial = count()


def hash_of(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def job(name: object, customer: str = "alice", at: int = NOW) -> Job:
    return Job(hash_of("job", name), customer, 5050, JobState.RECEIVED, "{}", at, at)


def terms(msat: int) -> Terms:
    return Terms("flash", '{"per": "free"}', 10, 100, msat)


def payment(of: Job, msat: int, expires_at: int = NOW + 600) -> PendingPayment:
    return PendingPayment(hash_of("payment", of.id), "bolt11", of.customer, of.id, "lnbcrt…", msat, NOW, expires_at)


def publication(role: str, *parts: object) -> Publication:
    return Publication(hash_of(role, *parts), role, "{}")


def receipt_for(customer: str) -> ReceiptMaker:
    """A maker whose publication carries the link, so that a test can read what the ledger told it."""

    def make(link: Link) -> Publication:
        body = json.dumps({"seq": link.seq, "prev": link.prev, "before": link.before, "after": link.after})
        return Publication(hash_of("receipt", customer, link.seq, next(_serial)), "receipt", body)

    return make


async def quoted(store: SqliteStore, name: object, msat: int, customer: str = "alice") -> tuple[Job, PendingPayment]:
    """A job with a quote of `msat`, waiting for its payment."""
    new = job(name, customer)
    assert (await store.open_job(new)).known is None
    invoice = payment(new, msat)
    await store.quote(new.id, terms(msat), invoice, publication("quote", new.id), NOW)
    return new, invoice


async def paid(store: SqliteStore, name: object, msat: int, customer: str = "alice") -> Job:
    """A job that its invoice has paid."""
    new, invoice = await quoted(store, name, msat, customer)
    deposit = await store.deposit(invoice.payment_hash, msat, NOW, receipt_for(customer))
    assert deposit is not None
    assert deposit.paid
    return new


async def running(store: SqliteStore, name: object, msat: int, customer: str = "alice") -> Job:
    new = await paid(store, name, msat, customer)
    return await store.claim(new.id, NOW + 60, NOW)


async def post(
    store: SqliteStore, of: Job, cost: int, to: JobState = JobState.DELIVERED, result: str | None = None
) -> None:
    name = "result" if to is JobState.DELIVERED else "error"
    made = Publication(result or hash_of(name, of.id), name, "{}")
    await store.post(
        of.id, to=to, cost=cost, used=USED, publications=(made,), receipt=receipt_for(of.customer), at=NOW, stamp=NOW
    )


async def void(store: SqliteStore, of: Job, to: JobState = JobState.FAILED, used: Metered | None = None) -> None:
    error = publication("error", of.id)
    await store.void(
        of.id,
        to=to,
        reason="model",
        used=used,
        publications=(error,),
        receipt=receipt_for(of.customer),
        at=NOW,
        stamp=NOW,
    )


def database(directory: Path) -> sqlite3.Connection:
    return sqlite3.connect(directory / FILE, isolation_level=None)


def check_books(db: sqlite3.Connection) -> None:
    """Rule 3, and that every customer's chain of receipts tells what the accounts hold."""
    assert db.execute("SELECT coalesce(sum(msat), 0) FROM accounts").fetchone()[0] == 0
    assert db.execute("SELECT count(*) FROM accounts WHERE msat < 0 AND name <> 'wallet'").fetchone()[0] == 0
    from_transfers: dict[str, int] = {}
    for debit, credit, msat in db.execute("SELECT debit, credit, msat FROM transfers"):
        from_transfers[debit] = from_transfers.get(debit, 0) - msat
        from_transfers[credit] = from_transfers.get(credit, 0) + msat
    stored = dict(db.execute("SELECT name, msat FROM accounts"))
    assert {k: v for k, v in from_transfers.items() if v} == {k: v for k, v in stored.items() if v}
    held = dict(db.execute("SELECT 'held:' || job, msat FROM holds WHERE state = 'open' AND msat > 0"))
    assert {k: v for k, v in stored.items() if k.startswith("held:") and v} == held
    open_jobs = {row[0] for row in db.execute("SELECT id FROM jobs WHERE state IN ('paid', 'waiting', 'running')")}
    assert open_jobs == {row[0] for row in db.execute("SELECT job FROM holds WHERE state = 'open'")}
    for (customer,) in db.execute("SELECT DISTINCT customer FROM jobs").fetchall():
        chain = db.execute(
            "SELECT seq, id, prev, paid, cost, after FROM receipts WHERE customer = ? ORDER BY seq", (customer,)
        ).fetchall()
        before, prev = 0, None
        for number, (seq, receipt_id, linked, came, cost, after) in enumerate(chain, 1):
            assert (seq, linked, after) == (number, prev, before + came - cost)
            before, prev = after, receipt_id
        held_now = db.execute(
            "SELECT coalesce(sum(msat), 0) FROM holds WHERE customer = ? AND state = 'open'", (customer,)
        ).fetchone()[0]
        unnamed = db.execute(
            "SELECT coalesce(sum(received_msat), 0) FROM payments WHERE customer = ? AND receipt IS NULL", (customer,)
        ).fetchone()[0]
        assert before == stored.get(f"customer:{customer}", 0) + held_now - unnamed
