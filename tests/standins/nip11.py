"""A web server where a relay should be: serves a NIP-11 document, at whatever time it says it is."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any


@asynccontextmanager
async def nip11_server(document: Any = None, *, ahead: float = 0.0) -> AsyncIterator[str]:
    """The `ws://` URL of a server whose clock is `ahead` seconds ahead; every request gets `document`."""
    body = json.dumps({} if document is None else document).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            date = formatdate(time.time() + ahead, usegmt=True)
            head = f"HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
