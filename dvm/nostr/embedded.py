"""A relay in this process: the rust-nostr relay, for `dvm demo`. It keeps everything in memory.

Needs the extra `embedded` (nostr-sdk); nothing else in this program does.
"""

from __future__ import annotations

import asyncio
import importlib
import socket
from types import TracebackType
from typing import Any


class EmbeddedRelay:
    """`async with EmbeddedRelay() as url`: a relay on a free port of the loopback address, until the end."""

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._relay: Any = None

    async def __aenter__(self) -> str:
        """Its URL. Raises ImportError where nostr-sdk is not installed."""
        sdk = importlib.import_module("nostr_sdk")
        port = self._port or _free_port()
        builder = sdk.LocalRelayBuilder().addr("127.0.0.1").port(port)
        # Its own default is 60 events a minute from one connection: a stranger's measure, not a demo's.
        builder = builder.rate_limit(sdk.RateLimit(max_reqs=10_000, notes_per_minute=1_000_000))
        self._relay = builder.build()
        await self._relay.run()
        return f"ws://127.0.0.1:{port}"

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.shutdown()
            await asyncio.sleep(0)  # the relay's own threads take it from there


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
