"""What is asked of the database without changing it; also used by the commands beside a running daemon."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import replace

from dvm.ledger import money
from dvm.ledger.audit import audit as audit
from dvm.ledger.base import Balance, Entry, Job, JobState, PendingPayment, Unsettled, UsageRow

# How long after its quote's end a payment is still looked for. It can settle late only while an HTLC is
# under way, which Lightning bounds to about two weeks (BOLT 2, cltv_expiry_too_far).
WATCH_SECONDS = 14 * 86_400
# The invoice of a zap lives for minutes, anybody may have one made, and nothing was ever paid for most of them:
# these are looked for long enough for an outage of a weekend.
ZAP_WATCH_SECONDS = 3 * 86_400

JOB_COLUMNS = (
    "id, customer, kind, state, request, received_at, stamp, model, price, input_tokens, max_output,"
    " quote_msat, expires_at, attempts, lease_until, reason, result"
)
_JOB = f"SELECT {JOB_COLUMNS} FROM jobs"  # noqa: S608 - the columns are ours
PAYMENT_COLUMNS = (
    "payments.payment_hash, payments.source, payments.customer, payments.job, payments.bolt11, payments.msat,"
    " payments.created_at, payments.expires_at, payments.hold, payments.zap"
)
_PAYMENT = f"SELECT {PAYMENT_COLUMNS} FROM payments"  # noqa: S608 - the columns are ours
_WATCHED = (
    "settled_at IS NULL AND cancelled_at IS NULL AND expires_at > ? AND (source <> 'zap' OR expires_at > ?)"
    " ORDER BY created_at"
)


def find_job(db: sqlite3.Connection, job_id: str) -> Job | None:
    row = db.execute(f"{_JOB} WHERE id = ?", (job_id,)).fetchone()
    return job_of(row) if row else None


def jobs(db: sqlite3.Connection, states: Collection[JobState], limit: int) -> list[Job]:
    # One comparison for each, and not IN: so SQLite sees that the index of the open jobs is enough.
    found = " OR ".join(["state = ?"] * len(states)) or "FALSE"
    rows = db.execute(f"{_JOB} WHERE {found} ORDER BY received_at, id LIMIT ?", (*sorted(states), limit))
    return [job_of(row) for row in rows]


def cancellable(db: sqlite3.Connection, limit: int) -> list[tuple[str, int]]:
    """Open jobs, and when each was received: those with money behind them first, then the newest."""
    found: list[tuple[str, int]] = []
    for states in (("running", "paid", "waiting"), ("received", "quoted")):
        rows: list[tuple[str, int]] = []
        for state in states:  # each by itself, and said outright: read in the order of the index, and no further
            asked = f"SELECT id, received_at FROM jobs WHERE state = '{state}' ORDER BY received_at DESC LIMIT ?"  # noqa: S608
            rows += db.execute(asked, (limit,)).fetchall()
        found += sorted(rows, key=lambda row: -row[1])
    return found[:limit]


def quoted(db: sqlite3.Connection) -> dict[str, int]:
    """How many quotes are open, by customer; without reading what they ask."""
    return dict(db.execute("SELECT customer, count(*) FROM jobs WHERE state = 'quoted' GROUP BY customer").fetchall())


def overdue(db: sqlite3.Connection, at: int, limit: int) -> list[tuple[str, str | None]]:
    """The quotes whose time is up, each with the payment that is most likely to have paid it after all."""
    return db.execute(
        "SELECT id, (SELECT payment_hash FROM payments WHERE payments.job = jobs.id AND settled_at IS NULL"
        " AND cancelled_at IS NULL ORDER BY source = 'zap', payments.created_at LIMIT 1)"
        " FROM jobs WHERE state = 'quoted' AND expires_at <= ? ORDER BY expires_at LIMIT ?",
        (at, limit),
    ).fetchall()


def pending(db: sqlite3.Connection, payment_hash: str) -> PendingPayment | None:
    row = db.execute(f"{_PAYMENT} WHERE payment_hash = ?", (payment_hash,)).fetchone()
    return payment_of(row) if row else None


def watched(db: sqlite3.Connection, at: int) -> list[PendingPayment]:
    rows = db.execute(f"{_PAYMENT} WHERE {_WATCHED}", _since(at))
    return [payment_of(row) for row in rows]


def unsettled(db: sqlite3.Connection, at: int) -> Unsettled:
    asked = f"SELECT payment_hash, created_at, hold, job FROM payments WHERE {_WATCHED}"  # noqa: S608 - ours
    rows = db.execute(asked, _since(at)).fetchall()
    holds = {payment_hash: job for payment_hash, _, hold, job in rows if hold}
    quoted = {row[0] for row in db.execute("SELECT id FROM jobs WHERE state = 'quoted'")} if holds else set()
    return Unsettled(
        payment_hashes=[row[0] for row in rows],
        since=rows[0][1] if rows else 0,
        holds=frozenset(holds),
        idle=frozenset(payment_hash for payment_hash, job in holds.items() if job in quoted),
    )


def _since(at: int) -> tuple[int, int]:
    return at - WATCH_SECONDS, at - ZAP_WATCH_SECONDS


def balance(db: sqlite3.Connection, pubkey: str) -> Balance:
    held = db.execute(
        "SELECT coalesce(sum(msat), 0) FROM holds WHERE customer = ? AND state = 'open'", (pubkey,)
    ).fetchone()[0]
    leaving = db.execute(
        "SELECT coalesce(sum(msat + fee_limit_msat), 0) FROM payouts WHERE customer = ? AND state = 'reserved'",
        (pubkey,),
    ).fetchone()[0]
    return Balance(money.available(db, pubkey), held, leaving)


def balances(db: sqlite3.Connection, limit: int) -> list[tuple[str, Balance]]:
    """The customers with money here, the largest balance first."""
    rows = db.execute(
        "SELECT substr(name, 10) FROM accounts WHERE name LIKE 'customer:%' AND msat > 0"
        " UNION SELECT customer FROM holds WHERE state = 'open'"
        " UNION SELECT customer FROM payouts WHERE state = 'reserved' AND customer IS NOT NULL"
    ).fetchall()
    found = [(row[0], balance(db, row[0])) for row in rows]
    return sorted(found, key=lambda each: (-each[1].available, each[0]))[:limit]


def statement(db: sqlite3.Connection, pubkey: str, limit: int, before: int | None = None) -> list[Entry]:
    """The newest receipts first; with `before` only those of a lower number."""
    rows = db.execute(
        "SELECT seq, id, job, at, paid, cost, after FROM receipts WHERE customer = ?1 AND seq < coalesce(?2, 1 << 62)"
        " ORDER BY seq DESC LIMIT ?3",
        (pubkey, before, limit),
    )
    return [Entry(*row) for row in rows]


def accounts(db: sqlite3.Connection) -> dict[str, int]:
    found = {"wallet": 0, "customers": 0, "held": 0, "leaving": 0, "revenue": 0, "fees": 0}
    rows = db.execute(
        "SELECT CASE WHEN name LIKE 'customer:%' THEN 'customers' WHEN name LIKE 'held:%' THEN 'held'"
        " WHEN name LIKE 'payout:%' THEN 'leaving' ELSE name END, sum(msat) FROM accounts GROUP BY 1"
    )
    found.update(rows)
    return found


def report(db: sqlite3.Connection, since: int) -> list[UsageRow]:
    rows = db.execute(
        "SELECT strftime('%Y-%m-%d', at, 'unixepoch') AS day, kind, model, count(*), sum(input), sum(cached),"
        " sum(output), sum(thoughts), sum(msat), billed FROM usage WHERE at >= ?"
        " GROUP BY day, kind, model, billed ORDER BY 1, 2, 3, billed DESC",
        (since,),
    )
    return [replace(UsageRow(*row), billed=bool(row[-1])) for row in rows]


def job_of(row: tuple[object, ...]) -> Job:
    """The job in a row of JOB_COLUMNS."""
    fields = list(row)
    fields[3] = JobState(str(fields[3]))
    return Job(*fields)  # type: ignore[arg-type]


def payment_of(row: tuple[object, ...]) -> PendingPayment:
    """The payment in a row of PAYMENT_COLUMNS."""
    fields = list(row)
    fields[8] = bool(fields[8])
    return PendingPayment(*fields)  # type: ignore[arg-type]
