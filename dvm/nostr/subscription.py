"""A subscription over many relays: each event once, verified, and none lost for long.

What a relay pushes is a hint: relays drop events silently under load. So each feed also asks again for stored
events, from where it last knew that it had everything, less an overlap.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import uniform
from typing import Any

from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.relay import Relay
from dvm.nostr.requests import Request

log = logging.getLogger(__name__)

Handler = Callable[[Event, str], None]
"""Gets a verified event and the URL of the relay that brought it first."""

_PAGE = 100  # from so many stored events on, an answer may have been cut off by the relay's limit
_LIMIT = 5000  # asked for in each page
_MAX_PAGES = 50
_AGAIN = 30.0  # seconds after which a copy is a new publication, and not the same one from a slower relay


class Seen:
    """The ids of verified events, their `created_at`, and when they came; the least recently met are forgotten."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ids: dict[str, tuple[int, float]] = {}

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._ids

    def add(self, event: Event) -> None:
        self._ids[event.id] = event.created_at, time.monotonic()
        if len(self._ids) > self._size:
            del self._ids[next(iter(self._ids))]

    def met_again(self, event_id: str) -> tuple[int, float]:
        """Its `created_at`, and when it came first (monotonic seconds). KeyError when it is not known."""
        at = self._ids[event_id] = self._ids.pop(event_id)
        return at


class Subscription:
    """Made by `RelayPool.subscribe`; `close` ends it."""

    def __init__(
        self,
        relays: Sequence[Relay],
        filters: Sequence[Filter],
        handler: Handler,
        *,
        since: int | None,
        overlap: int,
        sweep: float | None,
        sweep_timeout: float,
        remembered: int,
        on_close: Callable[[Subscription], None],
        again: Callable[[str], None] | None = None,
    ) -> None:
        self.filters, self.handler, self.again = tuple(filters), handler, again
        self.overlap, self.sweep, self.sweep_timeout = overlap, sweep, sweep_timeout
        self.seen = Seen(remembered)
        self._on_close = on_close
        self._feeds = [Feed(self, relay, since) for relay in relays]

    def replace(self, filters: Sequence[Filter]) -> None:
        """Ask for something else from here on, in one message to each relay. What these filters find among what is
        stored comes as well, from their own `since` on: what was heard so far says nothing of them."""
        self.filters = tuple(filters)
        for feed in self._feeds:
            feed.replace()

    def close(self) -> None:
        """No further event is handed over after this returns."""
        for feed in self._feeds:
            feed.close()
        self._on_close(self)

    def deliver(self, event: Event, url: str) -> None:
        try:
            self.handler(event, url)
        except Exception:
            # The handler is the caller's; whatever it raises must not end the connection that brought the event.
            log.exception("handling event %s failed", event.id)


class Feed:
    """One relay's part in a subscription, with its own account of what it has brought.

    Its own, because what another relay has brought says nothing of what this one still holds.
    """

    def __init__(self, subscription: Subscription, relay: Relay, since: int | None) -> None:
        self._subscription, self._relay = subscription, relay
        self._since = since
        self._last_seen: int | None = None
        self._complete_to: int | None = None
        self._asked_at = 0
        self._stored = 0
        self._catch_up = asyncio.Event()
        self._closed = self._ended = False
        self._live = False  # what comes now was published now: the relay has sent what it had stored
        self._request = Request(subscription.filters, self._take, self._end, since=self._resume_noted, lasting=True)
        relay.request(self._request)
        self._task: asyncio.Task[None] | None = None
        if subscription.sweep is not None:
            self._task = asyncio.get_running_loop().create_task(
                self._sweep_for_ever(subscription.sweep), name=f"sweep {relay.url}"
            )

    def replace(self) -> None:
        """Ask for what the subscription's filters are now, unless the relay has ended it for good."""
        if not self._ended:
            self._last_seen = self._complete_to = None
            self._request.filters = self._subscription.filters
            self._relay.request(self._request)

    def close(self) -> None:
        self._closed = True
        self._relay.drop(self._request)
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def resume_at(self) -> int | None:
        """From when on to ask: the last event seen, less the overlap; with sweeps, no later than the last answer
        that was complete. Never before the start that the subscriber named."""
        mark = self._last_seen if self._last_seen is not None else self._complete_to
        if self._subscription.sweep is not None:
            mark = None if mark is None or self._complete_to is None else min(mark, self._complete_to)
        start = self._since
        if mark is not None:
            start = max(mark - self._subscription.overlap, self._since or 0)
        floor = self._request.floor
        return start if floor is None else max(start or 0, floor)

    def _resume_noted(self) -> int | None:
        self._asked_at, self._stored, self._live = int(time.time()), 0, False
        return self.resume_at()

    def _take(self, raw: dict[str, Any], *, live: bool = True) -> None:
        if self._closed:
            return
        subscription = self._subscription
        seen = subscription.seen
        self._stored += 1
        event_id = raw.get("id")
        if isinstance(event_id, str) and event_id in seen:
            # Most copies end here: several relays bring the same event, and a relay may bring it for ever.
            self._relay.counters.duplicates += 1
            at, came = seen.met_again(event_id)
            self._note(at)
            if live and self._live and subscription.again is not None and time.monotonic() - came > _AGAIN:
                subscription.again(event_id)
            return
        event = self._relay.check(raw, subscription.filters, ())
        if event is not None:
            seen.add(event)
            self._note(event.created_at)
            subscription.deliver(event, self._relay.url)

    def _note(self, created_at: int) -> None:
        # Bounded by now: an event from the future must not make us skip what comes before it.
        at = min(created_at, int(time.time()))
        if self._last_seen is None or at > self._last_seen:
            self._last_seen = at

    def _end(self, error: str | None) -> None:
        self._live = error is None
        if error is not None:
            self._ended = True
            log.warning("relay %s ended a subscription: %s", self._relay.url, error)
        elif self._stored >= _PAGE:
            self._catch_up.set()  # likely cut off: the sweep pages back through the rest
        else:
            self._complete_to = self._asked_at

    async def _sweep_for_ever(self, interval: float) -> None:
        while True:
            try:
                async with asyncio.timeout(uniform(0.8, 1.2) * interval):
                    await self._catch_up.wait()
            except TimeoutError:
                pass
            self._catch_up.clear()
            if self._relay.connected:
                await self._sweep()

    async def _sweep(self) -> None:
        """Ask for what is stored, page by page, newest first, until a page brings nothing more."""
        started = int(time.time())
        since = self.resume_at()
        # Relays give some hundreds unless more is asked for, and cut that down to what they will give.
        limit = min(_LIMIT, self._relay.limitation.max_limit or _LIMIT)
        filters = tuple(replace(each, limit=limit) for each in self._subscription.filters)
        until: int | None = None
        met: set[str] = set()
        complete = True
        for _ in range(_MAX_PAGES):
            page: list[tuple[str, int]] = []

            def take(raw: dict[str, Any], page: list[tuple[str, int]] = page) -> None:
                event_id, at = raw.get("id"), raw.get("created_at")
                if isinstance(event_id, str) and type(at) is int:
                    page.append((event_id, at))
                self._take(raw, live=False)

            error = await self._relay.fetch(
                filters,
                take,
                timeout=self._subscription.sweep_timeout,
                since=since,
                until=until,
            )
            if error is not None:
                return
            if len(page) < _PAGE:
                if complete:
                    self._complete_to = started
                return
            new = [item for item in page if item[0] not in met]
            if new:
                met.update(event_id for event_id, _ in new)
                until = min(at for _, at in new)
            else:
                # One second holds more than the relay gives at once. There is no asking for the rest of it:
                # what is older is asked for, and this second again by the next sweep.
                until = min(at for _, at in page) - 1
                complete = False
