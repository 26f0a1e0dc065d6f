"""One thing that never works must not keep the others from being done, nor the shop from closing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from dvm.jobs import outbox
from dvm.ledger import JobState, Publication, Store, StoreError
from dvm.models import Chunk, Limits, Prompt
from dvm.nostr.keys import Keys
from tests.standins.customer import Customer, customer
from tests.standins.scripted import STALL, ScriptedModel
from tests.standins.waiting import until
from tests.standins.workshop import Workshop, workshop


async def test_events_that_no_relay_ever_takes_do_not_keep_later_ones_in_the_outbox(
    shop: Workshop, buyer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "BATCH", 3)
    quote = await buyer.ask("a")
    await buyer.quote(quote)
    event = shop.keys.sign(7000, [["e", quote], ["status", "error", "later"]], "later")
    forged = [
        Publication(
            f"{n:064x}", f"forged {n}", event.to_json().replace(event.sig, "0" * 128).replace(event.id, f"{n:064x}")
        )
        for n in range(3)
    ]
    publications = (*forged, Publication(event.id, "error", event.to_json()))
    job = await shop.job(quote)
    await shop.store.close_unpaid(
        quote, to=JobState.CANCELLED, reason="test", publications=publications, at=job.stamp, stamp=job.stamp + 1
    )
    for _ in range(2):  # passes; the first finds out what the relay will not take
        await shop.engine.outbox.sweep()
        await until(lambda: not shop.engine.outbox._busy)
    await shop.engine.outbox.flush(5)
    waiting = {each.id for each in await shop.store.outbox(100)}
    assert waiting == {each.id for each in forged}


async def test_a_payment_that_cannot_be_credited_keeps_no_other_from_it_and_no_quote_from_expiring(
    relay: str, tmp_path: Path, buyer: Customer
) -> None:
    cursed: list[str] = []

    class Cursed:
        def __init__(self, store: Store) -> None:
            self._store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        async def deposit(self, payment_hash: str, *arguments: Any) -> Any:
            if payment_hash in cursed:
                raise StoreError("this row is damaged")
            return await self._store.deposit(payment_hash, *arguments)

    async with workshop(relay, data=tmp_path, around=Cursed, reconcile_seconds=3600) as shop:
        shop.wallet.faults.drop_settlements = True
        jobs = [await buyer.ask(text) for text in ("cursed", "paid", "unpaid")]
        quotes = [await buyer.quote(job) for job in jobs]
        assert quotes[0].bolt11 is not None
        cursed.append(shop.node.find(quotes[0].bolt11).payment_hash)
        await shop.pay(buyer, jobs[0])
        await shop.pay(buyer, jobs[1])
        shop.later = shop.settings.quote_seconds + 1
        await shop.engine.settlements.reconcile()
        await buyer.receipt(jobs[1])
        assert await shop.state(jobs[2]) is JobState.EXPIRED
        assert await shop.state(jobs[0]) is JobState.QUOTED
        cursed.clear()
        await shop.engine.settlements.reconcile()
        await buyer.receipt(jobs[0])


class Unstoppable(ScriptedModel):
    """A model whose end never comes, whoever stops it."""

    def __init__(self) -> None:
        super().__init__()
        self.end = asyncio.Event()

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Chunk, None]:
        self.running += 1
        try:
            yield Chunk("begun")
            await asyncio.Event().wait()
        finally:
            await self.end.wait()


async def test_a_model_that_cannot_be_stopped_does_not_keep_the_shop_from_closing(
    relay: str, tmp_path: Path, buyer: Customer
) -> None:
    model = Unstoppable()
    async with workshop(relay, data=tmp_path, models=[model], shutdown_seconds=0.1, publish_seconds=0.2) as shop:
        job = await buyer.ask("a")
        await shop.pay(buyer, job)
        await until(lambda: model.running)
        closing = asyncio.create_task(shop.close())
        try:
            done, _ = await asyncio.wait({closing}, timeout=10)
            assert done
        finally:
            model.end.set()
            await closing
        shop.models = {"flash": ScriptedModel()}
        await shop.open()
        await buyer.receipt(job)
        assert await shop.state(job) is JobState.DELIVERED


async def test_a_paid_job_that_can_be_read_no_longer_is_given_back(relay: str, tmp_path: Path) -> None:
    """Say, the operator has a new key, and the job was encrypted to the old one."""
    async with customer(relay) as buyer, workshop(relay, data=tmp_path, shutdown_seconds=0) as shop:
        shop.model.script = [STALL]
        job = await buyer.ask("a", providers=[shop.keys.pubkey], scheme="nip44")
        payment = await shop.pay(buyer, job)
        await until(lambda: shop.model.running)
        await shop.close()
        shop.keys = Keys.generate()
        await shop.open()
        await until(buyer.chain)
        assert await shop.state(job) is JobState.FAILED
        assert (await shop.balanced())["held"] == 0
        assert (await shop.store.balance(buyer.keys.pubkey)).available == (await shop.job(job)).quote_msat
        assert [each.payment_hash for receipt in buyer.chain() for each in receipt.payments] == [payment]
