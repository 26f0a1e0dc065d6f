"""A wallet server's websocket, on which it says that something was paid: opened quietly, and read with distrust.

What it says is a hint, never believed. Its address or its headers carry a key: they stand in no error and no log,
whatever a library would say of them.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson
from websockets.asyncio.client import ClientConnection, connect

OPEN_SECONDS = 10.0
PING_SECONDS = 20.0

# What websockets logs has the request in it, and so the key.
_silent = logging.getLogger(f"{__name__}.silent")
_silent.propagate = False
_silent.disabled = True


async def open_websocket(
    url: str,
    path: str,
    *,
    context: ssl.SSLContext,
    max_frame: int,
    headers: Mapping[str, str] | None = None,
) -> ClientConnection:
    """Connect to `path` below the server's http:// or https:// address. `max_frame`: in bytes. Raises what websockets
    does: OSError, TimeoutError, ValueError (a redirect to another place) or WebSocketException."""
    parts = urlsplit(url.rstrip("/"))
    secure = parts.scheme == "https"
    return await connect(
        f"{'wss' if secure else 'ws'}://{parts.netloc}{parts.path}{path}",
        # With the host given, websockets follows no redirect to another one, which would get the key.
        host=parts.hostname,
        port=parts.port or (443 if secure else 80),
        ssl=context if secure else None,
        additional_headers=dict(headers or {}),
        proxy=None,
        compression=None,
        max_size=max_frame,
        open_timeout=OPEN_SECONDS,
        ping_interval=PING_SECONDS,
        ping_timeout=PING_SECONDS,
        close_timeout=1.0,
        user_agent_header="lightning-dvm",
        logger=_silent,
    )


def read_object(message: str | bytes) -> dict[str, Any]:
    """The JSON object that a message is, empty for anything else."""
    try:
        told = orjson.loads(message)
    except orjson.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}
