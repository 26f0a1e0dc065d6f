"""Whether the database is whole: asked of the file itself, beside a running daemon, without changing it."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from sqlite_utils import Database

from dvm.ledger.base import StoreError
from dvm.ledger.schema import migrations
from dvm.ledger.sqlite import FILE, read

_STEPS = 10_000  # of SQLite's machine, between two looks at the clock


@dataclass(frozen=True, slots=True)
class Examined:
    """`damage` is what SQLite found, at most ten lines. `sum_msat` over all accounts must be 0.

    `pending`: migrations that the next start applies. `foreign`: ones that this version does not know, made by a
    newer one. `complete` is False where time was up before all pages had been looked at.
    """

    damage: tuple[str, ...]
    complete: bool
    sum_msat: int
    jobs: int
    pending: tuple[str, ...]
    foreign: tuple[str, ...]


def exists(directory: Path) -> bool:
    """Whether there is a database at all: the first `dvm run` makes it."""
    return (directory / FILE).exists()


def examine(directory: Path, seconds: float) -> Examined:
    """Look at the database in `directory`; the search for damage ends after `seconds`. Blocks.

    Raises StoreError where it cannot be read.
    """
    deadline = time.monotonic() + seconds

    def look(db: sqlite3.Connection) -> Examined:
        applied = [each.name for each in migrations.applied(Database(db))]
        known = [each.name for each in migrations.pending(Database(memory=True))]
        pending = tuple(name for name in known if name not in applied)
        foreign = tuple(name for name in applied if name not in known)
        tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        total = db.execute("SELECT coalesce(sum(msat), 0) FROM accounts").fetchone()[0] if "accounts" in tables else 0
        jobs = db.execute("SELECT count(*) FROM jobs").fetchone()[0] if "jobs" in tables else 0
        damage, complete = _damage(db, deadline)
        return Examined(damage, complete, total, jobs, pending, foreign)

    try:
        return read(directory, look)
    except (TypeError, ValueError) as error:  # a file whose tables are not what their names say
        raise StoreError(f"{directory / FILE}: not a ledger ({type(error).__name__})") from None


def _damage(db: sqlite3.Connection, deadline: float) -> tuple[tuple[str, ...], bool]:
    """What `PRAGMA quick_check` finds, and whether it came to its end."""
    db.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        rows = [str(row[0]) for row in db.execute("PRAGMA quick_check(10)")]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return (), False
    finally:
        db.set_progress_handler(None, 0)
    return tuple(row for row in rows if row != "ok"), True
