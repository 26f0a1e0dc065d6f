"""Where customers read (NIP-65): looked up once, beside everything else, and remembered for a while.

No answer waits for it. An answer goes out at once to what is known; if its customer's list turns up a moment
later, the answer follows to the relays of that list. Whoever gets no answer from us costs no look-up, a crowd of
new customers is asked for in one question, and all that is kept is bounded.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from dvm.nip90 import RELAY_LIST, parse_relay_list
from dvm.nostr.addresses import AddressRefused, check_relay_url
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.pool import RelayPool

log = logging.getLogger(__name__)

Follow = Callable[[tuple[str, ...]], None]
"""Called once with the relays at which a customer reads, if there are any."""

MAX_RELAYS = 5  # of one customer
MAX_URL_CHARS = 256
REMEMBERED = 10_000  # customers
FOUND_SECONDS = 6 * 3600.0
NONE_SECONDS = 3600.0  # how long it is believed that somebody has no list
UNASKED_SECONDS = 60.0  # the same, while none of our relays is there to be asked
BATCH = 100  # customers in one question
PAUSE_SECONDS = 0.05  # from one question to the next, so at most 20 a second
ANSWER_SECONDS = 5.0
MAX_WAITING = 2_000  # customers; the next ones are looked up with one of their later answers
MAX_FOLLOWING = 500  # answers that wait for a list, since each is kept in memory
MAX_FOLLOWING_EACH = 8
MAX_HINTS = 3  # relays of a request that are asked when ours do not know its author
MAX_HINTED = 8  # customers for whom that is under way


@dataclass(slots=True)
class _Sought:
    hints: tuple[str, ...]
    follow: list[Follow] = field(default_factory=list)


class AddressBook:
    """The read relays of customers, as far as they are known at the moment."""

    def __init__(self, relays: RelayPool) -> None:
        self._relays = relays
        self._known: OrderedDict[str, tuple[tuple[str, ...], float]] = OrderedDict()  # least recently used first
        self._waiting: OrderedDict[str, _Sought] = OrderedDict()
        self._asked: dict[str, _Sought] = {}
        self._following = 0
        self._worker: asyncio.Task[None] | None = None
        self._hinted: set[asyncio.Task[None]] = set()
        self._closed = False

    def read_relays(self, customer: str, hints: Collection[str] = (), follow: Follow | None = None) -> tuple[str, ...]:
        """Normalised URLs, at most 5, hostile all the same: nothing of them has been resolved.

        Empty if nothing is known; then the customer (a public key in hex) is looked up in the background, on our
        read relays and, if they know nothing, on `hints`, the relays that the customer's request named.
        """
        now = asyncio.get_running_loop().time()
        known = self._known.get(customer)
        if known is not None and known[1] > now:
            self._known.move_to_end(customer)
            return known[0]
        self._seek(customer, hints, follow)
        return known[0] if known else ()  # an old list is better than none

    async def close(self) -> None:
        """Look up nothing more. What waits for a list is dropped: it went out when it was made."""
        self._closed = True
        tasks = [*([self._worker] if self._worker else []), *self._hinted]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._waiting.clear()
        self._asked.clear()

    def _seek(self, customer: str, hints: Collection[str], follow: Follow | None) -> None:
        sought = self._asked.get(customer) or self._waiting.get(customer)
        if sought is None:
            if self._closed or len(self._waiting) >= MAX_WAITING:
                return
            sought = self._waiting[customer] = _Sought(tuple(hints)[:MAX_HINTS])
        if follow and self._following < MAX_FOLLOWING and len(sought.follow) < MAX_FOLLOWING_EACH:
            self._following += 1
            sought.follow.append(follow)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work(), name="customers' relays")

    async def _work(self) -> None:
        """Until nobody is sought any more: one question after the other, each for many."""
        while self._waiting:
            batch = [self._waiting.popitem(last=False) for _ in range(min(BATCH, len(self._waiting)))]
            self._asked.update(batch)
            lists = _newest(await self._relays.query(_wanted(dict(batch)), timeout=ANSWER_SECONDS))
            for customer, sought in batch:
                if customer in lists:
                    self._found(customer, read_relays_of(lists[customer]))
                elif sought.hints and len(self._hinted) < MAX_HINTED:
                    self._ask_hints(customer, sought.hints)
                else:
                    self._found(customer, ())
            await asyncio.sleep(PAUSE_SECONDS)

    def _ask_hints(self, customer: str, hints: tuple[str, ...]) -> None:
        async def ask() -> None:
            found = await self._relays.query(_wanted((customer,)), relays=hints, timeout=ANSWER_SECONDS)
            lists = _newest(found)
            self._found(customer, read_relays_of(lists[customer]) if customer in lists else ())

        task = asyncio.get_running_loop().create_task(ask(), name="a customer's relays")
        self._hinted.add(task)
        task.add_done_callback(self._hinted.discard)

    def _found(self, customer: str, relays: tuple[str, ...]) -> None:
        lasts = FOUND_SECONDS if relays else NONE_SECONDS if self._relays.connected else UNASKED_SECONDS
        self._known[customer] = relays, asyncio.get_running_loop().time() + lasts
        self._known.move_to_end(customer)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        sought = self._asked.pop(customer, None)
        if sought is None:
            return
        self._following -= len(sought.follow)
        if relays:
            log.debug("where a customer reads", extra={"customer": customer, "relays": len(relays)})
            for follow in sought.follow:
                follow(relays)


def read_relays_of(event: Event) -> tuple[str, ...]:
    """Where the author of a relay list reads: at most 5 normalised URLs. Never raises."""
    urls: dict[str, None] = {}
    for use in parse_relay_list(event):
        if use.read and len(use.url) <= MAX_URL_CHARS:
            try:
                urls[check_relay_url(use.url)] = None
            except AddressRefused:
                continue
            if len(urls) == MAX_RELAYS:
                break
    return tuple(urls)


def _wanted(customers: Collection[str]) -> Filter:
    # Without a limit: a relay that keeps old lists would answer with several of one customer and none of another.
    return Filter(kinds=[RELAY_LIST], authors=customers)


def _newest(events: Iterable[Event]) -> dict[str, Event]:
    """By author, of events that come with the newest first."""
    lists: dict[str, Event] = {}
    for event in events:
        lists.setdefault(event.pubkey, event)
    return lists
