"""What several wallets' tests need."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.standins.lnd import LndStandin, lnd_standin


@pytest.fixture
async def node() -> AsyncIterator[LndStandin]:
    """An LND, for the tests of our LND wallet."""
    async with lnd_standin() as each:
        yield each
