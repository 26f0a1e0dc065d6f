"""Ports for test servers that nobody else takes, neither before a server listens nor while it is stopped.

A port that the kernel has chosen is free for all again as soon as it is closed: for another process's server, or for
the near end of any connection. So ours are below those that the kernel chooses from, and each process of the tests
has a range of them for itself until it ends.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import TextIO

_FIRST, _LAST, _RANGE = 12_000, 32_000, 200  # Linux chooses from 32768 on, macOS from 49152


def free_port() -> int:
    """A port of the loopback address on which nobody listens, and nobody but this process will."""
    _, ports = _ours()
    while True:
        port = next(ports)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what is closed is free at once
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:  # a program's that has nothing to do with the tests
                continue
        return port


@cache
def _ours() -> tuple[TextIO, Iterator[int]]:
    """The lock that is held until the process ends, and the ports that it stands for, over and over."""
    locks = Path(tempfile.gettempdir()) / f"lightning-dvm-test-ports-{os.getuid()}"
    locks.mkdir(exist_ok=True)
    for first in range(_FIRST, _LAST, _RANGE):
        lock = (locks / str(first)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            return lock, cycle(range(first, first + _RANGE))
    raise AssertionError("more processes run tests than there are ports for")
