"""What a job's inputs were, and which earlier job it continues, on one connection, inside the caller's transaction.

A link leads from a job that has not been priced to one that was delivered, of the same customer and kind, and is
never changed afterwards: so no circle of links can come about, whatever customers write.
"""

from __future__ import annotations

import sqlite3

from dvm.ledger import queries
from dvm.ledger.base import ConflictError, Job, JobState
from dvm.ledger.records import GatheredInputs

_COLUMNS = ", ".join(f"jobs.{each.strip()}" for each in queries.JOB_COLUMNS.split(","))
_MAY_CONTINUE = """SELECT 1 FROM jobs JOIN jobs AS earlier ON earlier.id = ? AND earlier.state = 'delivered'
    WHERE jobs.id = ? AND jobs.customer = earlier.customer AND jobs.kind = earlier.kind"""
_TURNS = f"""
    WITH RECURSIVE turns(job, depth) AS (
        SELECT ?1, 1
        UNION ALL
        SELECT prior, depth + 1 FROM turns JOIN conversations USING (job) WHERE prior IS NOT NULL AND depth < ?2
    )
    SELECT {_COLUMNS}, coalesce(payload, '') FROM turns
        JOIN jobs ON jobs.id = turns.job
        LEFT JOIN outbox ON outbox.job = turns.job AND role = 'result'
        ORDER BY depth DESC
"""  # noqa: S608 - the columns are ours


def gathered(db: sqlite3.Connection, job_id: str, inputs: GatheredInputs) -> None:
    """Remember what was gathered for a received job, and what it continues."""
    row = db.execute("SELECT state FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if row is None or row[0] != JobState.RECEIVED:
        raise ConflictError(f"job {job_id} is {row[0] if row else 'unknown'}")
    if inputs.prior is not None and db.execute(_MAY_CONTINUE, (inputs.prior, job_id)).fetchone() is None:
        raise ConflictError(f"job {job_id} cannot continue {inputs.prior}")
    db.execute(
        "INSERT INTO facts VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (_key(job_id), inputs.digest),
    )
    db.execute("DELETE FROM conversations WHERE job = ?", (job_id,))
    if inputs.prior is not None or inputs.session is not None:
        db.execute(
            "INSERT INTO conversations (job, prior, session) VALUES (?, ?, ?)", (job_id, inputs.prior, inputs.session)
        )


def digest(db: sqlite3.Connection, job_id: str) -> str | None:
    """That of what was gathered for a job that has not ended."""
    row = db.execute("SELECT value FROM facts WHERE key = ?", (_key(job_id),)).fetchone()
    return row[0] if row else None


def prior(db: sqlite3.Connection, job_id: str) -> Job | None:
    """The job that this one continues."""
    row = db.execute(
        f"SELECT {_COLUMNS} FROM conversations JOIN jobs ON jobs.id = prior WHERE job = ?",  # noqa: S608 - ours
        (job_id,),
    ).fetchone()
    return queries.job_of(row) if row else None


def newest(db: sqlite3.Connection, session: str) -> Job | None:
    """The newest delivered job of a session."""
    row = db.execute(
        f"SELECT {_COLUMNS} FROM conversations JOIN jobs ON jobs.id = job"  # noqa: S608 - the columns are ours
        " WHERE session = ? AND state = 'delivered' ORDER BY seq DESC LIMIT 1",
        (session,),
    ).fetchone()
    return queries.job_of(row) if row else None


def turns(db: sqlite3.Connection, job_id: str, limit: int) -> list[tuple[Job, str]]:
    """A delivered job after those that it continues, at most `limit` in all, each with its result, or ""."""
    return [(queries.job_of(row[:-1]), row[-1]) for row in db.execute(_TURNS, (job_id, limit))]


def ended(db: sqlite3.Connection, job_id: str, to: JobState) -> None:
    """Nothing is compared with its inputs any more, and only what was delivered is ever continued."""
    db.execute("DELETE FROM facts WHERE key = ?", (_key(job_id),))
    if to is not JobState.DELIVERED:
        db.execute("DELETE FROM conversations WHERE job = ?", (job_id,))


def _key(job_id: str) -> str:
    return f"inputs {job_id}"
