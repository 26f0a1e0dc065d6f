"""Turns at fetching what requests name: slow pages of one customer keep nobody else waiting, and those of jobs that
nobody has paid for keep no paid job from its run."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dvm.jobs.admission import RefusedError

MAX_GATHERING, MAX_GATHERING_EACH = 8, 4  # at one time: in all, and of one customer; so many again that are paid for
MAX_QUEUE = 200  # that are not paid for, with those whose turn it is


class Turns:
    """Bounds how many fetch at one time."""

    def __init__(self) -> None:
        self._all = {paid: asyncio.Semaphore(MAX_GATHERING) for paid in (False, True)}
        self._each: dict[tuple[str, bool], asyncio.Semaphore] = {}
        self._users: Counter[tuple[str, bool]] = Counter()
        self._queue = 0

    @asynccontextmanager
    async def turn(self, customer: str, *, paid: bool) -> AsyncIterator[None]:
        """A turn of that customer, as long as the block lasts. Raises RefusedError; never for what is paid for."""
        if self._queue >= MAX_QUEUE and not paid:
            raise RefusedError("busy", "too many inputs are fetched at the moment: try again later")
        key = customer, paid
        each = self._each.setdefault(key, asyncio.Semaphore(MAX_GATHERING_EACH))
        self._users[key] += 1
        self._queue += not paid
        try:
            async with each, self._all[paid]:
                yield
        finally:
            self._queue -= not paid
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._each[key]
