"""A wallet behind NIP-47 on a real relay, both ends in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from dvm.lightning.nwc import NwcWallet
from dvm.lightning.nwc_client import Options
from dvm.lightning.paper_node import PaperNode
from dvm.lightning.paper_service import BOTH, PaperService, Served
from dvm.nostr.encryption import Scheme
from tests.standins.relay import Nip42, TestRelay, running_relay

QUICK = Options(timeout=10.0, pay_timeout=10.0, resend=0.5, backoff=0.02, poll=0.05, lookups=5)
# For tests in which no answer comes: long enough for one that does.
IMPATIENT = Options(timeout=1.0, pay_timeout=1.0, resend=0.3, backoff=0.02, poll=0.05, lookups=5)


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
    schemes: Sequence[Scheme] = BOTH, options: Options = QUICK, *, nip42: Nip42 | None = None, **connection: object
) -> AsyncIterator[Setup]:
    async with running_relay(nip42) as relay:
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
