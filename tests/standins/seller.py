"""A shop that sells on a real relay: engine, ledger, paper wallet and a model, in this process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from dvm.jobs import KINDS, Engine, Service, Settings, Shop
from dvm.jobs.admission import Policy, standard_policies
from dvm.ledger import SqliteStore
from dvm.lightning.paper import PaperWallet
from dvm.lightning.paper_node import PaperNode
from dvm.models import Model
from dvm.models.echo import EchoModel
from dvm.nip90 import Announcement, announcement_draft
from dvm.nostr import Keys, PoolOptions, RelayOptions, RelayPool
from dvm.pricing import PerToken, Price, by_class
from tests.standins.relay import running_relay

PRICE = PerToken(300_000, 75_000, 2_500_000)
QUICK = PoolOptions(
    relay=RelayOptions(min_backoff=0.01, max_backoff=0.05, retry_delay=0.02, connect_timeout=5.0, stable=0.5),
    allow_private=True,
    query_grace=0.3,
)
CUSTOMER_MSAT = 10**9


class Seller:
    """A running shop. `stop` and `start` are its daemon's end and its next start, on the same ledger."""

    def __init__(
        self,
        relays: Sequence[str],
        node: PaperNode,
        data: Path,
        *,
        keys: Keys,
        model: Model,
        price: Price,
        policies: Sequence[Policy],
        settings: Settings,
        announce: bool,
    ) -> None:
        self.relays = list(relays)
        self.url = self.relays[0]
        self.node, self.data, self.keys, self.model = node, data, keys, model
        self.price, self.policies, self.settings = price, policies, settings
        self.announce = announce
        self.shop: Shop
        self.engine: Engine
        self.wallet: PaperWallet
        self.store: SqliteStore
        self.pool: RelayPool
        self.running = False

    async def start(self) -> None:
        """Open the shop, on what the last run left."""
        self.wallet = PaperWallet(self.node)
        await self.wallet.start()
        self.store = await SqliteStore.open(self.data)
        self.pool = RelayPool(self.relays, self.relays, keys=self.keys, options=QUICK)
        self.pool.start()
        await self.pool.wait_connected(timeout=10)
        name = self.model.name
        service = Service(KINDS[5050], (name,), {name: self.price})
        self.shop = Shop(
            self.keys,
            self.store,
            self.wallet,
            self.pool,
            {name: self.model},
            {5050: service},
            settings=self.settings,
            policies=self.policies,
            announcement="dvm" if self.announce else None,
        )
        self.engine = Engine(self.shop)
        await self.engine.start()
        if self.announce:
            said = Announcement(d="dvm", kinds=(5050,), name="a stand-in", prices={name: by_class(self.price)})
            await self.pool.publish(announcement_draft(said).sign(self.keys, int(time.time())))
        self.running = True

    async def stop(self) -> None:
        """Finish what runs, store, leave. Safe to call twice."""
        if self.running:
            self.running = False
            await self.engine.stop()
            await self.pool.close()
            await self.store.close()
            await self.wallet.close()

    async def payer(self, name: str = "customer", msat: int = CUSTOMER_MSAT) -> PaperWallet:
        """A wallet, with money in it, that can pay this shop's invoices. It is closed with the node."""
        self.node.open_wallet(name, msat)
        wallet = PaperWallet(self.node, name)
        await wallet.start()
        return wallet


@asynccontextmanager
async def seller(
    relays: Sequence[str] = (),
    *,
    price: Price = PRICE,
    model: Model | None = None,
    policies: Sequence[Policy] | None = None,
    settings: Settings | None = None,
    data: Path | None = None,
    keys: Keys | None = None,
    node: PaperNode | None = None,
    announce: bool = True,
) -> AsyncIterator[Seller]:
    """A shop for kind 5050 that is open as long as the block.

    Without `relays` it has a relay of its own; without `data` a directory that goes with it. The paper node
    is in memory unless one is given.
    """
    async with AsyncExitStack() as stack:
        if not relays:
            relays = [(await stack.enter_async_context(running_relay())).url]
        if data is None:
            data = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if policies is None:
            policies = standard_policies(per_minute=600, quotes=50, quotes_total=10_000)
        shop = Seller(
            relays,
            node or PaperNode(),
            data,
            keys=keys or Keys.generate(),
            model=model or EchoModel("echo", max_output_tokens=1000),
            price=price,
            policies=policies,
            settings=settings or Settings(publish_seconds=3, shutdown_seconds=5),
            announce=announce,
        )
        await shop.start()
        stack.push_async_callback(shop.stop)
        yield shop
