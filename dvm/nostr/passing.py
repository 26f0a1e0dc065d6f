"""Relays that customers name: connected to when needed, to public addresses only, few at a time, for a while.

Whoever sends a job can name any address. So each costs us at most one look-up and one short attempt in a long
while, no connection is opened into our own network, and all of them together stay bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from dvm.nostr.addresses import AddressRefused, Endpoint, check_url, is_public, literal, resolve_public
from dvm.nostr.keys import Keys
from dvm.nostr.options import PoolOptions
from dvm.nostr.relay import Relay

_MAX_FAILURES: Final = 4096
_SEND_BUFFER: Final = 1 << 20
_MAX_PENDING: Final = 256


class PassingRelays:
    """The connections to relays that are not our own."""

    def __init__(self, keys: Keys | None, options: PoolOptions) -> None:
        self._keys, self._options = keys, options
        self._relay_options = replace(
            options.relay,
            connect_timeout=min(options.passing_timeout, options.relay.connect_timeout),
            send_buffer=min(_SEND_BUFFER, options.relay.send_buffer),
            max_pending=min(_MAX_PENDING, options.relay.max_pending),
        )
        self._relays: dict[str, tuple[Relay, float]] = {}  # least recently used first
        self._failures: dict[str, float] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        # Its own few threads: names that never resolve must not use up those of everybody else.
        self._resolver = ThreadPoolExecutor(max_workers=4, thread_name_prefix="dvm-resolve")

    def get(self, url: str, keep: Collection[Relay] = ()) -> Relay:
        """The relay at a normalised URL, which connects with its first event. Raises AddressRefused.

        An idle connection may be closed to make room, but none of `keep`.
        """
        now = asyncio.get_running_loop().time()
        known = self._relays.pop(url, None)
        if known is not None:
            self._relays[url] = (known[0], now)
            return known[0]
        endpoint = check_url(url, ("ws", "wss"))
        ip = literal(endpoint.host)
        if ip is not None and not self._options.allow_private and not is_public(ip):
            raise AddressRefused(f"{endpoint.host}: not a public address")
        if self._failures.get(_place(endpoint), 0.0) > now:
            raise AddressRefused("failed a short while ago")
        if len(self._relays) >= self._options.passing_total and not self._evict(keep):
            raise AddressRefused("too many connections to relays that customers named")
        relay = Relay(
            url,
            keys=self._keys,
            options=self._relay_options,
            on_state=self._changed,
            lasting=False,
            locate=lambda: resolve_public(
                endpoint,
                timeout=self._options.passing_timeout,
                executor=self._resolver,
                allow_private=self._options.allow_private,
            ),
        )
        self._relays[url] = (relay, now)
        if self._timer is None:
            self._schedule()
        return relay

    def relays(self) -> list[Relay]:
        return [relay for relay, _ in self._relays.values()]

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for relay in self.relays():
            self._drop(relay)
        await asyncio.gather(*self._closing, return_exceptions=True)
        self._resolver.shutdown(wait=False, cancel_futures=True)

    def _changed(self, relay: Relay) -> None:
        # A passing relay goes back to idle when it could not be reached, or has hung up.
        if relay.state != "idle":
            return
        self._relays.pop(relay.url, None)
        if not relay.counters.connections:
            self._failures.pop(_place(relay.endpoint), None)
            now = asyncio.get_running_loop().time()
            self._failures[_place(relay.endpoint)] = now + self._options.remember_failure
            if len(self._failures) > _MAX_FAILURES:
                del self._failures[next(iter(self._failures))]

    def _evict(self, keep: Collection[Relay]) -> bool:
        for relay, _ in self._relays.values():
            if not relay.busy and relay not in keep:
                self._drop(relay)
                return True
        return False

    def _drop(self, relay: Relay) -> None:
        self._relays.pop(relay.url, None)
        task = asyncio.get_running_loop().create_task(relay.close(), name=f"close {relay.url}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._options.passing_idle / 2, self._tidy)

    def _tidy(self) -> None:
        self._timer = None
        limit = asyncio.get_running_loop().time() - self._options.passing_idle
        for relay, used in list(self._relays.values()):
            if used <= limit and not relay.busy:
                self._drop(relay)
        if self._relays:
            self._schedule()


def _place(endpoint: Endpoint) -> str:
    return f"{endpoint.host}:{endpoint.port}"
