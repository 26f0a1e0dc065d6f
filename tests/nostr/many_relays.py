"""A pool of relays, and what a subscription of it brings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dvm.nostr import Event, Filter, Keys, PoolOptions, RelayPool

JOBS = Filter(kinds=[5050])


class Inbox:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.urls: list[str] = []

    def __call__(self, event: Event, url: str) -> None:
        self.events.append(event)
        self.urls.append(url)

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.events]


@asynccontextmanager
async def pool_of(options: PoolOptions, *urls: str, keys: Keys | None = None) -> AsyncIterator[RelayPool]:
    async with RelayPool(urls, urls, keys=keys, options=options) as pool:
        yield pool
