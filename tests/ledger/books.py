"""Short hands for the ledger's tests: jobs, payments and receipts without Nostr."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Collection
from itertools import count
from pathlib import Path

from dvm.ledger import (
    Finished,
    Job,
    JobState,
    Link,
    Metered,
    Payout,
    PayoutState,
    PendingPayment,
    Publication,
    ReceiptMaker,
    SqliteStore,
    Terms,
)
from dvm.ledger.base import HOLDING
from dvm.ledger.queries import audit
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


def payment(of: Job, msat: int, expires_at: int = NOW + 600, hold: bool = False) -> PendingPayment:
    return PendingPayment(
        hash_of("payment", of.id), "bolt11", of.customer, of.id, "lnbcrt…", msat, NOW, expires_at, hold
    )


def zap(name: object, msat: int, customer: str = "alice", of: Job | None = None) -> PendingPayment:
    """A zap on a job's quote, or (without one) on the profile of the shop."""
    job_id = of.id if of else None
    return PendingPayment(hash_of("zap", name), "zap", customer, job_id, "lnbc…", msat, NOW, NOW + 600, zap="{}")


def withdrawal(
    name: object, msat: int, fee_limit_msat: int = 0, customer: str | None = "alice", at: int = NOW
) -> Payout:
    """A payout of a customer's, or (None) of the operator's."""
    return Payout(
        hash_of("payout", name),
        customer,
        "lnbcrt…",
        hash_of("payee", name),
        msat,
        fee_limit_msat,
        PayoutState.RESERVED,
        at,
        at + 600,
        scheme="nip44",
        relays=("wss://relay.example",),
    )


def answer(of: Job, cost: int) -> Finished:
    return Finished(
        Publication(hash_of("result", of.id), "result", "{}", ("wss://a", "wss://b")), cost, USED, '{"n": 1}'
    )


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


async def promised(store: SqliteStore, name: object, msat: int, customer: str = "alice") -> tuple[Job, PendingPayment]:
    """A job that an accepted hold invoice pays."""
    new = job(name, customer)
    await store.open_job(new)
    invoice = payment(new, msat, hold=True)
    await store.quote(new.id, terms(msat), invoice, publication("quote", new.id), NOW)
    accepted = await store.accept(invoice.payment_hash, msat)
    assert accepted is not None
    assert accepted.paid
    return new, invoice


async def settling(
    store: SqliteStore, name: object, msat: int, cost: int, customer: str = "alice"
) -> tuple[Job, PendingPayment]:
    """A job whose answer waits for its hold invoice to be settled."""
    new, invoice = await promised(store, name, msat, customer)
    await store.claim(new.id, NOW + 60, NOW)
    await store.finish(new.id, answer(new, cost), NOW)
    return new, invoice


async def owned(store: SqliteStore, msat: int, customer: str = "alice") -> None:
    """A top-up."""
    top_up = zap(next(_serial), msat, customer)
    assert await store.expect(top_up)
    deposit = await store.deposit(top_up.payment_hash, msat, NOW, receipt_for(customer))
    assert deposit is not None
    assert not deposit.paid


async def post(
    store: SqliteStore, of: Job, cost: int, to: JobState = JobState.DELIVERED, result: str | None = None
) -> None:
    name = "result" if to is JobState.DELIVERED else "error"
    made = Publication(result or hash_of(name, of.id), name, "{}")
    await store.post(
        of.id, to=to, cost=cost, used=USED, publications=(made,), receipt=receipt_for(of.customer), at=NOW, stamp=NOW
    )


async def void(
    store: SqliteStore,
    of: Job,
    to: JobState = JobState.FAILED,
    used: Metered | None = None,
    states: Collection[JobState] = HOLDING,
) -> None:
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
        states=states,
    )


def database(directory: Path) -> sqlite3.Connection:
    return sqlite3.connect(directory / FILE, isolation_level=None)


def check_books(db: sqlite3.Connection) -> None:
    """Rule 3, and that every customer's chain of receipts tells what the accounts hold; then the ledger's own audit.

    What both look at is counted here in another way.
    """
    assert db.execute("SELECT coalesce(sum(msat), 0) FROM accounts").fetchone()[0] == 0
    assert db.execute("SELECT name FROM accounts WHERE msat < 0 AND name NOT IN ('wallet', 'fees')").fetchall() == []
    stored = dict(db.execute("SELECT name, msat FROM accounts"))
    open_holds = dict(db.execute("SELECT job, msat FROM holds WHERE state = 'open'"))
    for job_id, state in db.execute("SELECT id, state FROM jobs").fetchall():
        kept = db.execute("SELECT 1 FROM payments WHERE job = ? AND promise = 'accepted'", (job_id,)).fetchone()
        if state in ("paid", "waiting", "running", "settling"):
            assert job_id in open_holds or kept
        else:
            assert job_id not in open_holds
        assert stored.get(f"held:{job_id}", 0) == open_holds.get(job_id, 0)
    for (customer,) in db.execute("SELECT customer FROM jobs UNION SELECT customer FROM payments").fetchall():
        chain = db.execute(
            "SELECT seq, id, prev, paid, cost, after FROM receipts WHERE customer = ? ORDER BY seq", (customer,)
        ).fetchall()
        before, prev = 0, None
        for number, (seq, receipt_id, linked, came, cost, after) in enumerate(chain, 1):
            assert (seq, linked, after) == (number, prev, before + came - cost)
            before, prev = after, receipt_id
        behind = _sum(db, "msat", "holds", "customer = ? AND state = 'open'", customer)
        leaving = _sum(db, "msat + fee_limit_msat", "payouts", "customer = ? AND state = 'reserved'", customer)
        unnamed = _sum(db, "received_msat", "payments", "customer = ? AND receipt IS NULL", customer)
        available = stored.get(f"customer:{customer}", 0)
        assert before == available + behind + leaving - unnamed
        assert before >= available + leaving
    check_conversations(db)
    assert audit(db) == []


def check_conversations(db: sqlite3.Connection) -> None:
    """What was gathered is kept of jobs that have not ended, and each link leads back, to what was delivered."""
    states = dict(db.execute("SELECT id, state FROM jobs"))
    customers = dict(db.execute("SELECT id, customer FROM jobs"))
    ended = {"delivered", "failed", "cancelled", "rejected", "expired"}
    gathered = [key[7:] for (key,) in db.execute("SELECT key FROM facts WHERE key LIKE 'inputs %'")]
    assert [each for each in gathered if states[each] in ended] == []
    links = dict(db.execute("SELECT job, prior FROM conversations"))
    assert [each for each in links if states[each] in ended - {"delivered"}] == []
    for job_id, prior in links.items():
        assert prior is None or (states[prior], customers[prior]) == ("delivered", customers[job_id])
        seen = {job_id}
        while prior is not None:
            assert prior not in seen
            seen.add(prior)
            prior = links.get(prior)


def _sum(db: sqlite3.Connection, what: str, table: str, where: str, customer: str) -> int:
    total: int = db.execute(f"SELECT coalesce(sum({what}), 0) FROM {table} WHERE {where}", (customer,)).fetchone()[0]
    return total
