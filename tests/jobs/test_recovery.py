"""What a start finds: jobs of yesterday's configuration, jobs that were interrupted too often, requests heard twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dvm.jobs import KINDS, Engine
from dvm.ledger import JobState, StoreError
from dvm.lightning.paper import Faults
from tests.standins.customer import Customer
from tests.standins.scripted import STALL, ScriptedModel
from tests.standins.waiting import until
from tests.standins.workshop import Workshop, workshop


@pytest.fixture
async def shop(relay: str, tmp_path: Path) -> AsyncIterator[Workshop]:
    async with workshop(relay, data=tmp_path, shutdown_seconds=0) as each:
        yield each


async def interrupted(shop: Workshop, buyer: Customer, times: int) -> str:
    """A paid job that was running at the end of so many lives of the daemon."""
    shop.model.script = [STALL]
    job = await buyer.ask("a")
    await shop.pay(buyer, job)
    for _ in range(times):
        await until(lambda: shop.model.running)
        assert await shop.state(job) is JobState.RUNNING
        await crash(shop)
        await shop.open()
    return job


async def crash(shop: Workshop) -> None:
    """The end of a process that had no time to put anything in order: the rows stay as they are."""

    async def refuse(*_: Any, **__: Any) -> Any:
        raise StoreError("the process is dead")

    for name in ("release", "post", "void", "claim"):
        setattr(shop.store, name, refuse)
    await shop.close()


@pytest.mark.parametrize("what", ["model", "kind"])
async def test_a_job_paid_for_whose_model_or_kind_is_no_longer_sold_is_given_back(
    shop: Workshop, buyer: Customer, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    job = await buyer.ask("a")
    await buyer.quote(job)
    if what == "model":
        shop.models, shop.prices = {"other": ScriptedModel(name="other")}, {"other": shop.prices["flash"]}
    else:
        shop.kinds = (KINDS[5001],)
    await shop.reopen()
    paid = await shop.pay(buyer, job)
    assert (await buyer.feedback(job, "error")).text == "unavailable: the model could not be used"
    await buyer.receipt(job)
    assert buyer.check_chain(paid) == (await shop.job(job)).quote_msat
    (said,) = [each.message for each in caplog.records if each.levelname == "ERROR"]
    assert "dvm.toml" in said
    assert [each.prompts for each in shop.models.values() if isinstance(each, ScriptedModel)] == [[]]
    assert (await shop.balanced())["held"] == 0


async def test_a_job_that_was_interrupted_too_often_is_given_back(shop: Workshop, buyer: Customer) -> None:
    job = await interrupted(shop, buyer, 3)
    assert "interrupted" in (await buyer.feedback(job, "error")).event.to_json()
    assert await shop.state(job) is JobState.FAILED
    await buyer.receipt(job)
    assert buyer.check_chain() == (await shop.job(job)).quote_msat
    assert (await shop.balanced())["revenue"] == 0


async def test_one_job_that_cannot_be_given_back_does_not_keep_the_shop_closed(
    shop: Workshop, buyer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await interrupted(shop, buyer, 2)
    await until(lambda: shop.model.running)
    await crash(shop)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("this receipt cannot be made")

    with monkeypatch.context() as patch:
        patch.setattr("dvm.jobs.endings.make_receipt", broken)
        await shop.open()
        assert isinstance(shop.engine, Engine)
        await buyer.quote(await buyer.ask("an honest question"))
        assert await shop.state(job) is JobState.RUNNING
        assert (await shop.store.balance(buyer.keys.pubkey)).held == (await shop.job(job)).quote_msat
    await shop.reopen()
    await buyer.receipt(job)
    assert buyer.check_chain() == (await shop.job(job)).quote_msat


async def test_a_stop_waits_for_no_invoice_and_the_job_is_quoted_after_the_next_start(
    shop: Workshop, buyer: Customer
) -> None:
    shop.set(shutdown_seconds=3600, invoice_patience=3600)
    await shop.reopen()
    shop.wallet.faults.error = "unreachable"
    retrying = await buyer.ask("a")
    await until(lambda: shop.engine.intake._invoicing._waiting)
    shop.wallet.faults = Faults(delay=3600)  # asked, and without an answer
    asking = await buyer.ask("b")
    await until(lambda: len(shop.engine.intake._invoicing._waiting) == 2)
    await asyncio.wait_for(shop.close(), 20)
    assert shop.engine.quotes.open_quotes_total() == 0
    shop.wallet.faults = Faults()
    await shop.open()
    for job in (retrying, asking):
        await buyer.quote(job)
        assert await shop.state(job) is JobState.QUOTED


async def test_a_request_that_comes_to_its_invoice_while_the_shop_closes_is_quoted_after_the_next_start(
    shop: Workshop, buyer: Customer
) -> None:
    counted = shop.model.count = asyncio.Event()
    shop.set(shutdown_seconds=3600, invoice_patience=3600)
    await shop.reopen()
    shop.wallet.faults.error = "unreachable"
    job = await buyer.ask("a")
    await until(shop.engine.quotes.open_quotes_total)
    closing = asyncio.create_task(shop.close())
    await until(lambda: shop.engine.intake._invoicing._closing)
    counted.set()
    await asyncio.wait_for(closing, 20)
    shop.wallet.faults = Faults()
    await shop.open()
    await buyer.quote(job)
