"""A stream that breaks off: how often it is tried again, and what the log has of it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from dvm.lightning.base import WalletError
from dvm.lightning.retries import Retries

DOWN = WalletError("unreachable", "nobody there")


async def test_an_outage_is_one_warning_and_one_line_when_it_is_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    retries = Retries(logging.getLogger("wallet"), 1.0, 60.0)
    retries.fine()
    assert caplog.messages == []
    for _ in range(8):
        await retries.wait(DOWN)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    retries.fine()
    retries.fine()
    assert caplog.messages == [
        "wallet: its payments cannot be followed; trying again: unreachable: nobody there",
        "wallet: its payments are followed again",
    ]
    await retries.wait(DOWN)
    assert pauses[-1] == 1.0
    assert len(caplog.messages) == 3
