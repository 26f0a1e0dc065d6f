"""A shop on loopback: its two files, with whatever a test wants to be different."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dvm.datadir import DataDir
from dvm.nostr.keys import Keys
from tests.toml_text import to_toml

ECHO: dict[str, Any] = {"provider": "echo", "input": 100, "cached": 25, "output": 400, "max_output_tokens": 64}


def write_shop(
    directory: Path,
    relays: Sequence[str | dict[str, Any]],
    *,
    wallet: dict[str, Any] | None = None,
    models: dict[str, dict[str, Any]] | None = None,
    identity: dict[str, Any] | None = None,
    tables: dict[str, Any] | None = None,
    key: bool = True,
) -> Keys:
    """`dvm.toml` and `relays.toml` with these relays, and a key in `data`; its keys. `tables` are further
    ones."""
    models = models or {"echo": ECHO}
    written = {
        "identity": {"name": "Shop", "about": "For tests", "nsec_file": "data/nsec", **(identity or {})},
        "wallet": wallet or {"type": "paper"},
        "models": models,
        "service": [{"kind": 5050, "models": list(models), "price": "per-token"}],
        **(tables or {}),
    }
    entries = [relay if isinstance(relay, dict) else {"url": relay} for relay in relays]
    (directory / "dvm.toml").write_text(to_toml(written))
    (directory / "relays.toml").write_text(to_toml({"relay": entries}))
    keys = Keys.generate()
    if key:
        data = DataDir(directory / "data")
        data.make()
        data.write_nsec(keys.nsec())
    return keys
