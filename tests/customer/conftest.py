"""A relay for each test, and a customer who need not be patient."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from dvm.customer import Customer, Done, Failed, Update
from dvm.lightning.paper_node import PaperNode
from dvm.nostr import Keys, RelayPool
from tests.customer.purse import BRISK, Purse
from tests.standins.relay import TestRelay, running_relay
from tests.standins.seller import QUICK


@pytest.fixture
async def relay() -> AsyncIterator[TestRelay]:
    async with running_relay() as running:
        yield running


@pytest.fixture
def keys() -> Keys:
    return Keys.generate()


@pytest.fixture
async def pool(relay: TestRelay, keys: Keys) -> AsyncIterator[RelayPool]:
    """The customer's connection to the relay."""
    async with RelayPool([relay.url], [relay.url], keys=keys, options=QUICK) as connected:
        await connected.wait_connected(timeout=10)
        yield connected


@pytest.fixture
def node() -> PaperNode:
    return PaperNode()


@pytest.fixture
def buyer(pool: RelayPool, keys: Keys, node: PaperNode) -> Purse:
    return Purse(keys, pool, node, BRISK)


async def all_of(customer: Customer, prompt: str = "What?", **job: Any) -> list[Update]:
    """Every update of one job."""
    job.setdefault("max_msat", 50_000)
    async with aclosing(customer.ask(prompt, **job)) as updates:
        found = [update async for update in updates]
    assert isinstance(found[-1], Done | Failed)
    assert not any(isinstance(update, Done | Failed) for update in found[:-1])
    return found


def done(updates: list[Update]) -> Done:
    last = updates[-1]
    assert isinstance(last, Done), last
    return last


def failed(updates: list[Update]) -> Failed:
    last = updates[-1]
    assert isinstance(last, Failed), last
    return last
