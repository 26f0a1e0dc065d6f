"""NIP-47 against a wallet service on a real relay: the contract, in both encryptions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import ClassVar

import pytest

from dvm.lightning.nwc_client import Options
from dvm.lightning.paper_node import PaperInvoice, Refused
from dvm.nostr.encryption import Scheme
from tests.lightning.connected import Setup, setup
from tests.lightning.contract import Bench, WalletContract
from tests.lightning.hold_contract import HoldBench, HoldContract


def bench(setup: Setup) -> Bench:
    async def pay(bolt11: str) -> PaperInvoice:
        return setup.node.pay(bolt11, payer="customer")

    async def invoice(msat: int) -> str:
        return setup.node.make("customer", msat, description="change", expiry=600).bolt11

    return Bench(setup.wallet, pay, invoice)


def hold_bench(setup: Setup) -> HoldBench:
    async def pay(bolt11: str) -> str | None:
        try:
            invoice = setup.node.pay(bolt11, payer="customer")
        except Refused:
            return None
        await setup.node.decided(invoice)
        return invoice.preimage or None

    async def balance() -> int:
        return setup.node.balance("customer")

    return HoldBench(setup.wallet, pay, balance)


class Nwc(WalletContract, HoldContract):
    schemes: ClassVar[list[Scheme]]

    @pytest.fixture
    async def ready(self) -> AsyncIterator[Setup]:
        async with setup(self.schemes, Options()) as ready:
            yield ready

    @pytest.fixture
    def bench(self, ready: Setup) -> Bench:
        return bench(ready)

    @pytest.fixture
    def hold_bench(self, ready: Setup) -> HoldBench:
        return hold_bench(ready)


class TestNip44(Nwc):
    schemes: ClassVar[list[Scheme]] = ["nip44"]


class TestNip04(Nwc):
    schemes: ClassVar[list[Scheme]] = ["nip04"]
