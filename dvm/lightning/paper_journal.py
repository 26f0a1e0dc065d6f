"""The paper node's memory: one JSON array a line, appended before the step that it records counts.

Appended with O_APPEND and not fsynced: what was written survives a SIGKILL of the process, not a power
cut. It is paper.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from dvm.lightning.base import WalletError


class Journal:
    """An append-only file of records, open in one process at a time."""

    def __init__(self, path: Path) -> None:
        self.begun = False  # whether the file held anything
        self._path = path
        self._file = -1
        self._torn = False  # the last line lacks its end: a write was cut short

    def open(self) -> Iterator[list[Any]]:
        """Lock the file and give back its records, oldest first. Raises WalletError.

        A line that is not JSON was cut short by a full disk or a crash, before its step counted: skipped.
        """
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WalletError("failed", f"{self._path}: another process uses this paper wallet") from None
        except OSError as error:
            raise WalletError("failed", f"{self._path}: {error.strerror}") from None
        with open(os.dup(self._file), "rb") as lines:
            lines.seek(0)
            for line in lines:
                self.begun = True
                self._torn = not line.endswith(b"\n")
                try:
                    record = orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue
                if not isinstance(record, list):
                    raise WalletError("failed", f"{self._path}: not a paper wallet's file")
                yield record

    def append(self, record: list[object]) -> None:
        """Write one record. Raises WalletError if it is not wholly written; it then does not count."""
        line = orjson.dumps(record) + b"\n"
        if self._torn:
            line = b"\n" + line
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise WalletError("failed", f"{self._path}: {error.strerror}") from None
        self._torn = written != len(line)
        if self._torn:
            raise WalletError("failed", f"{self._path}: the disk is full")

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
