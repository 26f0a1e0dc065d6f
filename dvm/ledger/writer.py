"""One writer: a thread that owns the writing connection and commits many operations at once.

Operations that arrive while a commit is under way form the next batch, so the cost of making money durable
(one fsync) is shared, and the event loop never waits for a disk.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from dvm.ledger.base import StoreError

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]
MAX_BATCH = 512


@dataclass(slots=True)
class _Task:
    operation: Operation[Any]
    durable: bool
    future: asyncio.Future[Any]
    outcome: Any = None
    error: Exception | None = None


class Writer:
    """Runs operations, in their order, each all or nothing.

    An operation may be run twice: when another of its batch fails, the batch is rolled back and each is
    done alone. It must therefore do nothing but read and write the database.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._connection = connect()
        self._synchronous = ""
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation[T], *, durable: bool = True) -> asyncio.Future[T]:
        """Queue an operation. Its future resolves after the commit; with `durable`, after the fsync.

        Without, a power failure (not a crash of the process) may undo what was reported as done.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        if self._closed:
            future.set_exception(StoreError("the database is closed"))
        else:
            self._queue.put(_Task(operation, durable, future))
        return future

    async def close(self) -> None:
        """Do what is queued, then end the thread."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        more = True
        while more:
            task = self._queue.get()
            batch: list[_Task] = []
            while True:
                if task is None:
                    more = False
                    break
                batch.append(task)
                if len(batch) == MAX_BATCH:
                    break
                try:
                    task = self._queue.get_nowait()
                except queue.Empty:
                    break
            if batch:
                self._do(batch)
                self._loop.call_soon_threadsafe(_resolve, batch)
        self._connection.close()

    def _do(self, batch: list[_Task]) -> None:
        if self._attempt(batch) or len(batch) == 1:
            return
        for task in batch:
            task.outcome = task.error = None
            self._attempt([task])

    def _attempt(self, batch: list[_Task]) -> bool:
        """One transaction over the whole batch; on failure nothing is left of it."""
        connection = self._connection
        task = batch[0]
        try:
            self._set_synchronous("FULL" if any(task.durable for task in batch) else "NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            for task in batch:
                task.outcome = task.operation(connection)
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - whoever awaits the operation gets it
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            for each in batch:
                each.error = StoreError(f"the database refused: {error}") if isinstance(error, sqlite3.Error) else error
            return False
        return True

    def _set_synchronous(self, level: str) -> None:
        if level != self._synchronous:
            self._connection.execute(f"PRAGMA synchronous = {level}")
            self._synchronous = level


def _resolve(batch: list[_Task]) -> None:
    for task in batch:
        if task.future.done():  # its awaiter was cancelled; the operation stands all the same
            continue
        if task.error is None:
            task.future.set_result(task.outcome)
        else:
            task.future.set_exception(task.error)
