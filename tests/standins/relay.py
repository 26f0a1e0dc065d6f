"""The rust-nostr relay, in this process: a real relay for tests, on a free port, that can stop and come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import psutil
from nostr_sdk import (
    LocalRelay,
    LocalRelayBuilder,
    LocalRelayBuilderNip42,
    LocalRelayBuilderNip42Mode,
    RateLimit,
)

from tests.standins.ports import free_port

Nip42 = Literal["read", "write", "both"]


class TestRelay:
    """A running relay. `stop` and `start` break it and bring it back, empty, at the same URL."""

    __test__ = False

    def __init__(self, nip42: Nip42 | None = None) -> None:
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self._nip42 = nip42
        self._relay: LocalRelay | None = None

    async def start(self) -> None:
        builder = LocalRelayBuilder().addr("127.0.0.1").port(self.port).max_filter_limit(5000)
        builder = builder.rate_limit(RateLimit(max_reqs=10_000, notes_per_minute=1_000_000))
        if self._nip42 is not None:
            mode = LocalRelayBuilderNip42Mode[self._nip42.upper()]
            builder = builder.nip42(LocalRelayBuilderNip42(mode=mode))
        self._relay = builder.build()
        await self._relay.run()

    async def stop(self) -> None:
        """The relay is gone: connections break, new ones are refused."""
        if self._relay is None:
            return
        relay, self._relay = self._relay, None
        # Only what waits at that moment hears the call: the part that listens, or that serves one connection, and
        # is busy, goes on. A connection that was left would serve its old clients beside the next relay.
        while self._alive():
            relay.shutdown()
            await asyncio.sleep(0.01)

    def _alive(self) -> bool:
        """Whether this process, in which the relay runs, still has its end of any of the relay's sockets."""
        return any(
            connection.laddr.port == self.port and connection.status in (psutil.CONN_LISTEN, psutil.CONN_ESTABLISHED)
            for connection in psutil.Process().net_connections("tcp4")
        )


@asynccontextmanager
async def running_relay(nip42: Nip42 | None = None) -> AsyncIterator[TestRelay]:
    """A relay that can be stopped and started; `nip42` says for what it demands authentication."""
    relay = TestRelay(nip42)
    await relay.start()
    try:
        yield relay
    finally:
        await relay.stop()


@asynccontextmanager
async def local_relay(nip42: Nip42 | None = None) -> AsyncIterator[str]:
    """The URL of a relay that runs as long as the block."""
    async with running_relay(nip42) as relay:
        yield relay.url
