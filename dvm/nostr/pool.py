"""Many relays as one: subscribe to all, publish to all, and wait for none but the quickest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from dvm.nostr.addresses import AddressRefused, check_relay_url
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.frames import clean
from dvm.nostr.keys import Keys
from dvm.nostr.nip11 import RelayInfoUnavailable, fetch_relay_info
from dvm.nostr.options import PoolOptions
from dvm.nostr.outgoing import UNANSWERED, UNCONNECTED
from dvm.nostr.passing import PassingRelays
from dvm.nostr.relay import Relay
from dvm.nostr.status import RelayStatus
from dvm.nostr.subscription import Handler, Subscription

_DAY = 86_400.0
_LEAST_EVENT, _MOST_EVENT = 16_384, 65_536  # bytes: what any relay of use takes, and what is taken by most
_MAX_NAMED = 100  # addresses looked at, of those that a stranger names for one event


@dataclass(slots=True)
class Published:
    """Which relays have an event, and why the others have not.

    It goes on filling up after `publish` has returned, for as long as the other relays may take.
    """

    accepted: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.accepted)

    @property
    def refused(self) -> bool:
        """Whether a relay said no, as opposed to not being there."""
        return any(reason not in (UNANSWERED, UNCONNECTED) for reason in self.failed.values())


class RelayPool:
    """The relays we read from and write to, and those that customers name.

    One connection to each for the life of the process, however its URL is written. All methods belong to the
    loop in which `start` was called.
    """

    def __init__(
        self,
        read: Sequence[str],
        write: Sequence[str],
        *,
        keys: Keys | None = None,
        options: PoolOptions | None = None,
        name: str = "",
    ) -> None:
        """`keys` authenticate us to relays that demand it (NIP-42); `name` is what the pool is for, in the log.

        Raises AddressRefused for a bad URL.
        """
        self._options = options or PoolOptions()
        self._relays: dict[str, Relay] = {}
        for url in (*read, *write):
            normal = check_relay_url(url)
            if normal not in self._relays:
                self._relays[normal] = Relay(
                    normal, keys=keys, options=self._options.relay, on_state=self._changed, name=name
                )
        self._read = self._own(read)
        self._write = self._own(write)
        self._passing = PassingRelays(keys, self._options)
        self._subscriptions: set[Subscription] = set()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._learning: dict[str, tuple[float, asyncio.Task[None]]] = {}

    def start(self) -> None:
        """Connect to all relays in the background. Returns at once."""
        for relay in self._relays.values():
            relay.start()

    async def close(self) -> None:
        """End subscriptions and connections; what still waits for a relay fails."""
        for subscription in list(self._subscriptions):
            subscription.close()
        await asyncio.gather(self._passing.close(), *(relay.close() for relay in self._relays.values()))
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
        learning = [task for _, task in self._learning.values()]
        for task in learning:
            task.cancel()
        await asyncio.gather(*learning, return_exceptions=True)

    async def __aenter__(self) -> RelayPool:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def connected(self) -> int:
        """How many of our own relays are connected."""
        return sum(relay.connected for relay in self._relays.values())

    @property
    def writers(self) -> tuple[Relay, ...]:
        """The connections to our write relays, for what each of them is asked by itself."""
        return tuple(self._write)

    @property
    def max_event_bytes(self) -> int:
        """The largest message that all our write relays take, as far as they tell (NIP-11); within reason."""
        told = (relay.limitation.max_message_length for relay in self._write)
        return max(_LEAST_EVENT, min([_MOST_EVENT, *(each for each in told if each)]))

    async def wait_connected(self, n: int = 1, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Wait until `n` of our relays are connected; False when that has not happened within `timeout`."""
        if self.connected >= n:
            return True
        entry = (n, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(timeout):
                await entry[1]
        except TimeoutError:
            return False
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)
        return True

    def subscribe(
        self,
        filters: Filter | Sequence[Filter],
        handler: Handler,
        *,
        since: int | None = None,
        overlap: int = 30,
        sweep: float | None = None,
        again: Callable[[str], None] | None = None,
    ) -> Subscription:
        """Hand each matching event of the read relays to `handler`, once, verified, in no certain order.

        `since` (Unix seconds) is where it starts; without it, with everything that is stored. After a break it goes
        on from the last event seen, less `overlap` seconds. `sweep`: every so many seconds the relays are
        asked for what their push has missed. The memory of events seen is bounded, so an old event may come
        again: who must not do a thing twice keeps a record. The handler must not block. `again` is called with
        the id of an event that had come before and is published once more.
        """
        subscription = Subscription(
            self._read,
            [filters] if isinstance(filters, Filter) else filters,
            handler,
            since=since,
            overlap=overlap,
            sweep=sweep,
            sweep_timeout=self._options.sweep_timeout,
            remembered=self._options.remembered_events,
            on_close=self._subscriptions.discard,
            again=again,
        )
        self._subscriptions.add(subscription)
        return subscription

    async def publish(
        self,
        event: Event,
        *,
        relays: Collection[str] = (),
        timeout: float = 10.0,  # noqa: ASYNC109
    ) -> Published:
        """Publish to our write relays and to `relays`, which a customer named and nobody has checked.

        Returns as soon as one relay has the event, or none will: no relay waits for another, and none makes
        the caller wait longer than `timeout` seconds. The others go on in the background. Never raises for
        what a relay or an address does; an empty `accepted` says that it failed.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def first_word(_: Published) -> None:
            if not future.done():
                future.set_result(None)

        published = self.post(event.id, event.to_json(), first_word, relays=relays, timeout=timeout)
        await future
        return published

    def post(
        self,
        event_id: str,
        event: str,
        done: Callable[[Published], None],
        *,
        relays: Collection[str] = (),
        timeout: float = 10.0,
        own: bool = True,
    ) -> Published:
        """As `publish`, of an event in JSON, without a task: `done` is called once, when `publish` would return.

        Not `own`: our write relays have it already, and only the others of `relays` are to get it.
        """
        published = Published()
        targets = self._targets(self._write, relays, published.failed) if relays else self._write
        if not own:
            targets = [relay for relay in targets if relay not in self._write]
        left = len(targets)
        told = False
        if not left:
            done(published)
            return published

        def finish(url: str, error: str | None) -> None:
            nonlocal left, told
            left -= 1
            if error is None:
                published.accepted.append(url)
            else:
                published.failed[url] = error
            if not told and (error is None or not left):
                told = True
                done(published)

        frame, passing_timeout = f'["EVENT",{event}]', min(timeout, self._options.passing_timeout)
        for relay in targets:
            limit = timeout if relay.url in self._relays else passing_timeout
            relay.post(event_id, frame, limit, partial(finish, relay.url))
        return published

    async def query(
        self,
        filters: Filter | Sequence[Filter],
        *,
        relays: Collection[str] | None = None,
        timeout: float = 10.0,  # noqa: ASYNC109
    ) -> list[Event]:
        """Stored events from our read relays, or from `relays`, verified and each once, newest first.

        Returns when all have answered, all ids asked for have been found, or `timeout` seconds are over; and
        a little after the first answer, without those that are slow. What has come until then is returned.
        """
        wanted = [filters] if isinstance(filters, Filter) else list(filters)
        if relays is None:
            targets = [r for r in self._read if r.connected or r.state == "connecting"] or list(self._read)
        else:
            targets = self._targets((), relays, {})
        ids = _ids_only(wanted)
        found: dict[str, Event] = {}
        loop = asyncio.get_running_loop()
        complete: asyncio.Future[bool] = loop.create_future()

        async def ask(relay: Relay) -> bool:
            def take(raw: dict[str, Any]) -> None:
                event = relay.check(raw, wanted, found)
                if event is not None:
                    found[event.id] = event
                    if ids is not None and len(found) == len(ids) and not complete.done():
                        complete.set_result(True)

            return await relay.fetch(wanted, take, timeout=timeout) is None

        tasks = {loop.create_task(ask(relay)) for relay in targets}
        try:
            pending: set[asyncio.Future[bool]] = set(tasks)
            deadline = loop.time() + timeout
            while pending and not complete.done() and loop.time() < deadline:
                done, _ = await asyncio.wait(
                    {*pending, complete},
                    timeout=deadline - loop.time(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                pending -= done
                if any(future.result() for future in done):
                    deadline = min(deadline, loop.time() + self._options.query_grace)
        finally:
            complete.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return sorted(found.values(), key=lambda event: (-event.created_at, event.id))

    def status(self) -> list[RelayStatus]:
        """Our relays, then those that customers named."""
        return [relay.status() for relay in (*self._relays.values(), *self._passing.relays())]

    def _own(self, urls: Iterable[str]) -> list[Relay]:
        return [self._relays[url] for url in dict.fromkeys(check_relay_url(url) for url in urls)]

    def _changed(self, relay: Relay) -> None:
        if relay.state == "connected":
            if self._options.learn_limits:
                self._learn(relay)
            for n, future in self._waiting:
                if self.connected >= n and not future.done():
                    future.set_result(None)

    def _learn(self, relay: Relay) -> None:
        """Ask what the relay says of itself, at most once a day; a relay that does not tell has no limits."""
        loop = asyncio.get_running_loop()
        asked, _ = self._learning.get(relay.url, (float("-inf"), None))
        if loop.time() - asked < _DAY:
            return

        async def ask() -> None:
            with suppress(RelayInfoUnavailable):
                relay.limitation = (await fetch_relay_info(relay.url)).limitation

        self._learning[relay.url] = loop.time(), loop.create_task(ask(), name=f"limits of {relay.url}")

    def _targets(self, own: Sequence[Relay], named: Iterable[str], failed: dict[str, str]) -> list[Relay]:
        """Our own relays and those that a stranger has named, each once; what is refused goes into `failed`."""
        targets = {relay.url: relay for relay in own}
        passing = 0
        for url in islice(named, _MAX_NAMED):
            try:
                normal = check_relay_url(url)
                if normal in targets:
                    continue
                relay = self._relays.get(normal)
                if relay is None:
                    if passing >= self._options.passing_per_event:
                        raise AddressRefused("too many relays were named")
                    passing += 1
                    relay = self._passing.get(normal, targets.values())
                targets[normal] = relay
            except AddressRefused as error:
                failed[clean(url)] = str(error)
        return list(targets.values())


def _ids_only(filters: Sequence[Filter]) -> frozenset[str] | None:
    """All the ids that are asked for, or None when something else is asked as well."""
    if not all(wanted.ids for wanted in filters):
        return None
    return frozenset(event_id for wanted in filters for event_id in wanted.ids or ())
