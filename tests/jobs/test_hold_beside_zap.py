"""A quote that a hold invoice and a zap can both pay: whichever pays it, the other one decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dvm.ledger import JobState, PendingPayment
from dvm.lightning.base import InvoiceState, Lookup
from dvm.models import Chunk
from tests.standins.customer import Customer
from tests.standins.scripted import USED
from tests.standins.waiting import until
from tests.standins.workshop import Workshop, workshop

LIMIT = [("max_tokens", "60")]


@pytest.fixture
async def shop(relay: str, tmp_path: Path) -> AsyncIterator[Workshop]:
    async with workshop(relay, data=tmp_path, hold=True) as each:
        yield each


async def zap(shop: Workshop, job: str, msat: int) -> None:
    """Pay that job's quote as a zap does, by an invoice of its own."""
    invoice = await shop.wallet.create_invoice(msat, description="zap", expiry=600)
    payment = PendingPayment(
        invoice.payment_hash, "zap", "", job, invoice.bolt11, msat, invoice.created_at, invoice.expires_at
    )
    assert await shop.store.expect(payment)
    shop.engine.settlements.expect(payment)
    shop.node.pay(invoice.bolt11)


async def zapped_and_running(shop: Workshop, buyer: Customer, more: asyncio.Event) -> tuple[str, str]:
    """A job that a zap has paid and that runs until `more`, and the hold invoice that nobody has paid."""
    shop.model.script = ["begun ", more, Chunk("and done", usage=USED, finish="stop")]
    job = await buyer.ask("a", params=LIMIT)
    quote = await buyer.quote(job)
    assert quote.bolt11 is not None
    await zap(shop, job, quote.msat)
    await until(lambda: shop.model.running)
    return job, quote.bolt11


async def test_a_hold_invoice_that_expires_stops_no_job_that_a_zap_has_paid(shop: Workshop, buyer: Customer) -> None:
    more = asyncio.Event()
    job, bolt11 = await zapped_and_running(shop, buyer, more)
    payment_hash = shop.node.find(bolt11).payment_hash
    await shop.wallet.cancel_hold(payment_hash)
    assert (await shop.wallet.lookup(payment_hash)).state is InvoiceState.FAILED
    await until(lambda: _watched_no_more(shop, payment_hash))
    more.set()
    assert (await buyer.result(job)).content == "begun and done"
    await buyer.receipt(job)
    assert await shop.state(job) is JobState.DELIVERED
    await shop.balanced()


async def test_money_that_waits_for_a_job_that_a_zap_has_paid_goes_back_at_once(
    shop: Workshop, buyer: Customer
) -> None:
    more = asyncio.Event()
    job, bolt11 = await zapped_and_running(shop, buyer, more)
    payment_hash = shop.node.pay(bolt11).payment_hash
    await until(lambda: _watched_no_more(shop, payment_hash))
    assert (await shop.wallet.lookup(payment_hash)).state is InvoiceState.FAILED
    more.set()
    assert (await buyer.result(job)).content == "begun and done"
    await buyer.receipt(job)
    await shop.balanced()


async def test_money_that_waits_too_short_stops_no_job_that_a_zap_has_paid(shop: Workshop, buyer: Customer) -> None:
    more = asyncio.Event()
    job, bolt11 = await zapped_and_running(shop, buyer, more)
    payment = await shop.store.pending(shop.node.find(bolt11).payment_hash)
    assert payment is not None
    await shop.engine.promises.look(payment, Lookup(InvoiceState.HELD, payment.msat, blocks_left=1))
    more.set()
    assert (await buyer.result(job)).content == "begun and done"


async def _watched_no_more(shop: Workshop, payment_hash: str) -> bool:
    return payment_hash not in {each.payment_hash for each in await shop.store.watched(shop.shop.now())}
