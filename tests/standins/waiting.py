"""Waiting for a thing instead of for a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from inspect import isawaitable


async def until(condition: Callable[[], object], timeout: float = 30.0) -> None:
    """Return once the condition, which may have to be awaited, holds. Fails the test when it does not within
    `timeout` seconds."""
    try:
        async with asyncio.timeout(timeout):
            while True:
                holds = condition()
                if await holds if isawaitable(holds) else holds:
                    return
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {timeout} s: {condition.__code__.co_names}") from None
