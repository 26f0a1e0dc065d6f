"""A connection to one relay, and what a subscription of it brings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from dvm.nostr import Filter, Keys, Relay, RelayOptions
from dvm.nostr.requests import Request


@asynccontextmanager
async def connection(url: str, options: RelayOptions, keys: Keys | None = None) -> AsyncIterator[Relay]:
    relay = Relay(url, keys=keys, options=options)
    relay.start()
    try:
        yield relay
    finally:
        await relay.close()


class Inbox:
    """Everything that a subscription brings, unchecked."""

    def __init__(self, relay: Relay, *filters: Filter, since: int | None = None) -> None:
        self.ids: list[Any] = []
        self.ends: list[str | None] = []
        self.request = Request(
            filters, lambda raw: self.ids.append(raw.get("id")), self.ends.append, since=lambda: since, lasting=True
        )
        relay.request(self.request)
