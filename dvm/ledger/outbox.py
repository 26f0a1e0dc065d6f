"""Publications on one connection: stored with what they tell of, kept after they were sent."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence

from dvm.ledger.base import Outgoing, Publication

_OUTGOING = "SELECT id, job, role, payload, relays, at FROM outbox"


def store(db: sqlite3.Connection, job_id: str | None, publications: Sequence[Publication], at: int) -> None:
    """Keep them until a relay accepts them. Of a job there is one in each role, ever."""
    for each in publications:
        db.execute(
            "INSERT INTO outbox (id, job, role, payload, relays, at) VALUES (?, ?, ?, ?, ?, ?)",
            (each.id, job_id, each.role, each.payload, relays_to_json(each.relays), at),
        )


def published(db: sqlite3.Connection, ids: Collection[str], at: int) -> None:
    """Some relay has accepted these."""
    db.executemany("UPDATE outbox SET sent_at = ? WHERE id = ? AND sent_at IS NULL", [(at, each) for each in ids])


def unsent(db: sqlite3.Connection, limit: int, skip: Collection[str] = ()) -> list[Outgoing]:
    """What no relay has accepted yet, oldest first, without those of the ids `skip`."""
    query, values = f"{_OUTGOING} WHERE sent_at IS NULL", list[str | int]()
    if skip:
        query += " AND id NOT IN (SELECT value FROM json_each(?))"
        values.append(json.dumps(list(skip)))
    return [_outgoing(row) for row in db.execute(f"{query} ORDER BY seq LIMIT ?", (*values, limit))]


def answers(db: sqlite3.Connection, job_id: str) -> list[Outgoing]:
    """Everything that was published for a job, oldest first."""
    return [_outgoing(row) for row in db.execute(f"{_OUTGOING} WHERE job = ? ORDER BY seq", (job_id,))]


def job_of(db: sqlite3.Connection, event_id: str) -> str | None:
    """The job whose quote or result this event is."""
    row = db.execute(
        "SELECT job FROM outbox WHERE id = ? AND (role = 'quote' OR role = 'result')", (event_id,)
    ).fetchone()
    return row[0] if row else None


def relays_to_json(relays: Sequence[str]) -> str:
    """As the database has them."""
    return json.dumps(relays) if relays else "[]"


def relays_from_json(text: str) -> tuple[str, ...]:
    """As `relays_to_json` wrote them."""
    return tuple(json.loads(text))


def _outgoing(row: tuple[str, str | None, str, str, str, int]) -> Outgoing:
    event_id, job, role, payload, relays, at = row
    return Outgoing(event_id, job, role, payload, relays_from_json(relays), at)
