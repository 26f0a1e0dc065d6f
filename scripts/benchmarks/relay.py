"""The relay of the benchmarks: rust-nostr's LocalRelay in a process of its own, on a free port.

Its first line says where it listens. It ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import socket
import sys

from nostr_sdk import LocalRelayBuilder, RateLimit


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def main() -> None:
    builder = LocalRelayBuilder().addr("127.0.0.1").port(free_port()).max_filter_limit(5000)
    # What it would allow a stranger is not what is measured.
    relay = builder.rate_limit(RateLimit(max_reqs=1_000_000, notes_per_minute=100_000_000)).build()
    await relay.run()
    print(str(await relay.url()).rstrip("/"), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
