"""One writer: a thread that owns the writing connection and commits many operations at once.

Operations that arrive while a commit is under way form the next transaction, so the cost of making money
durable (the pages that it touches, and an fsync) is shared, and the event loop never waits for a disk.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from dvm.ledger.base import StoreError

log = logging.getLogger(__name__)

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]
MAX_BATCH = 512
# Under load a commit waits a moment for more to share it: each costs far more than what is in it.
LOADED = 6  # durable operations in the last transaction
GATHER = 0.004  # seconds
# What was reported without being committed is committed within this time, come what may.
LINGER = 0.01


@dataclass(slots=True)
class _Task:
    operation: Operation[Any]
    early: bool
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
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation[T], *, early: bool = False) -> asyncio.Future[T]:
        """Queue an operation. Its future resolves once it is safe on the disk.

        With `early` it resolves as soon as it is done: later operations see it, but a crash or a failing
        disk within the next moments undoes it. That is for what only reads, and for what nobody relies
        upon after such a moment: who runs a job, what was published.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        if self._closed:
            future.set_exception(StoreError("the database is closed"))
        else:
            self._queue.put(_Task(operation, early, future))
        return future

    async def close(self) -> None:
        """Do what is queued, then end the thread."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        connection, loaded = self._connection, False
        connection.execute("PRAGMA synchronous = FULL")
        while (task := self._queue.get()) is not None:
            transaction = _Transaction(connection, self._report)
            until: float | None = None
            while task is not None:
                transaction.add(task)
                if len(transaction.tasks) >= MAX_BATCH:
                    break
                try:
                    task = self._queue.get_nowait()
                    continue
                except queue.Empty:
                    transaction.report_early()
                now = time.monotonic()
                if until is None:
                    until = now + (LINGER if not transaction.durable else GATHER if loaded else 0.0)
                elif transaction.durable and not loaded:
                    until = now
                if until <= now:
                    break
                try:
                    task = self._queue.get(timeout=until - now)
                except queue.Empty:
                    break
            transaction.commit()
            loaded = transaction.durable >= LOADED
            if task is None:
                break
        connection.close()

    def _report(self, tasks: list[_Task]) -> None:
        self._loop.call_soon_threadsafe(_resolve, tasks)


class _Transaction:
    """Operations that are committed together; if one fails, it is all done again one by one."""

    def __init__(self, connection: sqlite3.Connection, report: Callable[[list[_Task]], None]) -> None:
        self.tasks: list[_Task] = []
        self.durable = 0
        self._connection = connection
        self._report = report
        self._reported: set[int] = set()
        self._failed = not self._try(lambda: connection.execute("BEGIN IMMEDIATE"), None)

    def add(self, task: _Task) -> None:
        """Do one more; nothing is done any more once one has failed: `commit` begins anew."""
        self.tasks.append(task)
        self.durable += not task.early
        if not self._failed:
            self._failed = not self._try(lambda: task.operation(self._connection), task)

    def report_early(self) -> None:
        """What need not be durable is done as far as its awaiter is concerned."""
        if not self._failed:
            self._say([task for task in self.tasks if task.early])

    def commit(self) -> None:
        if self._failed or not self._try(lambda: self._connection.execute("COMMIT"), None):
            self._roll_back()
            for task in self.tasks:
                self._alone(task)
                if task.error is not None and id(task) in self._reported:
                    log.error("the database did not keep what was done", extra={"error": str(task.error)})
        self._say(self.tasks)

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._try(lambda: self._connection.execute("ROLLBACK"), None)

    def _alone(self, task: _Task) -> None:
        """One operation in a transaction of its own."""
        task.error = None
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            task.outcome = task.operation(connection)
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - whoever awaits the operation gets it
            self._roll_back()
            task.error = StoreError(f"the database refused: {error}") if isinstance(error, sqlite3.Error) else error

    def _try(self, step: Callable[[], Any], task: _Task | None) -> bool:
        try:
            outcome = step()
        except Exception:  # noqa: BLE001 - doing it alone tells whose error it is
            return False
        if task is not None:
            task.outcome = outcome
        return True

    def _say(self, tasks: list[_Task]) -> None:
        unsaid = [task for task in tasks if id(task) not in self._reported]
        if unsaid:
            self._reported.update(map(id, unsaid))
            self._report(unsaid)


def _resolve(batch: list[_Task]) -> None:
    for task in batch:
        if task.future.done():  # its awaiter was cancelled; the operation stands all the same
            continue
        if task.error is None:
            task.future.set_result(task.outcome)
        else:
            task.future.set_exception(task.error)
