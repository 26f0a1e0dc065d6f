"""What the books say of the last days, for `dvm reconcile`: asked beside a running daemon, without changing it."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from dvm.ledger import payouts
from dvm.ledger.base import Payout, PayoutState
from dvm.ledger.queries import WATCH_SECONDS

_PAYMENT = "SELECT payment_hash, msat, created_at, expires_at, received_msat, hold FROM payments"


@dataclass(frozen=True, slots=True)
class Incoming:
    """A payment that is or was watched for, in msat; `received_msat` is None until it is credited."""

    payment_hash: str
    msat: int
    created_at: int
    expires_at: int
    received_msat: int | None
    hold: bool


def incoming(db: sqlite3.Connection, since: int, at: int) -> list[Incoming]:
    """What was made since then, and whatever is still watched for at that time; oldest first."""
    rows = db.execute(
        f"{_PAYMENT} WHERE created_at >= ?1 OR (settled_at IS NULL AND cancelled_at IS NULL AND expires_at > ?2)"
        " ORDER BY created_at, payment_hash",
        (since, at - WATCH_SECONDS),
    )
    return [_incoming(row) for row in rows]


def incoming_of(db: sqlite3.Connection, payment_hashes: Collection[str]) -> list[Incoming]:
    """These payments, as they stand now."""
    found = (db.execute(f"{_PAYMENT} WHERE payment_hash = ?", (each,)).fetchone() for each in payment_hashes)
    return [_incoming(row) for row in found if row is not None]


def outgoing(db: sqlite3.Connection, since: int) -> list[Payout]:
    """All payouts that are reserved, and those that have ended since then; oldest first."""
    ended = (PayoutState.PAID, PayoutState.FAILED)
    reserved = payouts.in_states(db, (PayoutState.RESERVED,), -1)
    return sorted(
        [*reserved, *(each for each in payouts.in_states(db, ended, -1) if (each.ended_at or 0) >= since)],
        key=lambda each: (each.created_at, each.id),
    )


def unsent(db: sqlite3.Connection, before: int) -> tuple[int, int | None]:
    """How many events from before that time no relay has taken, and when the oldest was made."""
    found: tuple[int, int | None] = db.execute(
        "SELECT count(*), min(at) FROM outbox WHERE sent_at IS NULL AND at < ?", (before,)
    ).fetchone()
    return found


def receipts(db: sqlite3.Connection, since: int, limit: int) -> list[str]:
    """The ids of receipts made since then that some relay has taken, newest first."""
    rows = db.execute(
        "SELECT id FROM outbox WHERE role = 'receipt' AND at >= ? AND sent_at IS NOT NULL ORDER BY seq DESC LIMIT ?",
        (since, limit),
    )
    return [row[0] for row in rows]


def _incoming(row: tuple[str, int, int, int, int | None, int]) -> Incoming:
    return Incoming(*row[:5], hold=bool(row[5]))
