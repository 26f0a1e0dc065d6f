"""Writing to one connection without waiting for it: no task, no coroutine, one system call a turn of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from struct import pack

from websockets.asyncio.client import ClientConnection
from websockets.frames import apply_mask  # type: ignore[attr-defined]  # the compiled one, if there is one
from websockets.protocol import State

from dvm.nostr.randomness import random_bytes

_WRITE = 65_536  # characters after which a write does not wait for more
_LOOK = 0.05  # seconds between two looks at a relay that does not read


def masked(data: bytes) -> bytes:
    """One whole text message as a client sends it (RFC 6455, section 5.2): masked with unpredictable bytes."""
    mask = random_bytes(4)
    length = len(data)
    if length < 126:
        head = pack("!BB", 0x81, 0x80 | length)
    elif length < 65_536:
        head = pack("!BBH", 0x81, 0x80 | 126, length)
    else:
        head = pack("!BBQ", 0x81, 0x80 | 127, length)
    return head + mask + apply_mask(data, mask)


class Writer:
    """Sends frames over whatever connection is attached.

    At most some `limit` bytes are buffered. A relay that reads more slowly gets no more until it has caught up,
    when `on_drained` is called; one that reads nothing at all for `patience` seconds is cut off.
    """

    def __init__(self, limit: int, patience: float, on_drained: Callable[[], None]) -> None:
        self._limit, self._patience, self._on_drained = limit, patience, on_drained
        self._connection: ClientConnection | None = None
        self._unsent: list[str] = []
        self._size = 0
        self._stalled: asyncio.TimerHandle | None = None

    def attach(self, connection: ClientConnection) -> None:
        self._connection = connection

    def detach(self) -> None:
        """The connection is gone, and what was not written with it."""
        self._connection = None
        self._unsent, self._size = [], 0
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def send(self, frame: str) -> bool:
        """Write a frame soon. False, and nothing is kept: there is no connection, or its buffer is full."""
        connection = self._connection
        if connection is None:
            return False
        if self._stalled is not None:
            return False
        buffered = connection.transport.get_write_buffer_size()
        if buffered > self._limit:
            self._look_later(buffered, self._patience)
            return False
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(frame)
        self._size += len(frame)
        if self._size > _WRITE:
            self._flush()
        return True

    def _flush(self) -> None:
        # The system call is the dearest part of publishing: all that this turn of the loop has to say goes at once.
        # Synchronous, where websockets' own `send` is a coroutine that a slow relay can hold up.
        unsent, self._unsent, self._size = self._unsent, [], 0
        connection = self._connection
        if not unsent or connection is None or connection.state is not State.OPEN:
            return  # what has no answer is sent again over the next connection
        connection.transport.write(b"".join([masked(frame.encode()) for frame in unsent]))

    def _look_later(self, buffered: int, patience: float) -> None:
        self._stalled = asyncio.get_running_loop().call_later(_LOOK, self._look, buffered, patience)

    def _look(self, before: int, patience: float) -> None:
        self._stalled = None
        if self._connection is None:
            return
        buffered = self._connection.transport.get_write_buffer_size()
        if buffered <= self._limit // 2:
            self._on_drained()
        elif buffered < before:
            self._look_later(buffered, self._patience)
        elif patience > 0:
            self._look_later(buffered, patience - _LOOK)
        else:  # websockets' own ping would wait for ever behind what is not read
            self._connection.transport.abort()
