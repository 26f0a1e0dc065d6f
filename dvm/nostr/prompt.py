"""A websocket connection on which no small message waits for 40 ms."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from websockets.asyncio.client import ClientConnection


class PromptConnection(ClientConnection):
    """A connection that neither waits with what it sends nor with acknowledging what it gets.

    Nagle's algorithm at one end and delayed acknowledgements at the other cost 40 ms a message. Ours is
    off; a relay's is not always, so what it sends is acknowledged at once. The kernel falls back to delaying,
    hence the call after each read.
    """

    _socket: socket.socket | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_QUICKACK"):
                self._socket = raw

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._socket is not None:
            with suppress(OSError):  # closed meanwhile
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
