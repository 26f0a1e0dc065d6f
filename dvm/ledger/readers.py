"""Readers: connections beside the writer's, kept open from one query to the next.

Opening one costs far more than most queries: the schema is read anew. A kept one holds no transaction between two
queries, so it neither sees an old state nor keeps the log from being copied back.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
MOST_KEPT = 4  # further ones are opened for one query
CACHE_KIB = 2048  # of each: the writer's own cache is for what is read and written again and again


class Readers:
    """Runs queries, each on a connection of its own, from any thread. `connect` opens one."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False

    def run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """What `query` finds; it cannot write. Raises sqlite3.Error, and whatever the query raises."""
        with self._lock:
            db = self._idle.pop() if self._idle else None
        fresh = db is None
        db = db or self._connect()
        try:
            if fresh:
                db.execute("PRAGMA query_only = ON")
                db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            db.execute("BEGIN")  # what several statements find is of one moment
            found = query(db)
            db.execute("ROLLBACK")
        except BaseException:  # who knows in what state it is
            db.close()
            raise
        with self._lock:
            if kept := not self._closed and len(self._idle) < MOST_KEPT:
                self._idle.append(db)
        if not kept:
            db.close()
        return found

    def close(self) -> None:
        """Keep none any more. What is asked later is still answered."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for db in idle:
            db.close()
