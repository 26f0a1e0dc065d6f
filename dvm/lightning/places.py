"""Where a wallet's stream of settlements was left: a small file in the data directory.

The place is moved only after a hint was handed on, so a crash repeats hints and loses none. Losing the file
costs a repetition as well: hints are free to come twice, look-ups are the proof.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger(__name__)

MAX_INDEX = (1 << 63) - 1


class Place:
    """The indexes of one wallet's stream, by name. `owner` is what tells one node from another (its address,
    say): the indexes of another node mean nothing."""

    def __init__(self, data: Path, wallet: str, owner: str) -> None:
        self._file = data / f"wallet-{wallet}.json"
        self._owner = owner
        self._indexes: dict[str, int] = {}

    async def load(self) -> dict[str, int]:
        """The indexes that were kept, or none."""
        self._indexes = await asyncio.to_thread(self._read)
        return dict(self._indexes)

    async def keep(self, indexes: Mapping[str, int]) -> None:
        """Move on to these. A file that cannot be written is told, and no reason to stop."""
        if all(self._indexes.get(name) == index for name, index in indexes.items()):
            return
        moved = {**self._indexes, **indexes}
        writing = asyncio.ensure_future(asyncio.to_thread(self._write, moved))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:  # the thread goes on, and two must not write at once
            await asyncio.gather(writing, return_exceptions=True)
            raise
        except OSError as error:
            log.warning("the wallet's place cannot be kept: %s", error)
            return
        self._indexes = moved

    def _read(self) -> dict[str, int]:
        try:
            kept = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return {}
        if not isinstance(kept, dict) or kept.get("owner") != self._owner or not isinstance(kept.get("indexes"), dict):
            return {}
        return {
            name: index for name, index in kept["indexes"].items() if type(index) is int and 0 <= index <= MAX_INDEX
        }

    def _write(self, indexes: dict[str, int]) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps({"owner": self._owner, "indexes": indexes}))
        os.replace(new, self._file)
