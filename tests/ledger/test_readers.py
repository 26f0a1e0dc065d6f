"""Connections that are kept for reading: few, never in the writer's way, and gone when the store is."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dvm.ledger.readers import MOST_KEPT, Readers


class Opened:
    """A database that anybody may write, and every connection that its readers have opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.writer = self.connect()
        self.writer.execute("PRAGMA journal_mode = WAL")
        self.writer.execute("CREATE TABLE numbers (number)")
        self.opened: list[sqlite3.Connection] = []
        self.readers = Readers(self._for_reading)

    def connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)

    def _for_reading(self) -> sqlite3.Connection:
        self.opened.append(self.connect())
        return self.opened[-1]

    def write(self, number: int) -> None:
        self.writer.execute("INSERT INTO numbers VALUES (?)", (number,))

    def numbers(self) -> list[int]:
        return self.readers.run(numbers)

    def left_open(self) -> int:
        return sum(map(is_open, self.opened))


def numbers(db: sqlite3.Connection) -> list[int]:
    return [row[0] for row in db.execute("SELECT number FROM numbers")]


def is_open(db: sqlite3.Connection) -> bool:
    try:
        db.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return False
    return True


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Opened]:
    opened = Opened(tmp_path / "some.db")
    yield opened
    opened.readers.close()
    opened.writer.close()


def test_one_connection_serves_query_after_query_and_sees_what_was_written_in_between(store: Opened) -> None:
    for number in range(3):
        store.write(number)
        assert store.numbers() == list(range(number + 1))
    assert len(store.opened) == 1


def test_a_kept_connection_does_not_keep_the_log_from_being_copied_back(store: Opened) -> None:
    store.write(1)
    assert store.numbers() == [1]
    busy, log, _ = store.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert (busy, log) == (0, 0)
    store.write(2)
    assert store.numbers() == [1, 2]


def test_all_that_one_query_finds_is_of_one_moment(store: Opened) -> None:
    def twice(db: sqlite3.Connection) -> tuple[list[int], list[int]]:
        before = numbers(db)
        store.write(1)
        return before, numbers(db)

    assert store.readers.run(twice) == ([], [])
    assert store.numbers() == [1]


def test_a_query_that_fails_leaves_nothing_behind(store: Opened) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        store.readers.run(lambda db: db.execute("SELECT * FROM strangers"))
    with pytest.raises(ZeroDivisionError):
        store.readers.run(lambda db: 1 // len(numbers(db)))
    assert store.left_open() == 0
    store.write(1)
    assert store.numbers() == [1]


def test_nothing_can_be_written(store: Opened) -> None:
    for _ in range(2):  # a new connection, and then a kept one
        store.numbers()
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            store.readers.run(lambda db: db.execute("DELETE FROM numbers"))


def test_of_many_at_once_only_a_few_are_kept_and_none_after_the_end(store: Opened) -> None:
    together = threading.Barrier(MOST_KEPT + 3, timeout=10)
    with ThreadPoolExecutor(MOST_KEPT + 3) as threads:
        for done in [threads.submit(store.readers.run, lambda _db: together.wait()) for _ in range(MOST_KEPT + 3)]:
            done.result()
    assert len(store.opened) == MOST_KEPT + 3
    assert store.left_open() == MOST_KEPT
    store.readers.close()
    assert store.left_open() == 0
    assert store.numbers() == []  # answered all the same
    assert store.left_open() == 0
