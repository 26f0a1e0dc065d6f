"""`dvm run` as a process: configured, started, heard, stopped, killed, started again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dvm.ledger import SqliteStore
from dvm.nostr.keys import Keys
from tests.standins.process import Process
from tests.toml_text import to_toml

ECHO = {"provider": "echo", "input": 100, "cached": 25, "output": 400, "max_output_tokens": 1024}
# What a test cannot wait for, made quick; and the loopback address, which customers may not name otherwise.
LIMITS: dict[str, Any] = {
    "allow_private_addresses": True,
    "partial_seconds": 0.05,
    "reconcile_seconds": 1,
    "sweep_seconds": 1,
    "shutdown_seconds": 10,
}


class DaemonProcess(Process):
    """The daemon on the files of one directory. `log` is what it logged, one dict for each line, over all
    of its lives; `begun` where its present life begins."""

    def __init__(self, directory: Path, env: Mapping[str, str], options: Sequence[str] = ()) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.log: list[dict[str, Any]] = []
        self.begun = 0
        self.strange: list[str] = []  # lines that are no JSON object
        super().__init__(["-m", "dvm", "run", "--log", "json", *options, *self.files()], env, directory)

    def files(self) -> list[str]:
        """The options that name its files, for other commands as well."""
        named = {"--config": "dvm.toml", "--relays": "relays.toml", "--data": "data"}
        return [part for option, name in named.items() for part in (option, str(self.directory / name))]

    async def start(self, timeout: float = 60.0) -> dict[str, Any]:
        """Start it and wait until it is ready: what that line says."""
        await self.begin()
        return await self.said("ready", timeout)

    async def begin(self) -> None:
        """Start it, and do not wait."""
        self.begun = len(self.log)
        await self.spawn()

    async def said(self, event: str, timeout: float = 60.0, **fields: object) -> dict[str, Any]:
        """The first record of its present life with that event and those fields, waited for."""
        begun = self.begun
        async with asyncio.timeout(timeout):
            while True:
                for record in self.log[begun:]:
                    if record["event"] == event and all(record.get(name) == value for name, value in fields.items()):
                        return record
                assert not all(reader.done() for reader in self._readers), "\n".join(self.lines[-40:])
                self._changed.clear()
                await self._changed.wait()

    async def store(self) -> SqliteStore:
        """Its ledger, opened beside it; to be closed."""
        return await SqliteStore.open(self.data)

    def _wrote(self, line: str) -> None:
        try:
            record = json.loads(line)
            assert "event" in record
        except (ValueError, AssertionError):
            self.strange.append(line)
        else:
            self.log.append(record)


def configure(
    directory: Path,
    relays: Sequence[str],
    *,
    wallet: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    limits: Mapping[str, Any] | None = None,
    price: object = "per-token",
    identity: Mapping[str, Any] | None = None,
    tables: Mapping[str, Any] | None = None,
) -> None:
    """Write dvm.toml and relays.toml: one kind of job, done by the one model `model`. `tables` are further ones."""
    directory.mkdir(parents=True, exist_ok=True)
    written = {
        "identity": {"name": "A shop", **(identity or {})},
        "wallet": dict(wallet or {"type": "paper"}),
        "models": {"first": dict(model or ECHO)},
        "service": [{"kind": 5050, "models": ["first"], "price": price}],
        "limits": {**LIMITS, **(limits or {})},
        **(tables or {}),
    }
    (directory / "dvm.toml").write_text(to_toml(written))
    (directory / "relays.toml").write_text(to_toml({"relay": [{"url": url} for url in relays]}))


@asynccontextmanager
async def daemon(
    directory: Path,
    relays: Sequence[str],
    *,
    keys: Keys | None = None,
    env: Mapping[str, str] | None = None,
    start: bool = True,
    options: Sequence[str] = (),
    **configuration: Any,
) -> AsyncIterator[DaemonProcess]:
    """The daemon, ready, as long as the block lasts. `options` are of `dvm run`, `configuration` of `configure`."""
    configure(directory, relays, **configuration)
    secret = (keys or Keys.generate()).nsec()
    process = DaemonProcess(directory, {"DVM_NSEC": secret, **(env or {})}, options)
    try:
        if start:
            await process.start()
        yield process
    finally:
        if process.running:
            await process.kill()
