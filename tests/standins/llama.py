"""A real OpenAI-compatible server: llama.cpp's, with the embedded model's weights."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from dvm.models.embedded import SMOLLM2, _load, _weights


@contextmanager
def llama_server() -> Iterator[tuple[str, str]]:
    """Its base_url on loopback, and its key."""
    llama = _load(_weights(SMOLLM2), 2, 2048, 1)
    key = llama.http.headers["authorization"].removeprefix("Bearer ")
    yield f"{llama.server.listening_address}/v1", key
    asyncio.run(llama.http.aclose())
    llama.threads.shutdown(wait=False)
