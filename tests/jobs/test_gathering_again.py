"""What a paid job names and cannot be had for a while is tried again; what has changed is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request
from starlette.responses import Response

from dvm.ledger import JobState
from dvm.nip90 import Input
from tests.standins.customer import Customer
from tests.standins.lnurl_server import StrangersServer, strangers_server
from tests.standins.waiting import until
from tests.standins.workshop import Workshop

TEXT = Response("all of it", media_type="text/plain")
DOWN = Response("later", 503)


@pytest.fixture
async def web() -> AsyncIterator[StrangersServer]:
    async with strangers_server() as server:
        server.pages["/page"] = TEXT
        yield server


async def quoted_before_a_restart(shop: Workshop, buyer: Customer, web: StrangersServer) -> str:
    """A job whose page is not in memory any more."""
    job = await buyer.ask(Input(f"{web.url}/page", "url"), "sum it up", providers=[shop.keys.pubkey])
    await buyer.quote(job)
    await shop.reopen()
    web.asked.clear()
    return job


def after(failures: int) -> object:
    """A page that fails so often, and is itself again then."""
    left = [DOWN] * failures

    async def page(_request: Request) -> Response:
        return left.pop() if left else TEXT

    return page


async def test_a_page_that_is_away_for_a_while_costs_nobody_the_job(
    shop: Workshop, buyer: Customer, web: StrangersServer
) -> None:
    job = await quoted_before_a_restart(shop, buyer, web)
    web.pages["/page"] = after(2)
    await shop.pay(buyer, job)
    await buyer.result(job)
    assert shop.model.prompts[0].turns[0].parts == ("all of it", "sum it up")
    assert (len(web.asked), (await shop.job(job)).attempts) == (3, 3)
    assert await shop.store.gathered_digest(job) is None


async def test_a_page_that_stays_away_gives_the_money_back(
    shop: Workshop, buyer: Customer, web: StrangersServer
) -> None:
    job = await quoted_before_a_restart(shop, buyer, web)
    web.pages["/page"] = DOWN
    await shop.pay(buyer, job)
    assert (await buyer.feedback(job, "error")).text.startswith("input-unavailable: ")
    receipt = await buyer.receipt(job)
    assert (receipt.cost, receipt.after) == (0, receipt.paid)
    assert (len(web.asked), shop.model.prompts) == (3, [])
    assert await shop.store.gathered_digest(job) is None


async def test_a_page_that_has_changed_is_asked_for_once_and_the_money_goes_back(
    shop: Workshop, buyer: Customer, web: StrangersServer
) -> None:
    job = await quoted_before_a_restart(shop, buyer, web)
    web.pages["/page"] = Response("something else", media_type="text/plain")
    await shop.pay(buyer, job)
    assert (await buyer.feedback(job, "error")).text.startswith("input-changed: ")
    receipt = await buyer.receipt(job)
    assert (receipt.cost, receipt.after) == (0, receipt.paid)
    assert (len(web.asked), shop.model.prompts) == (1, [])


async def test_who_cancels_meanwhile_has_the_money_back_at_once(
    shop: Workshop, buyer: Customer, web: StrangersServer
) -> None:
    shop.set(retry_seconds=3600)
    job = await quoted_before_a_restart(shop, buyer, web)
    web.pages["/page"] = DOWN
    await shop.pay(buyer, job)
    await until(lambda: len(web.asked) == 1)
    await buyer.cancel(job)
    receipt = await buyer.receipt(job)
    assert (receipt.cost, receipt.after) == (0, receipt.paid)
    assert await shop.state(job) is JobState.CANCELLED


async def test_who_cancels_while_it_is_fetched_once_more_has_the_money_back_and_no_model_begins(
    shop: Workshop, buyer: Customer, web: StrangersServer
) -> None:
    job = await quoted_before_a_restart(shop, buyer, web)
    goes_on = asyncio.Event()

    async def slow(_request: Request) -> Response:
        await goes_on.wait()
        return TEXT

    web.pages["/page"] = slow
    await shop.pay(buyer, job)
    await until(lambda: len(web.asked) == 1)
    await buyer.cancel(job)
    await until(lambda: job in shop.engine.runner._deleted)
    goes_on.set()
    receipt = await buyer.receipt(job)
    assert (receipt.cost, receipt.after) == (0, receipt.paid)
    assert await shop.state(job) is JobState.CANCELLED
    assert shop.model.prompts == []


async def test_the_attempts_outlive_a_restart(shop: Workshop, buyer: Customer, web: StrangersServer) -> None:
    shop.set(retry_seconds=3600)
    job = await quoted_before_a_restart(shop, buyer, web)
    web.pages["/page"] = after(2)
    await shop.pay(buyer, job)
    for tried in (1, 2):
        await until(lambda tried=tried: len(web.asked) == tried)  # type: ignore[misc]
        await shop.reopen()
    await buyer.result(job)
    assert (await shop.job(job)).attempts == 3
