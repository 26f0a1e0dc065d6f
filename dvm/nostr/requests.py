"""The questions that stand open with one relay: subscriptions that last, and queries that end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import count
from random import uniform
from typing import Any

from dvm.nostr.filters import Filter
from dvm.nostr.frames import clean, close_frame, prefix, request_frame

_NUMBERS = count(1)
_MAX_RETRY = 300.0  # seconds


class Request:
    """One `REQ`. `since` is asked each time that it is sent; what it answers narrows the filters.

    `on_event` gets an event's JSON object as the relay sent it: nothing of it is checked.
    `on_end` is called at each EOSE with None, and with a reason when the relay has closed the request for good
    (a query: has closed it at all).
    """

    __slots__ = (
        "attempts",
        "authenticated",
        "filters",
        "floor",
        "id",
        "lasting",
        "on_end",
        "on_event",
        "open",
        "retry",
        "since",
        "until",
    )

    def __init__(
        self,
        filters: Sequence[Filter],
        on_event: Callable[[dict[str, Any]], None],
        on_end: Callable[[str | None], None],
        *,
        since: Callable[[], int | None] | None = None,
        until: int | None = None,
        lasting: bool,
    ) -> None:
        self.id = f"{'s' if lasting else 'q'}{next(_NUMBERS)}"
        self.filters, self.on_event, self.on_end = tuple(filters), on_event, on_end
        self.since, self.until, self.lasting = since, until, lasting
        self.open = False
        self.attempts = 0
        self.authenticated = False
        self.floor: int | None = None
        self.retry: asyncio.TimerHandle | None = None

    def frame(self) -> str:
        since = self.since() if self.since is not None else None
        if self.floor is not None:
            since = self.floor if since is None else max(since, self.floor)
        return request_frame(self.id, [f.to_dict(since=since, until=self.until) for f in self.filters])


class Requests:
    """All requests of one relay, opened again with each connection."""

    def __init__(
        self,
        send: Callable[[str], bool],
        demand_auth: Callable[[], bool],
        *,
        retry_delay: float,
    ) -> None:
        self._send, self._demand_auth, self._retry_delay = send, demand_auth, retry_delay
        self._requests: dict[str, Request] = {}
        self._awaiting_auth: dict[str, Request] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        """Send it now, or when the connection is there. One that is open is sent anew, with what its filters are now:
        by its id it takes the place of itself (NIP-01). One that waits for something goes on waiting."""
        waits = request.id in self._requests and not request.open
        self._requests[request.id] = request
        if not waits:
            self._open(request)

    def remove(self, request: Request) -> None:
        """Forget it, and tell the relay."""
        if self._requests.pop(request.id, None) is None:
            return
        self._stop(request)
        if request.open:
            request.open = False
            self._send(close_frame(request.id))

    def connected(self) -> None:
        self._awaiting_auth.clear()
        for request in list(self._requests.values()):
            self._stop(request)
            request.attempts, request.authenticated = 0, False
            self._open(request)

    def disconnected(self) -> None:
        for request in self._requests.values():
            request.open = False
            self._stop(request)

    def resume(self) -> None:
        """The relay reads again: what could not be written goes out."""
        for request in list(self._requests.values()):
            if not request.open and request.retry is None and request.id not in self._awaiting_auth:
                self._open(request)

    def too_large(self) -> None:
        """The relay sent a frame past all limits. What it has stored would bring it again with each connection:
        subscriptions go on from now, queries are over."""
        for request in list(self._requests.values()):
            if request.lasting:
                request.floor = int(time.time())
            else:
                self._give_up(request, "the answer is too large")

    def event(self, request_id: str, raw: dict[str, Any]) -> bool:
        """An `EVENT`. False: nobody asked for it."""
        request = self._requests.get(request_id)
        if request is None:
            return False
        request.on_event(raw)
        return True

    def end_of_stored(self, request_id: str) -> bool:
        """An `EOSE`. False: nobody asked."""
        request = self._requests.get(request_id)
        if request is None:
            return False
        request.attempts = 0
        if not request.lasting:
            self.remove(request)
        request.on_end(None)
        return True

    def closed(self, request_id: str, reason: str) -> bool:
        """A `CLOSED`: authenticate, wait, or give up, as its reason says. False: nobody asked."""
        request = self._requests.get(request_id)
        if request is None:
            return False
        request.open = False
        code = prefix(reason)
        # Once a connection: a relay that is never satisfied must not keep us signing.
        if code == "auth-required" and not request.authenticated and self._demand_auth():
            self._awaiting_auth[request.id] = request
        elif code == "restricted":
            self._give_up(request, reason)
        elif request.lasting or code == "rate-limited":
            self._retry_later(request)
        else:
            self._give_up(request, reason)
        return True

    def authenticated(self, error: str | None) -> None:
        """NIP-42 is through: open again what waited for it, or after a refusal try much later."""
        waiting, self._awaiting_auth = self._awaiting_auth, {}
        for request in waiting.values():
            if request.id not in self._requests:
                continue
            if error is None:
                request.authenticated = True
                self._open(request)
            elif request.lasting:
                self._retry_later(request)
            else:
                self._give_up(request, error)

    def fail(self, reason: str) -> None:
        """Nothing more will come of any query; a subscription is simply over."""
        for request in list(self._requests.values()):
            self._give_up(request, reason)

    def _open(self, request: Request) -> None:
        request.retry = None
        request.open = self._send(request.frame())

    def _retry_later(self, request: Request) -> None:
        delay = min(self._retry_delay * 2**request.attempts, _MAX_RETRY)
        request.attempts = min(request.attempts + 1, 20)
        self._stop(request)
        loop = asyncio.get_running_loop()
        request.retry = loop.call_later(uniform(delay / 2, delay), self._open, request)

    def _give_up(self, request: Request, reason: str) -> None:
        self._requests.pop(request.id, None)
        self._stop(request)
        request.open = False
        request.on_end(clean(reason) or "closed without a reason")

    def _stop(self, request: Request) -> None:
        self._awaiting_auth.pop(request.id, None)
        if request.retry is not None:
            request.retry.cancel()
            request.retry = None
