"""One subscription for everything that jobs wait for: relays allow a connection some twenty of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dvm.nip90 import FEEDBACK, TO_RESULT
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.pool import RelayPool
from dvm.nostr.subscription import Subscription

# 67 bytes each: a REQ of 54 KB. Relays take 64 KiB at least; one that is sent more may end the connection, by which
# everything else is heard, each time anew. What is not asked for is found when it is looked up again.
MOST = 800
RENEW_SECONDS = 0.1  # jobs that come at once make one change of the subscription


@dataclass(frozen=True, eq=False)
class _Wanted:
    """The event of that id; with `request_kind`, results and feedback to that request instead."""

    event_id: str
    request_kind: int | None
    hear: Callable[[Event], None]

    def matches(self, event: Event) -> bool:
        if self.request_kind is None:
            return event.id == self.event_id
        return event.kind in (FEEDBACK, self.request_kind + TO_RESULT) and self.event_id in event.values("e")


class Hearing:
    """Hears for many, on our read relays, what is stored there and what comes: for the MOST that came last."""

    def __init__(self, relays: RelayPool) -> None:
        self._relays = relays
        self._wanted: dict[_Wanted, None] = {}  # in the order of their coming
        self._subscription: Subscription | None = None
        self._renewal: asyncio.TimerHandle | None = None

    @contextmanager
    def event(self, event_id: str, hear: Callable[[Event], None]) -> Iterator[None]:
        """`hear` is called with that event, perhaps more than once, as long as the block lasts."""
        with self._hearing(_Wanted(event_id, None, hear)):
            yield

    @contextmanager
    def answers(self, request: Event, hear: Callable[[Event], None]) -> Iterator[None]:
        """`hear` is called with whatever says that it answers that request, as long as the block lasts."""
        with self._hearing(_Wanted(request.id, request.kind, hear)):
            yield

    @contextmanager
    def _hearing(self, wanted: _Wanted) -> Iterator[None]:
        self._wanted[wanted] = None
        self._renew_soon()
        try:
            yield
        finally:
            del self._wanted[wanted]
            self._renew_soon()

    def _renew_soon(self) -> None:
        if self._renewal is None:
            self._renewal = asyncio.get_running_loop().call_later(RENEW_SECONDS, self._renew)

    def _renew(self) -> None:
        """What is stored comes anew: nothing falls between the old subscription and the new one."""
        self._renewal = None
        old, self._subscription = self._subscription, None
        if filters := self._filters():
            self._subscription = self._relays.subscribe(filters, self._dispatch)
        if old is not None:
            old.close()

    def _filters(self) -> list[Filter]:
        wanted = list(self._wanted)[-MOST:]
        ids = {each.event_id for each in wanted if each.request_kind is None}
        asked = {each.event_id: each.request_kind for each in wanted if each.request_kind is not None}
        filters = [Filter(ids=ids)] if ids else []
        if asked:
            kinds = {FEEDBACK, *(kind + TO_RESULT for kind in asked.values())}
            filters.append(Filter(kinds=kinds, tags={"e": asked.keys()}))
        return filters

    def _dispatch(self, event: Event, _relay: str) -> None:
        for each in list(self._wanted):
            if each.matches(event):
                each.hear(event)

    def close(self) -> None:
        """Hear nothing more."""
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None
