"""Hints that an invoice may be settled, handed to whoever reads them: bounded, lossy, never in the way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

_KEPT = 10_000  # for a reader that has fallen behind: the oldest give way, a look-up finds what they meant


class Hints:
    """Payment hashes, told by a wallet and read by any number of readers until `close`."""

    def __init__(self) -> None:
        self._readers: set[_Reader] = set()
        self._closed = False

    def tell(self, payment_hash: str) -> None:
        for reader in self._readers:
            reader.put(payment_hash)

    def read(self) -> AsyncIterator[str]:
        """What is told from this call on; ends when the wallet is closed."""
        reader = _Reader()
        self._readers.add(reader)
        if self._closed:
            reader.end()
        return self._read(reader)

    @property
    def all_taken(self) -> bool:
        """Whether every reader has come back for more since the last hint: what it was told is dealt with."""
        return all(reader.idle.is_set() for reader in self._readers)

    async def taken(self) -> None:
        """Wait for that: a stream's place is kept only then, so that a crash loses no hint."""
        while not self.all_taken:
            for reader in list(self._readers):
                await reader.idle.wait()

    def close(self) -> None:
        self._closed = True
        for reader in self._readers:
            reader.end()

    async def _read(self, reader: _Reader) -> AsyncIterator[str]:
        try:
            while (payment_hash := await reader.next()) is not None:
                yield payment_hash
        finally:
            self._readers.discard(reader)


class _Reader:
    def __init__(self) -> None:
        self._hints: deque[str] = deque(maxlen=_KEPT)
        self._wake = asyncio.Event()
        self._ended = False
        self.idle = asyncio.Event()
        self.idle.set()  # nothing was told yet

    def put(self, hint: str) -> None:
        self._hints.append(hint)
        self.idle.clear()
        self._wake.set()

    def end(self) -> None:
        self._ended = True
        self._wake.set()

    async def next(self) -> str | None:
        while not self._hints:
            self.idle.set()
            if self._ended:
                return None
            self._wake.clear()
            await self._wake.wait()
        return self._hints.popleft()
