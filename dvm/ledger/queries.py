"""What is asked of the database without changing it; also used by the commands beside a running daemon."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection

from dvm.ledger import money
from dvm.ledger.base import Balance, Entry, Job, JobState, Outgoing, PendingPayment, UsageRow

# How long after its quote's end a payment is still looked for. It can settle late only while an HTLC is
# under way, which Lightning bounds to about two weeks (BOLT 2, cltv_expiry_too_far).
WATCH_SECONDS = 14 * 86_400

JOB_COLUMNS = (
    "id, customer, kind, state, request, received_at, stamp, model, price, input_tokens, max_output,"
    " quote_msat, expires_at, attempts, lease_until, reason, result"
)
_JOB = f"SELECT {JOB_COLUMNS} FROM jobs"  # noqa: S608 - the columns are ours
_OUTGOING = "SELECT id, job, role, payload, relays, at FROM outbox"


def find_job(db: sqlite3.Connection, job_id: str) -> Job | None:
    row = db.execute(f"{_JOB} WHERE id = ?", (job_id,)).fetchone()
    return job_of(row) if row else None


def jobs(db: sqlite3.Connection, states: Collection[JobState], limit: int) -> list[Job]:
    marks = ", ".join("?" * len(states))
    rows = db.execute(f"{_JOB} WHERE state IN ({marks}) ORDER BY received_at, id LIMIT ?", (*sorted(states), limit))
    return [job_of(row) for row in rows]


def quoted(db: sqlite3.Connection) -> dict[str, int]:
    """How many quotes are open, by customer; without reading what they ask."""
    return dict(db.execute("SELECT customer, count(*) FROM jobs WHERE state = 'quoted' GROUP BY customer").fetchall())


def overdue(db: sqlite3.Connection, at: int, limit: int) -> list[tuple[str, str]]:
    """Job and payment hash of the quotes whose time is up."""
    return db.execute(
        "SELECT jobs.id, payment_hash FROM jobs JOIN payments ON payments.job = jobs.id"
        " WHERE state = 'quoted' AND jobs.expires_at <= ? ORDER BY jobs.expires_at LIMIT ?",
        (at, limit),
    ).fetchall()


def watched(db: sqlite3.Connection, at: int) -> list[PendingPayment]:
    rows = db.execute(
        "SELECT payment_hash, source, customer, job, bolt11, msat, created_at, expires_at FROM payments"
        " WHERE settled_at IS NULL AND expires_at > ? ORDER BY created_at",
        (at - WATCH_SECONDS,),
    )
    return [PendingPayment(*row) for row in rows]


def unsent(db: sqlite3.Connection, limit: int, skip: Collection[str] = ()) -> list[Outgoing]:
    query, values = f"{_OUTGOING} WHERE sent_at IS NULL", list[str | int]()
    if skip:
        query += " AND id NOT IN (SELECT value FROM json_each(?))"
        values.append(json.dumps(list(skip)))
    return [_outgoing(row) for row in db.execute(f"{query} ORDER BY seq LIMIT ?", (*values, limit))]


def answers(db: sqlite3.Connection, job_id: str) -> list[Outgoing]:
    return [_outgoing(row) for row in db.execute(f"{_OUTGOING} WHERE job = ? ORDER BY seq", (job_id,))]


def balance(db: sqlite3.Connection, pubkey: str) -> Balance:
    held = db.execute(
        "SELECT coalesce(sum(msat), 0) FROM holds WHERE customer = ? AND state = 'open'", (pubkey,)
    ).fetchone()[0]
    return Balance(money.available(db, pubkey), held)


def balances(db: sqlite3.Connection, limit: int) -> list[tuple[str, Balance]]:
    """The customers with money here, the largest balance first."""
    rows = db.execute(
        "SELECT substr(name, 10) FROM accounts WHERE name LIKE 'customer:%' AND msat > 0"
        " UNION SELECT customer FROM holds WHERE state = 'open'"
    ).fetchall()
    found = [(row[0], balance(db, row[0])) for row in rows]
    return sorted(found, key=lambda each: (-each[1].available, each[0]))[:limit]


def statement(db: sqlite3.Connection, pubkey: str, limit: int) -> list[Entry]:
    rows = db.execute(
        "SELECT seq, id, job, at, paid, cost, after FROM receipts WHERE customer = ? ORDER BY seq DESC LIMIT ?",
        (pubkey, limit),
    )
    return [Entry(*row) for row in rows]


def accounts(db: sqlite3.Connection) -> dict[str, int]:
    found = {"wallet": 0, "customers": 0, "held": 0, "revenue": 0, "fees": 0}
    rows = db.execute(
        "SELECT CASE WHEN name LIKE 'customer:%' THEN 'customers' WHEN name LIKE 'held:%' THEN 'held' ELSE name END,"
        " sum(msat) FROM accounts GROUP BY 1"
    )
    found.update(rows)
    return found


def report(db: sqlite3.Connection, since: int) -> list[UsageRow]:
    rows = db.execute(
        "SELECT strftime('%Y-%m-%d', at, 'unixepoch') AS day, kind, model, count(*), sum(input), sum(cached),"
        " sum(output), sum(thoughts), sum(msat) FROM usage WHERE at >= ? GROUP BY day, kind, model ORDER BY 1, 2, 3",
        (since,),
    )
    return [UsageRow(*row) for row in rows]


def recall(db: sqlite3.Connection, key: str) -> str | None:
    row = db.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
    return row[0] if row else None


def job_of(row: tuple[object, ...]) -> Job:
    """The job in a row of JOB_COLUMNS."""
    fields = list(row)
    fields[3] = JobState(str(fields[3]))
    return Job(*fields)  # type: ignore[arg-type]


def _outgoing(row: tuple[str, str | None, str, str, str, int]) -> Outgoing:
    event_id, job, role, payload, relays, at = row
    return Outgoing(event_id, job, role, payload, tuple(json.loads(relays)), at)
