"""Waiting for events that may be lost on their way: relays drop events, and they and providers restart."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from dvm.customer.payment import Options
from dvm.nostr import Event, Filter, RelayPool

MAX_EVENTS = 5_000
"""The most that are heard: an honest provider says a handful of things."""
T = TypeVar("T")


class Listener:
    """What matches a filter, verified, each event once: as it comes, and as the relays have it stored, which is
    asked for again and again. `repeat` is our own event, published again while nobody has answered it."""

    def __init__(self, relays: RelayPool, wanted: Filter, options: Options, repeat: Event | None = None) -> None:
        self._relays, self._wanted, self._options, self._repeat = relays, wanted, options, repeat
        self._heard: deque[Event] = deque()
        self._known: set[str] = set()
        self._changed = asyncio.Event()

    @property
    def known(self) -> bool:
        """Whether anything has been heard yet."""
        return bool(self._known)

    async def first(self, pick: Callable[[Event], T | None], seconds: float) -> T | None:
        """The first that `pick` makes something of, heard before or within so many seconds; else None. What it
        makes nothing of is not heard again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    self._changed.clear()
                    while self._heard:
                        if (found := pick(self._heard.popleft())) is not None:
                            return found
                    await self._changed.wait()
        return None

    def take(self, event: Event, _relay: str = "") -> None:
        """Hear an event."""
        if event.id not in self._known and len(self._known) < MAX_EVENTS:
            self._known.add(event.id)
            self._heard.append(event)
            self._changed.set()

    async def ask_for_ever(self) -> None:
        """Ask for what is stored, every `poll` seconds."""
        loop = asyncio.get_running_loop()
        published_at = loop.time()
        while True:
            for event in await self._relays.query(self._wanted, timeout=self._options.query):
                self.take(event)
            if self._repeat and not self._known and loop.time() - published_at >= self._options.republish:
                published_at = loop.time()
                await self._relays.publish(self._repeat, timeout=self._options.publish)
            await asyncio.sleep(self._options.poll)


@asynccontextmanager
async def listening(
    relays: RelayPool, wanted: Filter, options: Options, *, repeat: Event | None = None
) -> AsyncIterator[Listener]:
    """A Listener that hears as long as the block."""
    listener = Listener(relays, wanted, options, repeat)
    subscription = relays.subscribe(wanted, listener.take)
    task = asyncio.get_running_loop().create_task(listener.ask_for_ever(), name="customer listening")
    try:
        yield listener
    finally:
        subscription.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
