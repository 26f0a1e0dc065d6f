"""A shop in the test's hands on a relay of its own, and a customer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.standins.customer import Customer, customer
from tests.standins.relay import local_relay
from tests.standins.workshop import Workshop, workshop


@pytest.fixture
async def relay() -> AsyncIterator[str]:
    async with local_relay() as url:
        yield url


@pytest.fixture
async def shop(relay: str, tmp_path: Path) -> AsyncIterator[Workshop]:
    async with workshop(relay, data=tmp_path) as each:
        yield each


@pytest.fixture
async def buyer(relay: str) -> AsyncIterator[Customer]:
    async with customer(relay) as each:
        yield each
