"""The books' own audit: whatever is done to them behind the ledger's back is found, and told with its name."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from dvm.ledger import SqliteStore
from dvm.ledger.audit import MOST
from dvm.ledger.queries import audit
from dvm.ledger.sqlite import read
from tests.ledger.books import (
    NOW,
    database,
    owned,
    paid,
    post,
    promised,
    receipt_for,
    running,
    settling,
    void,
    withdrawal,
)


async def eventful(directory: Path) -> sqlite3.Connection:
    """A database in which everything has happened that can, whose books are in order."""
    store = await SqliteStore.open(directory)
    await owned(store, 50_000)
    await post(store, await running(store, "posted", 10_000), 4_000)
    await void(store, await running(store, "voided", 10_000))
    await paid(store, "open", 10_000)
    await promised(store, "promised", 3_000)
    await settling(store, "settling", 3_000, 2_000)
    done, _ = await settling(store, "settled", 3_000, 2_000)
    await store.settle(done.id, 3_500, receipt_for("alice"), NOW)
    for name in ("reserved", "paid", "dear", "failed"):
        await store.reserve(withdrawal(name, 1_000, 100), day_limit=0)
    await store.paid_out(withdrawal("paid", 1).id, 60, receipt_for("alice"), (), NOW)
    await store.paid_out(withdrawal("dear", 1).id, 160, receipt_for("alice"), (), NOW)
    await store.not_paid_out(withdrawal("failed", 1).id, "x", (), NOW)
    await store.reserve(withdrawal("operator", 1_000, 100, customer=None), day_limit=0)
    await store.paid_out(withdrawal("operator", 1).id, 0, None, (), NOW)
    await store.refuse_payout(withdrawal("refused", 10**9), "too little")
    await store.close()
    db = database(directory)
    assert audit(db) == []
    db.execute("PRAGMA ignore_check_constraints = ON")
    for trigger in ("transfers_are_immutable", "transfers_are_kept"):
        db.execute(f"DROP TRIGGER {trigger}")
    return db


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE accounts SET msat = msat + 1 WHERE name = 'revenue'", ["the sum", "revenue has"]),
        ("UPDATE accounts SET msat = -1 WHERE name = 'revenue'", ["below zero"]),
        ("UPDATE transfers SET msat = msat + 1 WHERE what = 'settle'", ["its transfers say", "cost"]),
        ("DELETE FROM transfers WHERE what = 'invoice'", ["wallet has", "were credited"]),
        ("UPDATE holds SET msat = msat - 1 WHERE state = 'open'", ["its open hold says", "were set aside"]),
        ("UPDATE holds SET state = 'voided' WHERE state = 'posted'", ["is delivered, and its hold is voided"]),
        ("DELETE FROM holds WHERE state = 'posted'", ["its hold is not there"]),
        ("UPDATE jobs SET state = 'failed' WHERE state = 'paid'", ["its hold is open"]),
        ("UPDATE payments SET promise = NULL WHERE settled_at IS NULL", ["nothing pays it"]),
        ("UPDATE payments SET received_msat = received_msat + 1", ["were credited"]),
        ("UPDATE payments SET customer = 'bob'", ["were credited"]),
        ("UPDATE payments SET payment_hash = 'p' || payment_hash", ["never expected"]),
        ("UPDATE payments SET receipt = NULL", ["stands on no receipt", "its payments are"]),
        ("DELETE FROM finished", ["is settling, and 0 answers"]),
        ("UPDATE jobs SET state = 'running' WHERE state = 'settling'", ["is running, and 1 answers"]),
        ("DELETE FROM receipts WHERE seq = 2", ["does not follow", "was made 0 times"]),
        ("UPDATE receipts SET prev = 'x' WHERE seq = 3", ["does not follow"]),
        ("UPDATE receipts SET after = after + 1 WHERE seq = 3", ["does not follow"]),
        ("UPDATE receipts SET paid = paid + 1", ["its payments are", "the receipts of alice end"]),
        ("UPDATE receipts SET cost = cost - 1 WHERE cost > 0", ["receipts bill", "the receipts of alice end"]),
        ("UPDATE payouts SET msat = msat + 1 WHERE state = 'reserved'", ["its payout reserves"]),
        ("UPDATE payouts SET state = 'failed' WHERE state = 'paid'", ["returned"]),
        ("UPDATE payouts SET state = 'paid' WHERE state = 'failed'", ["returned"]),
        ("UPDATE payouts SET fee_msat = fee_msat + 1 WHERE state = 'paid'", ["of its fees"]),
        ("DELETE FROM payouts WHERE state = 'failed'", ["which is no payout"]),
        ("UPDATE payouts SET payment_hash = (SELECT min(payment_hash) FROM payments) WHERE state = 'paid'"
         " AND customer IS NULL", ["paid to us, and to be paid by us"]),
    ],
)  # fmt: skip
async def test_what_is_changed_behind_the_ledgers_back_is_found(
    tmp_path: Path, statement: str, told: list[str]
) -> None:
    db = await eventful(tmp_path)
    assert db.execute(statement).rowcount
    found = audit(db)
    for each in told:
        assert any(each in line for line in found), found
    db.close()


async def test_a_mistake_that_is_everywhere_is_told_in_few_lines(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path)
    for n in range(MOST + 5):
        await owned(store, 1_000, f"customer {n}")
    await store.close()
    db = database(tmp_path)
    db.execute("UPDATE receipts SET after = 5")
    found = audit(db)
    assert len(found) == MOST + 1
    assert found[-1].startswith("… and more")
    db.close()


async def test_the_books_of_a_running_daemon_are_audited_at_one_moment(store: SqliteStore, tmp_path: Path) -> None:
    await owned(store, 1_000)
    other = database(tmp_path)
    db = database(tmp_path)
    db.execute("BEGIN")
    assert audit(db) == []
    await owned(store, 2_000)
    assert audit(db) == []
    assert db.in_transaction  # it was its caller's
    db.execute("ROLLBACK")
    assert read(tmp_path, audit) == []
    assert audit(other) == []
    assert not other.in_transaction
    other.close()
    db.close()
