"""The data directory: what the daemon keeps between runs, for one daemon at a time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dvm.problems import ConfigError

# A daemon that has not written its heartbeat for this long (seconds) hangs, or is gone.
STALE_SECONDS = 60


class DataDir:
    """Where things lie within `--data DIR`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nsec = path / "nsec"
        self._health = path / "health.json"
        self._lock = path / "lock"

    def make(self) -> None:
        """Create the directory, readable by its owner only. Raises ConfigError when that cannot be."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a file name"
            raise ConfigError([f"--data {self.path}: cannot be made: {reason}"]) from None
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise ConfigError([f"--data {self.path}: this user may not write there"])

    @contextmanager
    def only_one(self) -> Iterator[None]:
        """Hold the directory. Two daemons on one ledger would answer, and bill, each job twice.

        The lock is the operating system's: a killed daemon leaves none behind. Raises ConfigError when
        another process has it.
        """
        import fcntl

        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError([f"--data {self.path}: another daemon is running there"]) from None
            yield
        finally:
            os.close(descriptor)

    def running(self) -> bool:
        """Whether a daemon holds the directory. Changes nothing there."""
        import fcntl

        try:
            descriptor = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            # Shared, and let go at once: two that only ask do not see each other.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        else:
            return False
        finally:
            os.close(descriptor)

    def write_nsec(self, nsec: str) -> None:
        """Write the key file, for its owner only. Raises FileExistsError: a key is never overwritten."""
        descriptor = os.open(self.nsec, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(nsec + "\n")
            file.flush()
            os.fsync(file.fileno())

    def beat(self, facts: dict[str, Any]) -> None:
        """Write the heartbeat that `dvm doctor --health` reads: `facts`, and now. Blocks briefly."""
        new = self._health.with_suffix(".new")
        new.write_text(json.dumps({**facts, "at": time.time()}))
        new.replace(self._health)  # a reader sees the old one or the new one, never half of one

    def health(self, *, stale_after: float = STALE_SECONDS) -> tuple[bool, str]:
        """Whether a live daemon wrote its heartbeat within `stale_after` seconds, and a word about it."""
        try:
            beat = json.loads(self._health.read_bytes())
            age = time.time() - float(beat["at"])
        except FileNotFoundError:
            return False, "no daemon has run here"
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False, "the heartbeat cannot be read"
        if not -stale_after <= age <= stale_after:
            return False, f"the last heartbeat is {age:.0f} seconds old"
        return True, f"the last heartbeat is {max(age, 0):.0f} seconds old"

    def end(self) -> None:
        """Take the heartbeat away: the daemon has stopped."""
        self._health.unlink(missing_ok=True)
