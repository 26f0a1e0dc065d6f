"""The engine with everything around it in this process and in the test's hands: clock, wallet, model, store."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from dvm.jobs import KINDS, Engine, Service, Settings, Shop
from dvm.jobs.admission import Policy
from dvm.jobs.files import Files
from dvm.jobs.inputs import Inputs, Sources
from dvm.jobs.kinds import Kind
from dvm.jobs.shop import ZapSettings
from dvm.ledger import Job, JobState, SqliteStore, Store
from dvm.lightning.lnurl import LnurlClient
from dvm.lightning.paper import PaperNode, PaperWallet
from dvm.models import Model
from dvm.models.router import Bounds
from dvm.nostr.fetching import Fetcher
from dvm.nostr.keys import Keys
from dvm.nostr.options import PoolOptions, RelayOptions
from dvm.nostr.pool import RelayPool
from dvm.pricing import PerToken, Price
from tests.standins.customer import Customer
from tests.standins.scripted import ScriptedModel

# sats per million × 1000: an input token is 1 sat, a cached one a quarter, an output token 4 sats.
PRICE = PerToken(1_000_000_000, 250_000_000, 4_000_000_000)
QUICK = Settings(
    partial_seconds=0.01,
    reconcile_seconds=0.1,
    sweep_seconds=0.2,
    follow_seconds=0.02,
    shutdown_seconds=5,
    publish_seconds=2,
    invoice_patience=2,
    retry_seconds=0.01,
)


class Workshop:
    """A shop for kind 5050, or other `kinds`. `open` and `close` are starts and ends of the daemon on the same ledger;
    `later` seconds are added to its clock."""

    def __init__(self, relays: Sequence[str], data: Path, models: Sequence[Model] = (), price: Price = PRICE) -> None:
        self.keys = Keys.generate()
        self.node = PaperNode()
        self.wallet = PaperWallet(self.node)
        self.models: dict[str, Model] = {model.name: model for model in models or [ScriptedModel()]}
        self.prices: Mapping[str, Price] = dict.fromkeys(self.models, price)
        self.systems: dict[str, str | None] = {}  # the operator's instructions, by model
        self.settings = QUICK
        self.policies: Sequence[Policy] = ()
        self.later = 0.0
        self.around: Callable[[Store], Any] = lambda store: store  # what the engine sees instead of the store
        self.pool_options = PoolOptions(relay=RelayOptions(min_backoff=0.01, max_backoff=0.1), allow_private=True)
        self.zaps: ZapSettings | None = None
        self.kinds: Sequence[Kind] = (KINDS[5050],)
        self.files = Files()
        self.bounds: dict[str, Bounds] = {}
        self.lnurl = LnurlClient(allow_private=True)
        self.fetcher = Fetcher(allow_private=True, plain=True)
        self.sources: dict[str, Any] = {"poll": 0.05, "seconds": 5.0}  # fields of Sources
        self.running = False
        self.store: SqliteStore
        self.shop: Shop
        self.engine: Engine
        self._relays, self._data = relays, data

    @property
    def model(self) -> ScriptedModel:
        """The first of its models."""
        model = next(iter(self.models.values()))
        assert isinstance(model, ScriptedModel)
        return model

    def set(self, **settings: Any) -> None:
        self.settings = replace(self.settings, **settings)

    def clock(self) -> float:
        """Unix seconds, as its engine has them."""
        return time.time() + self.later

    async def open(self, connections: int = 1) -> None:
        await self.wallet.start()
        self.store = await SqliteStore.open(self._data)
        self.pool = RelayPool(self._relays, self._relays, keys=self.keys, options=self.pool_options)
        self.pool.start()
        assert await self.pool.wait_connected(connections, 10)
        store = self.around(self.store)
        self.shop = Shop(
            self.keys,
            store,
            self.wallet,
            self.pool,
            self.models,
            {
                each.kind: Service(each, tuple(self.models), dict(self.prices), systems=self.systems)
                for each in self.kinds
            },
            settings=self.settings,
            policies=self.policies,
            clock=self.clock,
            announcement="dvm" if self.zaps else None,
            zaps=self.zaps,
            lnurl=self.lnurl,
            files=self.files,
            bounds=self.bounds,
            list_prices={name: price for name, price in self.prices.items() if isinstance(price, PerToken)},
            monotonic=lambda: time.monotonic() + self.later,
            inputs=Inputs(Sources(self.keys, store, self.pool, self.fetcher, clock=self.clock, **self.sources)),
        )
        self.engine = Engine(self.shop)
        await self.engine.start()
        self.running = True

    async def close(self) -> None:
        if self.running:
            self.running = False
            await self.engine.stop()
            await self.pool.close()
            await self.store.close()

    async def reopen(self) -> None:
        await self.close()
        await self.open()

    async def pay(self, customer: Customer, job: str) -> str:
        """Pay that job's quote; the payment hash."""
        quote = await customer.quote(job)
        assert quote.bolt11 is not None
        return self.node.pay(quote.bolt11).payment_hash

    async def job(self, job: str) -> Job:
        found = await self.store.job(job)
        assert found is not None
        return found

    async def state(self, job: str) -> JobState:
        return (await self.job(job)).state

    async def balanced(self) -> dict[str, int]:
        """The totals, once it is checked that they are zero and that the wallet's is what the node was paid."""
        accounts = await self.store.accounts()
        assert sum(accounts.values()) == 0
        assert -accounts["wallet"] == self.node.balance("shop")
        return accounts


@asynccontextmanager
async def workshop(
    *relays: str,
    data: Path,
    models: Sequence[Model] = (),
    price: Price = PRICE,
    opened: bool = True,
    around: Callable[[Store], Any] | None = None,
    policies: Sequence[Policy] = (),
    zaps: ZapSettings | None = None,
    **settings: Any,
) -> AsyncIterator[Workshop]:
    """A shop that is open as long as the block; `settings` are fields of `Settings`."""
    shop = Workshop(relays, data, models, price)
    shop.policies, shop.zaps = policies, zaps
    shop.set(**settings)
    if around is not None:
        shop.around = around
    try:
        if opened:
            await shop.open()
        yield shop
    finally:
        await shop.close()
        await shop.lnurl.close()
        await shop.fetcher.close()
        await shop.wallet.close()
