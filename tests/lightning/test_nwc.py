"""NIP-47 against a wallet service on a real relay: the contract in both encryptions, then every fault."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from dvm.lightning.nwc import NwcWallet
from dvm.lightning.nwc_client import Options
from dvm.lightning.paper_node import PaperInvoice, PaperNode
from dvm.lightning.paper_service import BOTH, PaperService, Served
from dvm.nostr.encryption import Scheme
from tests.lightning.contract import Bench, WalletContract
from tests.standins.relay import TestRelay, running_relay

QUICK = Options(timeout=1.0, pay_timeout=1.0, info_timeout=2.0, backoff=0.02, poll=0.05, lookups=5)


@dataclass
class Setup:
    """A relay, a paper node behind NIP-47 on it, and our wallet, which is the shop's."""

    relay: TestRelay
    node: PaperNode
    service: PaperService
    shop: Served
    wallet: NwcWallet


@asynccontextmanager
async def setup(
    schemes: Sequence[Scheme] = BOTH, options: Options = QUICK, **connection: object
) -> AsyncIterator[Setup]:
    async with running_relay() as relay:
        node = PaperNode()
        node.open_wallet("shop", 1_000_000)
        node.open_wallet("customer", 10_000_000)
        service = PaperService(node, [relay.url])
        shop = service.connect("shop", schemes=schemes, **connection)  # type: ignore[arg-type]
        await service.start()
        wallet = NwcWallet(shop.connection.uri(), options=options)
        await wallet.start()
        try:
            yield Setup(relay, node, service, shop, wallet)
        finally:
            await wallet.close()
            await service.close()


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
