"""Waiting for news of a job, and saying so where there are none for a while."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import TypeVar

from dvm.customer.payment import Options
from dvm.customer.updates import Update, Waiting, WaitingFor

T = TypeVar("T")


async def patiently(work: asyncio.Task[T], what: WaitingFor, options: Options) -> AsyncGenerator[Waiting, None]:
    """Until the work is done, whatever came of it: a `Waiting` after `Options.notice`, and again, ever more rarely.
    Leaving it before ends the work."""
    pause = options.notice
    try:
        while not (await asyncio.wait({work}, timeout=pause))[0]:
            yield Waiting(what, None)
            pause *= 2
    finally:
        work.cancel()
        await asyncio.wait({work})


class News:
    """The updates of one job, in their order. Put them into `queue`; set `changed` whenever anything has happened."""

    def __init__(self, queue: deque[Update], changed: asyncio.Event, options: Options) -> None:
        self._queue, self._changed, self._options = queue, changed, options

    async def until(
        self, ready: Callable[[], object], deadline: float, what: WaitingFor | None = None
    ) -> AsyncGenerator[Update, None]:
        """The news, until `ready` or the deadline (of the loop's clock). After each `Options.notice` without any a
        `Waiting` for `what`, unless that is None; the pauses between them double."""
        loop = asyncio.get_running_loop()
        pause = self._options.notice
        notice = loop.time() + pause
        while True:
            while self._queue:
                yield self._queue.popleft()
                pause = self._options.notice
                notice = loop.time() + pause
            now = loop.time()
            if ready() or now >= deadline:
                return
            if what is not None and now >= notice:
                pause *= 2
                notice = now + pause
                yield Waiting(what, int(time.time() + deadline - now))
                continue  # there may be news by now
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline if what is None else min(deadline, notice)):
                    await self._changed.wait()
