"""Processes for tests: started, listened to, ended in good or in bad order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LINE = 16 << 20  # bytes: a traceback or an event in one line of a log


class Process:
    """A program, Python by default, as a process. `lines` is everything that it wrote, stdout and stderr, in
    their order."""

    def __init__(
        self,
        arguments: Sequence[str],
        env: Mapping[str, str] = {},
        cwd: Path | None = None,
        program: str = sys.executable,
    ) -> None:
        self.lines: list[str] = []
        self._arguments = [program, *arguments]
        self._env = {**environment(), **env}
        self._cwd = cwd
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def spawn(self) -> None:
        """Start it; returns once it exists."""
        assert not self.running
        self._process = await asyncio.create_subprocess_exec(
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._env,
            cwd=self._cwd,
            limit=LINE,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(self._process.stdout)),
            asyncio.create_task(self._read(self._process.stderr)),
        ]

    async def order(self, what: object) -> None:
        """One JSON line to its stdin."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        await self._process.stdin.drain()

    async def ended(self, timeout: float = 60.0) -> int:
        """Its exit code, once all that it wrote was read."""
        assert self._process is not None
        async with asyncio.timeout(timeout):
            code = await self._process.wait()
            await asyncio.gather(*self._readers)
        return code

    async def end(self, number: signal.Signals = signal.SIGTERM, timeout: float = 60.0) -> int:
        """Send it a signal, and wait for its end. The exit code; of a killed one, the signal negated."""
        assert self._process is not None
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
        return await self.ended(timeout)

    async def kill(self) -> None:
        """SIGKILL."""
        await self.end(signal.SIGKILL)

    async def line(self, wanted: str, timeout: float = 60.0, start: int = 0) -> str:
        """The first line that contains `wanted`, waited for. Fails the test if the process ends without it."""
        async with asyncio.timeout(timeout):
            while True:
                for line in self.lines[start:]:
                    if wanted in line:
                        return line
                start = len(self.lines)
                assert not all(reader.done() for reader in self._readers), "\n".join(self.lines[-40:])
                self._changed.clear()
                await self._changed.wait()

    async def _read(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            self.lines.append(line.decode("utf-8", "replace").rstrip("\n"))
            self._wrote(self.lines[-1])
            self._changed.set()
        self._changed.set()

    def _wrote(self, line: str) -> None:
        """For subclasses: a line was read."""


def environment() -> dict[str, str]:
    """What a child gets of our environment: no secret, no setting of this program."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@asynccontextmanager
async def running(arguments: Sequence[str], env: Mapping[str, str] = {}) -> AsyncIterator[tuple[Process, Any]]:
    """A process that says in its first line, as JSON, how to reach it; that line is the second value."""
    process = Process(arguments, env)
    await process.spawn()
    try:
        yield process, json.loads(await process.line("{"))
    finally:
        await process.end()
