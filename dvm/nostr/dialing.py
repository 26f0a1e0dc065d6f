"""Making a connection to a relay: to the addresses that were checked, and on terms that a relay cannot abuse."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from dvm.nostr.addresses import Endpoint
from dvm.nostr.options import RelayOptions
from dvm.nostr.prompt import PromptConnection


async def dial(endpoint: Endpoint, hosts: Sequence[str | None], options: RelayOptions) -> ClientConnection:
    """A connection to the first of `hosts` that takes one; None is the URL's own host. Raises OSError, TimeoutError
    and whatever websockets raises of a handshake."""
    kwargs: dict[str, Any] = {}
    if endpoint.scheme == "wss":
        kwargs["ssl"] = _tls()
    for last, host in [(host is hosts[-1], host) for host in hosts]:
        if host is not None:
            # The checked address itself, no proxy: Host and server name stay the URL's. With both given,
            # websockets follows no redirect to another place either.
            kwargs |= {"host": host, "port": endpoint.port, "proxy": None}
        try:
            return await connect(
                endpoint.url,
                # Deflate costs more CPU than a relay's short messages are worth, and a bomb's inflation
                # is ours to pay.
                compression=None,
                open_timeout=options.connect_timeout,
                ping_interval=options.ping_interval,
                ping_timeout=options.ping_timeout,
                close_timeout=1.0,
                max_size=options.frame_bytes,
                max_queue=64,
                # Below this, websockets' ping does not wait behind what the relay has yet to read.
                write_limit=options.send_buffer,
                user_agent_header="lightning-dvm",
                create_connection=PromptConnection,
                **kwargs,
            )
        except OSError:
            if last:
                raise
    raise OSError("no address to connect to")


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    # Reading the system's certificates takes tens of milliseconds: once, not with each connection.
    return ssl.create_default_context()
