"""The writer: what it reports is on the disk, and what fails takes nothing else with it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from dvm.ledger import StoreError
from dvm.ledger.writer import Operation, Writer


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[Writer]:
    def connect() -> sqlite3.Connection:
        db = sqlite3.connect(tmp_path / "test.db", isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY)")
        return db

    writer = Writer(connect)
    yield writer
    await writer.close()


@pytest.fixture
def committed(tmp_path: Path) -> Callable[[], set[int]]:
    """What another connection sees."""

    def look() -> set[int]:
        db = sqlite3.connect(tmp_path / "test.db")
        try:
            return {row[0] for row in db.execute("SELECT n FROM t")}
        finally:
            db.close()

    return look


def insert(n: int) -> Operation[int]:
    def operation(db: sqlite3.Connection) -> int:
        db.execute("INSERT INTO t VALUES (?)", (n,))
        return n

    return operation


def everything(db: sqlite3.Connection) -> set[int]:
    return {row[0] for row in db.execute("SELECT n FROM t")}


async def test_what_is_reported_is_committed(writer: Writer, committed: Callable[[], set[int]]) -> None:
    async def one(n: int) -> None:
        assert await writer.submit(insert(n)) in committed()

    await asyncio.gather(*(one(n) for n in range(300)))


async def test_what_is_read_without_haste_is_committed_when_it_is_told(
    writer: Writer, committed: Callable[[], set[int]]
) -> None:
    async def look() -> None:
        found = await writer.submit(everything)
        assert found <= committed()

    for n in range(0, 200, 2):
        writes = [writer.submit(insert(n)), writer.submit(insert(n + 1), early=True)]
        await asyncio.gather(look(), *writes)


async def test_what_is_early_is_seen_by_whatever_follows(writer: Writer) -> None:
    for n in range(100):
        await writer.submit(insert(n), early=True)
        assert n in await writer.submit(everything, early=True)


async def test_one_failure_takes_nothing_else_with_it(writer: Writer, committed: Callable[[], set[int]]) -> None:
    outcomes = await asyncio.gather(
        writer.submit(insert(1), early=True),
        writer.submit(insert(2)),
        writer.submit(insert(1)),
        writer.submit(insert(3)),
        return_exceptions=True,
    )
    assert outcomes[0] == 1
    assert outcomes[1] == 2
    assert isinstance(outcomes[2], StoreError)
    assert outcomes[3] == 3
    assert committed() == {1, 2, 3}


async def test_what_was_reported_early_and_then_not_kept_is_told_to_the_operator(
    writer: Writer, caplog: pytest.LogCaptureFixture, committed: Callable[[], set[int]]
) -> None:
    broken = False

    def fails_when_repeated(db: sqlite3.Connection) -> int:
        nonlocal broken
        if broken:
            raise sqlite3.OperationalError("disk I/O error")
        broken = True
        return 7

    with caplog.at_level(logging.ERROR):
        assert await writer.submit(fails_when_repeated, early=True) == 7
        with pytest.raises(StoreError):
            await writer.submit(lambda db: db.execute("INSERT INTO nowhere VALUES (1)"))
        await writer.submit(insert(1))
    assert committed() == {1}
    assert "did not keep" in caplog.text


async def test_closing_does_what_is_queued_and_refuses_the_rest(
    writer: Writer, committed: Callable[[], set[int]]
) -> None:
    futures = [writer.submit(insert(n)) for n in range(50)]
    await writer.close()
    assert [await future for future in futures] == list(range(50))
    assert committed() == set(range(50))
    with pytest.raises(StoreError, match="closed"):
        await writer.submit(insert(99))
