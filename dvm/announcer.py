"""Publishes what announces us, and keeps it published: what the relays have is compared with what the files say.

`dvm announce` publishes once, whatever stands there. The daemon looks first: at its start, so that every change
of the files is told with the restart that it needs, and then daily, so that a relay that has lost an event gets it
again, and none grows old.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from dvm.announcing import IDENTIFIER
from dvm.nip90 import ANNOUNCEMENT, PROFILE, RELAY_LIST, Draft
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.keys import Keys
from dvm.nostr.outgoing import UNANSWERED
from dvm.nostr.relay import NotPublished, Relay

log = logging.getLogger(__name__)

SECONDS = 15.0  # for each relay, to connect and to answer or take an event
LOOK_SECONDS = 86_400.0  # between two looks, once every relay has everything
RENEW_SECONDS = 25 * 86_400  # an event of that age is published anew: at least once a month
RETRY_SECONDS = 30.0  # after a relay could not be reached or refused; doubled each time
MAX_RETRY_SECONDS = 3_600.0
_ANOTHERS = (
    "the key has a profile that is no bot's, so neither profile nor relay list is replaced: give the service a key "
    "of its own, or replace them with `dvm announce`"
)
_AWAY = "a relay cannot be asked whether it has what announces us; it is tried again"
_REFUSED = "a relay did not take what announces us; it is tried again"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one event at one relay: `error` is the relay's reason, or ours; None where it has it."""

    relay: str
    event: Event
    error: str | None


async def publish(events: Iterable[Event], relays: Iterable[Relay]) -> list[Outcome]:
    """Each event to each relay, all at once; one outcome for each pair. Never raises for what a relay does."""
    events = list(events)
    return list(await asyncio.gather(*(_one(relay, event) for relay in relays for event in events)))


class Announcer:
    """`run` keeps `drafts` published on `relays`, our write relays, which are started already."""

    def __init__(
        self,
        drafts: Sequence[Draft],
        keys: Keys,
        relays: Collection[Relay],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._drafts, self._keys, self._relays, self._clock = drafts, keys, relays, clock
        self._told: set[str] = set()

    async def run(self) -> None:
        """Look, publish what is not there, and again; until cancelled. A relay that fails is tried more rarely."""
        pause = RETRY_SECONDS
        while True:
            if await self.look():
                pause = RETRY_SECONDS
                await asyncio.sleep(LOOK_SECONDS)
            else:
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_RETRY_SECONDS)

    async def look(self) -> bool:
        """Publish what a relay does not have as the files have it. Whether all of them have it now."""
        found = await asyncio.gather(*map(self._standing, self._relays))
        standing = {relay: events for relay, events in zip(self._relays, found, strict=True) if events is not None}
        newest = _newest(event for events in standing.values() for event in events.values())
        outcomes: list[Outcome] = []
        for draft in self._drafts:
            if draft.kind != ANNOUNCEMENT and _is_anothers(newest.get(PROFILE)):
                self._tell(_ANOTHERS)
                continue
            event = self._event(draft, newest.get(draft.kind))
            lacking = [relay for relay, events in standing.items() if events.get(draft.kind) != event]
            outcomes += await publish([event], lacking)
        for outcome in outcomes:
            if outcome.error is None:
                log.info("announced", extra={"relay": outcome.relay, "kind": outcome.event.kind})
            else:
                self._tell(_REFUSED, relay=outcome.relay, kind=outcome.event.kind, error=outcome.error)
        return len(standing) == len(found) and all(outcome.error is None for outcome in outcomes)

    async def _standing(self, relay: Relay) -> dict[int, Event] | None:
        """What one relay has of us, the newest of each kind. None: it does not answer, and nothing is published
        there unseen. One that says that it answers nobody is published to all the same."""
        wanted = [
            Filter(authors=[self._keys.pubkey], kinds=[ANNOUNCEMENT], tags={"d": [IDENTIFIER]}),
            Filter(authors=[self._keys.pubkey], kinds=[PROFILE, RELAY_LIST]),
        ]
        events: dict[str, Event] = {}

        def take(raw: dict[str, Any]) -> None:
            event = relay.check(raw, wanted, events)
            if event is not None:
                events[event.id] = event

        reason = await relay.fetch(wanted, take, timeout=SECONDS)
        if reason != UNANSWERED:
            return _newest(events.values())
        self._tell(_AWAY, relay=relay.url)
        return None

    def _event(self, draft: Draft, newest: Event | None) -> Event:
        """The event that should stand everywhere: the one that does, or a new one that replaces it."""
        now = int(self._clock())
        if newest is None:
            return draft.sign(self._keys, now)
        if (newest.tags, newest.content) == (draft.tags, draft.content) and now - newest.created_at < RENEW_SECONDS:
            return newest
        return draft.sign(self._keys, max(now, newest.created_at + 1))

    def _tell(self, text: str, **fields: object) -> None:
        """Once for each relay and reason: the rest of the day has other news."""
        key = f"{text} {sorted(fields.items())}"
        if key not in self._told and len(self._told) < 1_000:
            self._told.add(key)
            log.warning(text, extra=fields)


def _newest(events: Iterable[Event]) -> dict[int, Event]:
    """By kind; of two of one second the one with the lower id, as relays have it (NIP-01)."""
    newest: dict[int, Event] = {}
    for event in sorted(events, key=lambda event: (-event.created_at, event.id)):
        newest.setdefault(event.kind, event)
    return newest


def _is_anothers(profile: Event | None) -> bool:
    """Whether a profile is a person's: ours all say that they are a bot's (NIP-24)."""
    if profile is None:
        return False
    try:
        content = orjson.loads(profile.content)
    except orjson.JSONDecodeError:
        return True
    return not isinstance(content, dict) or content.get("bot") is not True


async def _one(relay: Relay, event: Event) -> Outcome:
    try:
        await relay.publish(event, SECONDS)
    except NotPublished as error:
        return Outcome(relay.url, event, str(error))
    return Outcome(relay.url, event, None)
