"""Randomness by the pageful: the system call for each few bytes would let go of the interpreter each time."""

from __future__ import annotations

import os
import threading

_PAGE = 4096


class Randomness:
    """The operating system's random bytes, fetched ahead. No byte is given out twice, to any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._page = b""
        self._used = 0
        os.register_at_fork(after_in_child=self._forget)

    def take(self, count: int) -> bytes:
        """`count` bytes, at most a page."""
        with self._lock:
            start = self._used
            if start + count > len(self._page):
                self._page, start = os.urandom(_PAGE), 0
            self._used = start + count
            return self._page[start : start + count]

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._page, self._used = b"", 0


random_bytes = Randomness().take
