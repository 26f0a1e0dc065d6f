"""A Blossom server that is not ours: khatru's, as a process. See tests/khatru/main.go."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

import pytest

from tests.standins.process import ROOT, Process


@cache
def program() -> str:
    """Where it is. Skips the test where it was not built."""
    done = subprocess.run([ROOT / "scripts/blossom"], capture_output=True, text=True, timeout=30)
    if done.returncode:
        pytest.skip("there is no Blossom server here (`scripts/blossom --build` builds it)")
    return done.stdout.strip()


@asynccontextmanager
async def khatru(*, most: int = 0, types: str = "", keys: str = "") -> AsyncIterator[str]:
    """Its URL. It takes at most so many bytes, files with these endings, and those keys', each separated by commas."""
    process = Process(["-most", str(most), "-types", types, "-keys", keys], program=program())
    await process.spawn()
    try:
        yield json.loads(await process.line('{"url"'))["url"]
    finally:
        await process.kill()
