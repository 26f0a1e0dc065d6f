"""Inputs of type `event`: looked up where the request hints, where we read, and where their authors write."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Sequence

from dvm.nip90 import RELAY_LIST, InvalidRequest, is_encrypted, parse_relay_list
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.pool import RelayPool

LOOK_UP_SECONDS = 5.0
MAX_AUTHORS, MAX_RELAYS_EACH = 4, 3  # whose write relays are asked, and how many of each
# Direct messages, seals, gift wraps, Nostr Connect, wallets: written for somebody's eyes, or a program's.
_SECRET_KINDS = frozenset({4, 13, 1059, 1060, 21_059, 13_194, 23_194, 23_195, 23_196, 23_197, 24_133, 7375, 17_375})
_NIP04 = re.compile(r"[A-Za-z0-9+/=]+\?iv=[A-Za-z0-9+/=]+").fullmatch


class Events:
    """Looks events up. What it finds has its id and its signature checked (`RelayPool.query`)."""

    def __init__(self, relays: RelayPool, seconds: float = LOOK_UP_SECONDS) -> None:
        self._relays = relays
        self._seconds = seconds

    async def find(self, event_id: str, hints: Sequence[str] = (), authors: Collection[str] = ()) -> Event | None:
        """The event of that id: on the `hints` and our relays at once, else where `authors` write (NIP-65)."""
        if found := await self._first(event_id, None, hints):
            return found
        if authors and (where := await self.write_relays(authors)):
            return await self._first(event_id, where)
        return None

    async def text(self, event_id: str, hints: Sequence[str] = (), authors: Collection[str] = ()) -> str:
        """The text of a public event. Raises InvalidRequest."""
        event = await self.find(event_id, hints, authors)
        if event is None:
            raise InvalidRequest("input-unavailable", "an event that the request names is on none of the relays")
        if event.kind in _SECRET_KINDS or is_encrypted(event) or _NIP04(event.content.strip()):
            raise InvalidRequest("input-unreadable", "an event that the request names is encrypted")
        if not event.content.strip():
            raise InvalidRequest("input-type", "an event that the request names has no text")
        return event.content

    async def write_relays(self, authors: Collection[str]) -> tuple[str, ...]:
        """Where they say that they publish (NIP-65), a few of each."""
        wanted = sorted(authors)[:MAX_AUTHORS]
        lists = await self._relays.query(Filter(kinds=[RELAY_LIST], authors=wanted), timeout=self._seconds)
        where: dict[str, None] = {}
        for author in wanted:
            newest = next((event for event in lists if event.pubkey == author), None)
            uses = parse_relay_list(newest) if newest else ()
            where.update(dict.fromkeys([use.url for use in uses if use.write][:MAX_RELAYS_EACH]))
        return tuple(where)

    async def _first(self, event_id: str, *places: Sequence[str] | None) -> Event | None:
        """From whichever of the places (None: our relays) has it first."""
        tasks = [
            asyncio.create_task(self._relays.query(Filter(ids=[event_id]), relays=place, timeout=self._seconds))
            for place in places
            if place is None or place
        ]
        try:
            for done in asyncio.as_completed(tasks):
                if found := await done:
                    return found[0]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return None
