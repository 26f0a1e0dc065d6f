"""What a sweep does of itself: of ten thousand quotes that nobody pays, as little as can be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from dvm.jobs.shop import ZapSettings
from dvm.ledger import JobState
from dvm.ledger.queries import WATCH_SECONDS
from dvm.lightning.base import InvoiceState
from tests.standins.customer import Customer
from tests.standins.waiting import until
from tests.standins.workshop import Workshop, workshop

SELDOM = 3_600.0  # seconds between sweeps: the tests sweep themselves


class Counting:
    """A store, and how often it was asked what."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.asked: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        self.asked[name] += 1
        return getattr(self._store, name)


async def test_many_hold_invoices_that_nobody_has_paid_are_not_followed_one_by_one(
    relay: str, buyer: Customer, tmp_path: Path
) -> None:
    stores: list[Counting] = []

    def around(store: Any) -> Counting:
        stores.append(Counting(store))
        return stores[-1]

    async with workshop(relay, data=tmp_path, hold=True, around=around, reconcile_seconds=SELDOM) as shop:
        jobs = [await buyer.ask(f"{n}") for n in range(5)]
        for job in jobs:
            await buyer.quote(job)
        stores[0].asked.clear()
        await shop.engine.settlements.reconcile()
        assert (stores[0].asked["pending"], stores[0].asked["job"]) == (0, 0)
        shop.wallet.faults.drop_accepted = True
        await shop.pay(buyer, jobs[2])
        await shop.engine.settlements.reconcile()
        assert (await buyer.result(jobs[2])).content == "well"


async def test_a_hold_invoice_whose_quote_was_deleted_is_cancelled_by_a_sweep(
    relay: str, buyer: Customer, tmp_path: Path
) -> None:
    async with workshop(relay, data=tmp_path, hold=True, reconcile_seconds=SELDOM) as shop:
        job = await buyer.ask("a")
        bolt11 = (await buyer.quote(job)).bolt11
        assert bolt11 is not None
        await buyer.cancel(job)
        await until(lambda: _is_cancelled(shop, shop.node.find(bolt11).payment_hash))
        assert await shop.state(job) is JobState.CANCELLED


async def test_a_payment_that_is_not_watched_any_more_is_forgotten(shop: Workshop, buyer: Customer) -> None:
    """Else each quote that nobody ever pays costs memory until the next start."""
    shop.set(reconcile_seconds=SELDOM)
    await shop.reopen()
    settlements = shop.engine.settlements
    for text in ("a", "b"):
        await buyer.quote(await buyer.ask(text))
    await settlements.reconcile()
    assert len(settlements._expected) == 2
    shop.later = shop.settings.quote_seconds + WATCH_SECONDS + 60.0
    await settlements.reconcile()
    assert (settlements._expected, settlements._stored) == ({}, set())


async def test_a_quote_without_an_invoice_ends_though_nothing_is_watched(
    relay: str, buyer: Customer, tmp_path: Path
) -> None:
    zaps = ZapSettings("shop@shop.example", own=False, quote="zap")
    async with workshop(relay, data=tmp_path, zaps=zaps, reconcile_seconds=SELDOM) as shop:
        job = await buyer.ask("a")
        await buyer.feedback(job, "payment-required")
        assert (await shop.store.unsettled(shop.shop.now())).payment_hashes == []
        shop.later = shop.settings.quote_seconds + 60.0
        await shop.engine.settlements.reconcile()
        assert await shop.state(job) is JobState.EXPIRED


async def _is_cancelled(shop: Workshop, payment_hash: str) -> bool:
    """Whether it is, after one more sweep."""
    await shop.engine.settlements.reconcile()
    return (await shop.wallet.lookup(payment_hash)).state is InvoiceState.FAILED
