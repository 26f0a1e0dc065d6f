"""NIP-47 against a wallet service on a real relay: the contract, in both encryptions."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dvm.lightning.nwc_client import Options
from dvm.lightning.paper_node import PaperInvoice
from tests.lightning.connected import Setup, setup
from tests.lightning.contract import Bench, WalletContract


def bench(setup: Setup) -> Bench:
    async def pay(bolt11: str) -> PaperInvoice:
        return setup.node.pay(bolt11, payer="customer")

    async def invoice(msat: int) -> str:
        return setup.node.make("customer", msat, description="change", expiry=600).bolt11

    return Bench(setup.wallet, pay, invoice)


class TestNip44(WalletContract):
    @pytest.fixture
    async def bench(self) -> AsyncIterator[Bench]:
        async with setup(["nip44"], Options()) as ready:
            yield bench(ready)


class TestNip04(WalletContract):
    @pytest.fixture
    async def bench(self) -> AsyncIterator[Bench]:
        async with setup(["nip04"], Options()) as ready:
            yield bench(ready)
