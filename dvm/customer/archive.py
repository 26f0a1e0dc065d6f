"""The receipts that a customer has seen, kept on their own disk: relays forget, and a provider may hope so."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

from dvm.nostr import Event, InvalidEvent

MAX_LINE = 262_144


class ArchiveError(Exception):
    """The archive cannot be read or written; the text says which file and why."""


class Archive:
    """Signed receipts as lines of JSON, one file for each customer key and provider, for its owner only."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def load(self, customer: str, provider: str) -> list[Event]:
        """What is kept, unverified: a file is as hostile as a relay. Raises ArchiveError."""
        return await asyncio.to_thread(self._load, customer, provider)

    async def save(self, customer: str, provider: str, receipts: Iterable[Event]) -> None:
        """Append receipts that are not kept yet. Raises ArchiveError."""
        lines = [event.to_json() + "\n" for event in receipts]
        if lines:
            await asyncio.to_thread(self._append, self._path(customer, provider), "".join(lines))

    def _load(self, customer: str, provider: str) -> list[Event]:
        path = self._path(customer, provider)
        found = []
        try:
            with path.open("rb") as file:
                while line := file.readline(MAX_LINE):
                    try:
                        found.append(Event.from_json(line))
                    except InvalidEvent:  # torn by a crash or a full disk: the relays have it
                        continue
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ArchiveError(f"{path}: cannot be read: {error.strerror}") from None
        return found

    def _append(self, path: Path, text: str) -> None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "rb+") as file:
                size = file.seek(0, os.SEEK_END)
                # After a torn line: what comes next must not become part of it.
                torn = size > 0 and (file.seek(size - 1), file.read(1))[1] != b"\n"
                file.write((b"\n" if torn else b"") + text.encode())
        except OSError as error:
            raise ArchiveError(f"{path}: cannot be written: {error.strerror}") from None

    def _path(self, customer: str, provider: str) -> Path:
        return self._directory / customer / f"{provider}.jsonl"
