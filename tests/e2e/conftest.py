"""What the tests of the whole daemon share: a relay, a wallet process, a customer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dvm.lightning.paper_socket import pay_over_socket
from tests.standins.customer import Customer, customer
from tests.standins.process import Process
from tests.standins.relay import TestRelay, running_relay


class WalletProcess(Process):
    """The paper wallet as a process that can be killed and come back with all that it had."""

    def __init__(self, relay: str, data: Path) -> None:
        super().__init__(["-m", "tests.standins.paper_wallet", "--relay", relay, "--data", str(data)])
        self.uri = ""  # the shop's
        self.customer_uri = ""
        self._socket = data / "paper.sock"

    async def start(self) -> None:
        begun = len(self.lines)
        await self.spawn()
        said = json.loads(await self.line('"shop"', start=begun))
        self.uri, self.customer_uri = said["shop"], said["customer"]

    async def pay(self, bolt11: str) -> str:
        """Pay as anybody may; the payment hash."""
        answer = await pay_over_socket(self._socket, bolt11)
        assert answer["paid"], answer
        return str(answer["payment_hash"])


@pytest.fixture
async def relay() -> AsyncIterator[TestRelay]:
    async with running_relay() as each:
        yield each


@pytest.fixture
async def wallet(tmp_path: Path) -> AsyncIterator[WalletProcess]:
    """On a relay of its own, so that the shop's relays may fail without it."""
    async with wallet_process(tmp_path / "wallet") as each:
        yield each


@asynccontextmanager
async def wallet_process(data: Path) -> AsyncIterator[WalletProcess]:
    async with running_relay() as relay:
        each = WalletProcess(relay.url, data)
        await each.start()
        try:
            yield each
        finally:
            if each.running:
                await each.kill()


@pytest.fixture
async def buyer(relay: TestRelay) -> AsyncIterator[Customer]:
    async with customer(relay.url) as each:
        yield each
