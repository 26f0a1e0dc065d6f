"""What is asked again and again reads what it is about, not everything that ever was."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dvm.ledger import GatheredInputs, JobState, PayoutState, SqliteStore, conversations, queries
from dvm.ledger import outbox as outbox_of
from dvm.ledger import payments as payments_of
from dvm.ledger import payouts as payouts_of
from dvm.ledger import promises as promises_of
from dvm.ledger.queries import WATCH_SECONDS, ZAP_WATCH_SECONDS
from tests.ledger.books import NOW, hash_of, job, owned, receipt_for, withdrawal, zap

BIG = ("jobs", "conversations", "payments", "payouts", "receipts", "outbox", "transfers", "accounts", "holds", "usage")
ID = hash_of("somebody")
RECEIVED = job("received").id
OPEN = (JobState.RECEIVED, JobState.PAID, JobState.RUNNING, JobState.SETTLING)
ASKED: dict[str, Callable[[sqlite3.Connection], object]] = {
    "watched": lambda db: queries.watched(db, NOW),
    "unsettled": lambda db: queries.unsettled(db, NOW),
    "overdue": lambda db: queries.overdue(db, NOW, 10),
    "quoted": queries.quoted,
    "what may be cancelled": lambda db: queries.cancellable(db, 10),
    "open jobs": lambda db: queries.jobs(db, OPEN, 10),
    "a job": lambda db: queries.find_job(db, ID),
    "a payment": lambda db: queries.pending(db, ID),
    "a balance": lambda db: queries.balance(db, "alice"),
    "a statement": lambda db: queries.statement(db, "alice", 10, 5),
    "promises": promises_of.promises,
    "a promise": lambda db: promises_of.promise(db, ID),
    "finished": lambda db: promises_of.finished(db, ID),
    "the outbox": lambda db: outbox_of.unsent(db, 10),
    "answers": lambda db: outbox_of.answers(db, ID),
    "a job by its quote": lambda db: outbox_of.job_of(db, ID),
    "what a job continues": lambda db: conversations.prior(db, ID),
    "a session": lambda db: conversations.newest(db, "somebody's"),
    "a conversation": lambda db: conversations.turns(db, ID, 10),
    "new inputs": lambda db: conversations.gathered(db, RECEIVED, GatheredInputs("digest", None, "somebody's")),
    "ended inputs": lambda db: conversations.ended(db, ID, JobState.FAILED),
    "reserved payouts": lambda db: payouts_of.in_states(db, (PayoutState.RESERVED,), 10),
    "a payout": lambda db: payouts_of.find(db, ID),
    "a new payout": lambda db: payouts_of.reserve(db, withdrawal("new", 10), 1_000, ()),
    "a new payment": lambda db: payments_of.expect(db, zap("new", 10)),
    "a deposit": lambda db: payments_of.deposit(db, zap("old", 1).payment_hash, 5, NOW, receipt_for("alice"), ()),
}


@pytest.mark.parametrize("name", ASKED)
async def test_a_question_that_is_often_asked_finds_its_index(store: SqliteStore, tmp_path: Path, name: str) -> None:
    await owned(store, 10_000)
    await store.expect(zap("old", 1_000))
    await store.open_job(job("received"))
    db = sqlite3.connect(tmp_path / "dvm.db", isolation_level=None)
    asked: list[str] = []
    db.execute("BEGIN")
    db.set_trace_callback(asked.append)
    ASKED[name](db)
    db.set_trace_callback(None)
    assert asked
    for statement in asked:
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]
        # A partial index holds only what the question is about: reading all of it is no scan of the table.
        scans = [step for step in plan if step.split()[:2] in [["SCAN", each] for each in BIG] and "INDEX" not in step]
        assert not scans, (statement, plan)
    db.execute("ROLLBACK")
    db.close()


@pytest.mark.parametrize(("source", "seconds"), [("bolt11", WATCH_SECONDS), ("zap", ZAP_WATCH_SECONDS)])
async def test_what_ended_long_ago_is_not_watched(store: SqliteStore, source: str, seconds: int) -> None:
    for n, expires_at in enumerate((NOW - seconds, NOW - seconds + 1, NOW + 600)):
        payment = replace(zap(n, 1_000 + n), source=source, expires_at=expires_at, created_at=NOW - n)
        await store.expect(payment)
    watched, unsettled = await store.watched(NOW), await store.unsettled(NOW)
    assert [each.msat for each in watched] == [1_002, 1_001]
    assert unsettled.payment_hashes == [each.payment_hash for each in watched]
    assert (unsettled.since, unsettled.holds) == (NOW - 2, set())
