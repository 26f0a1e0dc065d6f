"""What a job continues, as the ledger keeps it: fixed before it is priced, and never a circle."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database

from dvm.ledger import ConflictError, GatheredInputs, Job, JobState, SqliteStore
from dvm.ledger.schema import migrations
from dvm.ledger.sqlite import FILE
from tests.ledger.books import (
    NOW,
    check_books,
    database,
    hash_of,
    job,
    payment,
    post,
    publication,
    receipt_for,
    settling,
    terms,
    void,
)
from tests.ledger.test_migration import OLD


async def told(store: SqliteStore, name: object, customer: str = "alice", **inputs: Any) -> Job:
    """A delivered job, of which so much was gathered."""
    new = await received(store, name, customer, **inputs)
    await priced(store, new)
    await post(store, await store.claim(new.id, NOW + 60, NOW), 1_000)
    return new


async def received(store: SqliteStore, name: object, customer: str = "alice", **inputs: Any) -> Job:
    new = job(name, customer)
    await store.open_job(new)
    if inputs:
        await store.gathered(new.id, GatheredInputs("digest", **inputs))
    return new


async def priced(store: SqliteStore, of: Job) -> None:
    """And paid for."""
    invoice = payment(of, 5_000)
    await store.quote(of.id, terms(5_000), invoice, publication("quote", of.id), NOW)
    await store.deposit(invoice.payment_hash, 5_000, NOW, receipt_for(of.customer))


async def test_a_conversation_is_read_from_its_beginning(store: SqliteStore) -> None:
    one = await told(store, 1, session="s")
    two = await told(store, 2, prior=one.id)
    three = await told(store, 3, prior=two.id, session="s")
    aside = await told(store, 4, prior=one.id)
    found = await store.turns(three.id, 10)
    assert [(each.id, each.state, result) for each, result in found] == [
        (each.id, JobState.DELIVERED, "{}") for each in (one, two, three)
    ]
    assert [each.id for each, _ in await store.turns(aside.id, 10)] == [one.id, aside.id]
    assert [each.id for each, _ in await store.turns(three.id, 2)] == [two.id, three.id]
    prior = await store.prior(three.id)
    assert prior is not None
    assert (prior.id, prior.result) == (two.id, hash_of("result", two.id))
    assert await store.prior(one.id) is None


async def test_a_session_is_at_its_newest_delivered_job(store: SqliteStore) -> None:
    one = await told(store, 1, session="s")
    await received(store, 2, session="s", prior=one.id)
    await told(store, 3, session="another")
    newest = await store.newest_of("s")
    assert newest is not None
    assert newest.id == one.id
    assert await store.newest_of("none") is None


async def test_only_what_is_delivered_is_continued_by_its_customer_before_there_is_a_price(store: SqliteStore) -> None:
    one, open_one = await told(store, 1), await received(store, 2)
    theirs = await told(store, 3, customer="bob")
    other_kind = hash_of("of another kind")
    await store.open_job(Job(other_kind, "alice", 5001, JobState.RECEIVED, "{}", NOW, NOW))
    new = await received(store, 4)
    for prior in (open_one.id, theirs.id, new.id, hash_of("nowhere")):
        with pytest.raises(ConflictError):
            await store.gathered(new.id, GatheredInputs("digest", prior))
    with pytest.raises(ConflictError):
        await store.gathered(other_kind, GatheredInputs("digest", one.id))
    await store.gathered(new.id, GatheredInputs("digest", one.id))
    await store.gathered(new.id, GatheredInputs("anew", one.id, "s"))  # as after a restart
    assert await store.gathered_digest(new.id) == "anew"
    await priced(store, new)
    for late in (new.id, one.id, hash_of("nowhere")):
        with pytest.raises(ConflictError):
            await store.gathered(late, GatheredInputs("digest", theirs.id))
    assert await store.gathered_digest(new.id) == "anew"


async def test_even_a_circle_that_somebody_wrote_into_the_file_has_an_end(store: SqliteStore, tmp_path: Path) -> None:
    one = await told(store, 1, session="s")
    two = await told(store, 2, prior=one.id)
    db = database(tmp_path)
    with pytest.raises(sqlite3.IntegrityError, match="is fixed"):
        db.execute("UPDATE conversations SET prior = ? WHERE job = ?", (two.id, one.id))
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        db.execute("INSERT INTO conversations (job, prior) VALUES (?1, ?1)", (hash_of("x"),))
    db.execute("DROP TRIGGER conversations_are_kept")
    db.execute("UPDATE conversations SET prior = ? WHERE job = ?", (two.id, one.id))
    assert len(await store.turns(two.id, 65)) == 65
    db.execute("UPDATE conversations SET prior = NULL WHERE job = ?", (one.id,))
    db.close()


@pytest.mark.parametrize("end", ["delivered", "failed", "refused", "settled"])
async def test_what_was_gathered_is_forgotten_when_its_job_ends(store: SqliteStore, tmp_path: Path, end: str) -> None:
    if end == "settled":
        of, _ = await settling(store, 1, 5_000, 1_000)
        with closing(database(tmp_path)) as db:
            db.execute("INSERT INTO facts VALUES (?, 'digest')", (f"inputs {of.id}",))
        await store.settle(of.id, 5_000, receipt_for("alice"), NOW)
    else:
        of = await received(store, 1, session="s")
        if end == "refused":
            assert await store.gathered_digest(of.id) == "digest"
            await store.close_unpaid(of.id, to=JobState.REJECTED, reason="x", publications=(), at=NOW, stamp=NOW)
        else:
            await priced(store, of)
            running = await store.claim(of.id, NOW + 60, NOW)
            assert await store.gathered_digest(of.id) == "digest"
            await (post(store, running, 1_000) if end == "delivered" else void(store, running))
    assert await store.gathered_digest(of.id) is None
    links = database(tmp_path).execute("SELECT count(*) FROM conversations").fetchone()[0]
    assert links == (1 if end == "delivered" else 0)


async def test_a_database_without_conversations_is_taken_over(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    migrations.apply(Database(db), stop_before="m004_conversations")
    db.executescript(
        OLD.replace("2, 'r1'),", "2, 'r1', 0, NULL, NULL, NULL),").replace(
            "NULL, NULL, NULL);", "NULL, NULL, NULL, 0, NULL, NULL, NULL);"
        )
    )
    db.executescript(
        "INSERT INTO outbox (id, job, role, payload, relays, at) VALUES ('r', 'done', 'result', 'said', '[]', 3);"
        "INSERT INTO facts VALUES ('inputs done', 'a'), ('inputs busy', 'b'), ('inputs bad', 'c'), ('inputs new', 'd');"
    )
    db.close()
    store = await SqliteStore.open(tmp_path)
    assert [await store.gathered_digest(each) for each in ("done", "busy", "bad", "new")] == [None, "b", None, None]
    new = await received(store, "new", prior="done")
    assert [(each.id, said) for each, said in await store.turns("done", 10)] == [("done", "said")]
    prior = await store.prior(new.id)
    assert prior is not None
    assert prior.id == "done"
    await store.close()
    db = database(tmp_path)
    check_books(db)
    db.close()
