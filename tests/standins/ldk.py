"""The LDK network of `tests/ldk`: two real Lightning nodes behind NIP-47, in a Node.js process."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest

_SOURCES = Path(__file__).parent.parent / "ldk"


@cache
def program() -> Path:
    """The installed program. Skips the test where it cannot be: no Node.js, no npm, no packages."""
    for needed in ("node", "npm", "flock"):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    done = subprocess.run([_SOURCES / "setup.sh"], capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"tests/ldk/setup.sh failed: {done.stderr[-300:]}")
    return Path(done.stdout.splitlines()[-1])


@dataclass
class LdkNetwork:
    """Both wallets' URIs, and the control port."""

    shop: str
    customer: str
    control: str

    async def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """`/block`, `/disconnect`, `/reconnect`, `/knobs`, `/pay`, `/notify`: see tests/ldk/README.md."""
        async with httpx.AsyncClient(base_url=self.control, timeout=60) as client:
            answer = await client.post(path, json=body or {})
            answer.raise_for_status()
            return dict(answer.json())

    async def state(self) -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=self.control, timeout=60) as client:
            return dict((await client.get("/state")).json())


@asynccontextmanager
async def ldk_network(relay: str, *options: str) -> AsyncIterator[LdkNetwork]:
    """A new network with its wallets on `relay`."""
    process = await asyncio.create_subprocess_exec(
        "node",
        str(program()),
        "--relay",
        relay,
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            told = json.loads(await process.stdout.readline())
        yield LdkNetwork(told["shop"], told["customer"], told["control"])
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
