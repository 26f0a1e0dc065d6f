"""A shop whose wallet is a paper wallet behind NIP-47, with money earned, for the operator's commands."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dvm.datadir import DataDir
from dvm.ledger import Job, JobState, Link, Metered, PendingPayment, Publication, SqliteStore, Terms
from dvm.lightning.paper_node import PaperInvoice, PaperNode
from dvm.lightning.paper_service import PaperService
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys
from dvm.nostr.pool import RelayPool
from tests.commands.running import Ran, Runner
from tests.commands.shops import write_shop
from tests.standins.relay import local_relay
from tests.standins.seller import QUICK


class Till:
    """`node` is where all wallets are; the shop's is called shop."""

    def __init__(self, here: Path, url: str, node: PaperNode, keys: Keys, dvm: Runner) -> None:
        self.data = here / "data"
        self.url, self.node, self.keys = url, node, keys
        self._dvm = dvm
        self.customer = Keys.generate()

    async def run(self, *arguments: object) -> Ran:
        """A command, beside the test's loop."""
        return await asyncio.to_thread(self._dvm, *arguments)

    async def store(self) -> SqliteStore:
        return await SqliteStore.open(self.data)

    def payee(self, msat: int) -> PaperInvoice:
        """An invoice of somebody else."""
        return self.node.make("payee", msat, description="theirs", expiry=600)

    def invoiced(self, msat: int) -> PaperInvoice:
        """One of the shop's own."""
        return self.node.make("shop", msat, description="ours", expiry=600)

    async def expect(self, store: SqliteStore, invoice: PaperInvoice) -> None:
        """Watch for it, as a top-up."""
        await store.expect(
            PendingPayment(
                invoice.payment_hash,
                "bolt11",
                self.customer.pubkey,
                None,
                invoice.bolt11,
                invoice.msat,
                invoice.created_at,
                invoice.expires_at,
            )
        )

    async def credit(self, store: SqliteStore, payment_hash: str, msat: int) -> None:
        await store.deposit(payment_hash, msat, int(time.time()), self.receipt)

    def receipt(self, link: Link) -> Publication:
        """Something that is published as a receipt."""
        event = self.keys.sign(7090, [["p", self.customer.pubkey]], str(link.seq))
        return Publication(event.id, "receipt", event.to_json())

    async def earn(self, msat: int) -> None:
        """Top-up of twice as much, of which half is spent on a job; all of it is published."""
        store, now = await self.store(), int(time.time())
        invoice = self.invoiced(2 * msat)
        await self.expect(store, invoice)
        self.node.pay(invoice.bolt11)
        await self.credit(store, invoice.payment_hash, 2 * msat)
        job = secrets.token_hex(32)
        await store.open_job(Job(job, self.customer.pubkey, 5050, JobState.RECEIVED, "{}", now, 0))
        await store.hold(job, Terms("echo", "{}", 1, 1, msat), now)
        await store.claim(job, now + 60, now)
        await store.post(
            job,
            to=JobState.DELIVERED,
            cost=msat,
            used=Metered("echo"),
            publications=(),
            receipt=self.receipt,
            at=now,
            stamp=now,
        )
        await self.publish(store)
        await store.close()

    async def publish(self, store: SqliteStore) -> None:
        """As the outbox does."""
        waiting = await store.outbox(100)
        async with RelayPool([self.url], [self.url], options=QUICK) as pool:
            await pool.wait_connected(timeout=10)
            for each in waiting:
                assert await pool.publish(Event.parse(json.loads(each.payload)))
        await store.published([each.id for each in waiting], int(time.time()))

    async def accounts(self) -> dict[str, int]:
        store = await self.store()
        try:
            return await store.accounts()
        finally:
            await store.close()


@asynccontextmanager
async def till(
    here: Path, dvm: Runner, monkeypatch: pytest.MonkeyPatch, *, earned: int = 100_000
) -> AsyncIterator[Till]:
    """The shop in `here`, not running, with `earned` msat of revenue and as much owed to one customer."""
    async with local_relay() as url:
        node = PaperNode()
        service = PaperService(node, [url])
        shop = service.connect("shop")
        await service.start()
        monkeypatch.setenv("DVM_NWC_URI", shop.connection.uri())
        keys = write_shop(here, [url], wallet={"type": "nwc", "timeout_seconds": 5})
        DataDir(here / "data").make()
        each = Till(here, url, node, keys, dvm)
        await each.earn(earned)
        try:
            yield each
        finally:
            await service.close()
