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
# At one time, to our relays, and to those that strangers name, which may be slow. One request can name a chain of
# hundreds of events: a relay that is asked for all of them at once hears us no more.
MAX_QUERIES, MAX_STRANGE_QUERIES = 8, 32
# Direct messages, seals, gift wraps, Nostr Connect, wallets: written for somebody's eyes, or a program's.
_SECRET_KINDS = frozenset({4, 13, 1059, 1060, 21_059, 13_194, 23_194, 23_195, 23_196, 23_197, 24_133, 7375, 17_375})
_NIP04 = re.compile(r"[A-Za-z0-9+/=]+\?iv=[A-Za-z0-9+/=]+").fullmatch


class Events:
    """Looks events up. What it finds has its id and its signature checked (`RelayPool.query`)."""

    def __init__(self, relays: RelayPool, seconds: float = LOOK_UP_SECONDS) -> None:
        self._relays = relays
        self._seconds = seconds
        self._ours, self._strange = asyncio.Semaphore(MAX_QUERIES), asyncio.Semaphore(MAX_STRANGE_QUERIES)

    async def find(
        self, event_id: str, hints: Sequence[str] = (), authors: Collection[str] = (), *, ours: bool = True
    ) -> Event | None:
        """The event of that id: on the `hints` and (`ours`) our relays at once, else where `authors` write (NIP-65)."""
        if found := await self._first(event_id, *([None] if ours else []), hints):
            return found
        if authors and (where := await self.write_relays(authors)):
            return await self._first(event_id, where)
        return None

    async def find_all(self, event_ids: Collection[str], hints: Sequence[str] = ()) -> list[Event]:
        """Those of these events that are on the `hints` or our relays: one question to each, however many they are."""
        if not event_ids:
            return []
        wanted = Filter(ids=event_ids)
        asked = [self._query(wanted), *([self._query(wanted, hints)] if hints else [])]
        return list({event.id: event for found in await asyncio.gather(*asked) for event in found}.values())

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
        lists = await self._query(Filter(kinds=[RELAY_LIST], authors=wanted))
        where: dict[str, None] = {}
        for author in wanted:
            newest = next((event for event in lists if event.pubkey == author), None)
            uses = parse_relay_list(newest) if newest else ()
            where.update(dict.fromkeys([use.url for use in uses if use.write][:MAX_RELAYS_EACH]))
        return tuple(where)

    async def _first(self, event_id: str, *places: Sequence[str] | None) -> Event | None:
        """From whichever of the places (None: our relays) has it first."""
        tasks = [
            asyncio.create_task(self._query(Filter(ids=[event_id]), place))
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

    async def _query(self, wanted: Filter, place: Sequence[str] | None = None) -> list[Event]:
        """From these relays; None: from ours."""
        async with self._ours if place is None else self._strange:
            return await self._relays.query(wanted, relays=place, timeout=self._seconds)
