"""Where a customer's key lies: their balances at providers belong to it, so it outlives a single question."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dvm.nostr import InvalidKey, Keys

NSEC = "DVM_CUSTOMER_NSEC"
MAX_KEY_BYTES = 1024


class PurseError(Exception):
    """The key cannot be had; the text says why and what to do, and never shows it."""


@dataclass(frozen=True, slots=True)
class Purse:
    """The customer's key and where it came from. `made` says that it is new: its owner should know."""

    keys: Keys
    origin: str
    made: bool = False
    warning: str | None = None


def data_directory(environ: Mapping[str, str]) -> Path:
    """Where a customer's things lie: `$XDG_DATA_HOME/dvm`, `~/.local/share/dvm` by default."""
    base = environ.get("XDG_DATA_HOME", "")
    # The XDG specification has relative paths ignored.
    root = Path(base) if base.startswith("/") else Path.home() / ".local" / "share"
    return root / "dvm"


def open_purse(environ: Mapping[str, str], key_file: Path | None = None, *, make: bool = True) -> Purse:
    """The key: from `key_file` if it is given, else from DVM_CUSTOMER_NSEC, else from `customer.nsec` in the
    data directory. A file that is missing is written, with a new key, for its owner only; unless `make`
    is False. Raises PurseError."""
    text = environ.get(NSEC, "").strip()
    if key_file is None and text:
        return Purse(_parse(text, NSEC), NSEC)
    path = key_file or data_directory(environ) / "customer.nsec"
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            raw = file.read(MAX_KEY_BYTES + 1) if stat.S_ISREG(status.st_mode) else b""
    except FileNotFoundError:
        if not make:
            raise PurseError(f"{path}: there is no key yet; the first `dvm ask` makes it, or set {NSEC}") from None
        return _made(path)
    except OSError as error:
        raise PurseError(f"{path}: cannot be read: {error.strerror}") from None
    keys = _parse(raw.decode("ascii", "replace"), str(path))
    open_to_others = os.name == "posix" and status.st_mode & 0o077
    warning = f"{path}: others can read this key: chmod 600" if open_to_others else None
    return Purse(keys, str(path), warning=warning)


def _made(path: Path) -> Purse:
    keys = Keys.generate()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Complete or not there at all: a torn key file would be taken for a wrong one for ever.
        new = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(keys.nsec() + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(new, path)  # fails where another process was quicker: its key counts
        finally:
            new.unlink()
    except FileExistsError:
        return open_purse({}, path, make=False)
    except OSError as error:
        raise PurseError(f"{path}: the new key cannot be written: {error.strerror}") from None
    return Purse(keys, str(path), made=True)


def _parse(text: str, origin: str) -> Keys:
    try:
        return Keys.parse(text)
    except InvalidKey as error:
        raise PurseError(f"{origin}: {error}") from None
