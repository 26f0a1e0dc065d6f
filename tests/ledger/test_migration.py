"""A database that an older version made is taken over whole, or not touched."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlite_utils import Database

from dvm.ledger import Balance, JobState, SqliteStore, StoreError
from dvm.ledger.schema import migrations
from dvm.ledger.sqlite import FILE
from tests.ledger.books import NOW, check_books, database, hash_of, post, promised, receipt_for

TABLES = ("accounts", "transfers", "holds", "jobs", "deletions", "payments", "receipts", "outbox", "usage", "facts")
# A job delivered out of its invoice, one that runs, one that waits for its payment, and one that was refused.
OLD = f"""
    INSERT INTO jobs (id, customer, kind, state, request, received_at, stamp, quote_msat, expires_at, attempts)
        VALUES ('done', 'alice', 5050, 'delivered', '{{}}', 1, 1, 10000, 600, 1),
               ('busy', 'alice', 5050, 'running', '{{}}', 2, 2, 5000, NULL, 1),
               ('open', 'bob', 5001, 'quoted', '{{}}', 3, 3, 7000, {NOW + 600}, 0),
               ('bad', 'bob', 5001, 'rejected', '', 4, 4, 0, NULL, 0);
    INSERT INTO payments VALUES ('p1', 'bolt11', 'alice', 'done', 'ln1', 10000, 1, 600, 10000, 2, 'r1'),
                                ('p2', 'bolt11', 'bob', 'open', 'ln2', 7000, 3, {NOW + 600}, NULL, NULL, NULL);
    INSERT INTO holds VALUES ('done', 'alice', 10000, 'posted'), ('busy', 'alice', 5000, 'open');
    INSERT INTO transfers (what, ref, debit, credit, msat, at)
        VALUES ('invoice', 'p1', 'wallet', 'customer:alice', 10000, 2),
               ('hold', 'done', 'customer:alice', 'held:done', 10000, 2),
               ('settle', 'done', 'held:done', 'revenue', 4000, 3),
               ('change', 'done', 'held:done', 'customer:alice', 6000, 3),
               ('hold', 'busy', 'customer:alice', 'held:busy', 5000, 4);
    UPDATE accounts SET msat = -10000 WHERE name = 'wallet';
    UPDATE accounts SET msat = 4000 WHERE name = 'revenue';
    INSERT INTO accounts VALUES ('customer:alice', 1000), ('held:busy', 5000);
    INSERT INTO receipts VALUES ('r1', 'alice', 1, NULL, 'done', 10000, 4000, 6000, 3);
    INSERT INTO outbox (id, job, role, payload, relays, at) VALUES ('q2', 'open', 'quote', '{{}}', '[]', 3);
    INSERT INTO facts VALUES ('cursor', '7');
"""


def old_database(directory: Path) -> sqlite3.Connection:
    """As the first version left it."""
    db = sqlite3.connect(directory / FILE, isolation_level=None)
    db.execute("PRAGMA foreign_keys = ON")
    migrations.apply(Database(db), stop_before="m003_promises_and_payouts")
    db.executescript(OLD)
    return db


def content(db: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    """All rows, of the columns that the first version had."""
    columns = {"payments": "payment_hash, source, customer, job, bolt11, msat, created_at, expires_at, received_msat,"
               " settled_at, receipt"}  # fmt: skip
    return {table: db.execute(f"SELECT {columns.get(table, '*')} FROM {table}").fetchall() for table in TABLES}


async def test_an_old_database_is_taken_over_row_by_row(tmp_path: Path) -> None:
    old = old_database(tmp_path)
    before = content(old)
    old.close()
    await (await SqliteStore.open(tmp_path)).close()
    db = database(tmp_path)
    assert content(db) == before
    assert db.execute("SELECT DISTINCT hold, promise, cancelled_at, zap FROM payments").fetchall() == [
        (0, None, None, None)
    ]
    assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    check_books(db)
    db.close()


async def test_what_an_old_version_began_is_ended_by_this_one(tmp_path: Path) -> None:
    old_database(tmp_path).close()
    store = await SqliteStore.open(tmp_path)
    assert [(each.payment_hash, each.hold) for each in await store.watched(NOW)] == [("p2", False)]
    deposit = await store.deposit("p2", 7_000, NOW, receipt_for("bob"))
    assert deposit is not None
    assert deposit.paid
    (busy,) = await store.jobs([JobState.RUNNING])
    await post(store, busy, 2_000)
    await promised(store, "new", 3_000)
    assert await store.balance("alice") == Balance(4_000, 0)
    await store.close()
    db = database(tmp_path)
    check_books(db)
    db.close()


async def test_the_references_to_a_job_still_hold(tmp_path: Path) -> None:
    old_database(tmp_path).close()
    await (await SqliteStore.open(tmp_path)).close()
    db = database(tmp_path)
    db.execute("PRAGMA foreign_keys = ON")
    for statement in (
        "DELETE FROM jobs WHERE id = 'done'",
        "INSERT INTO holds VALUES ('nowhere', 'alice', 1, 'open')",
        f"INSERT INTO payments (payment_hash, source, customer, job, bolt11, msat, created_at, expires_at)"
        f" VALUES ('{hash_of(1)}', 'zap', 'alice', 'nowhere', '', 1, 1, 1)",
        "INSERT INTO finished VALUES ('nowhere', '', '', '', '', 1, '', '')",
        "UPDATE jobs SET state = 'lost'",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            db.execute(statement)
    db.execute("UPDATE jobs SET state = 'settling' WHERE id = 'busy'")
    db.close()


async def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    old_database(tmp_path).close()
    await (await SqliteStore.open(tmp_path)).close()
    db = database(tmp_path)
    first = content(db), db.execute("SELECT sql FROM sqlite_master").fetchall()
    await (await SqliteStore.open(tmp_path)).close()
    assert (content(db), db.execute("SELECT sql FROM sqlite_master").fetchall()) == first
    db.close()


async def test_a_database_whose_rows_refer_to_nothing_is_left_as_it_was(tmp_path: Path) -> None:
    old = old_database(tmp_path)
    old.execute("PRAGMA foreign_keys = OFF")
    old.execute("DELETE FROM jobs WHERE id = 'busy'")
    before = content(old), old.execute("SELECT name, sql FROM sqlite_master").fetchall()
    old.close()
    with pytest.raises(StoreError, match="refer to nothing"):
        await SqliteStore.open(tmp_path)
    db = database(tmp_path)
    assert (content(db), db.execute("SELECT name, sql FROM sqlite_master").fetchall()) == before
    db.close()


def test_with_foreign_keys_on_nothing_is_lost_either(tmp_path: Path) -> None:
    db = old_database(tmp_path)
    before = content(db)
    with pytest.raises(sqlite3.IntegrityError):
        migrations.apply(Database(db))
    assert content(db) == before
    db.close()


async def test_what_was_given_back_before_is_known_as_not_billed(tmp_path: Path) -> None:
    old = old_database(tmp_path)
    old.execute(
        "INSERT INTO usage (job, kind, model, input, cached, output, thoughts, estimated, finish, msat, at)"
        " VALUES ('done', 5050, 'flash', 10, 0, 20, 0, '', 'stop', 4000, 3),"
        "        ('free', 5050, 'flash', 20, 0, 40, 0, '', 'length', 0, 3),"
        "        ('void', 5050, 'flash', 40, 0, 80, 0, '', 'error', 0, 3)"
    )
    old.close()
    store = await SqliteStore.open(tmp_path)
    assert [(row.jobs, row.input, row.msat, row.billed) for row in await store.report(0)] == [
        (2, 30, 4_000, True),
        (1, 40, 0, False),
    ]
    await store.close()
    db = database(tmp_path)
    with pytest.raises(sqlite3.IntegrityError):  # what nobody is billed for has no price
        db.execute("UPDATE usage SET msat = 1 WHERE billed = 0")
    db.close()
