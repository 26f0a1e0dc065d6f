"""Whose slow pages are waited for: one's own, and nobody else's for long."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import Request
from starlette.responses import Response

from dvm.jobs.admission import RefusedError
from dvm.jobs.sources import turns as module
from dvm.jobs.sources.turns import MAX_GATHERING, MAX_GATHERING_EACH, Turns
from dvm.models import Prompt
from dvm.nip90 import Input
from tests.standins.customer import Customer, customer
from tests.standins.lnurl_server import strangers_server
from tests.standins.waiting import until
from tests.standins.workshop import Workshop


async def test_pages_that_strangers_let_us_wait_for_keep_no_paid_job_from_its_run(
    shop: Workshop, buyer: Customer, relay: str
) -> None:
    goes_on = asyncio.Event()

    async def slow(_request: Request) -> Response:
        await goes_on.wait()
        return Response("slow", media_type="text/plain")

    async with strangers_server() as web, customer(relay) as one, customer(relay) as other:
        web.pages["/slow"], web.pages["/page"] = slow, Response("all of it", media_type="text/plain")
        job = await buyer.ask(Input(f"{web.url}/page", "url"), "sum it up", providers=[shop.keys.pubkey])
        await buyer.quote(job)
        await shop.reopen()  # the page is not in memory any more
        for n in range(MAX_GATHERING):
            await (one, other)[n % 2].ask(Input(f"{web.url}/slow", "url"), f"{n}")
        await until(lambda: web.asked.count("/slow") == MAX_GATHERING)
        await shop.pay(buyer, job)
        await buyer.result(job)
        assert shop.shop.inputs._turns._queue == MAX_GATHERING
        goes_on.set()


async def test_nothing_more_is_fetched_than_is_counted_at_a_time(shop: Workshop, buyer: Customer) -> None:
    """Else what strangers name would pile up in memory before a model that counts slowly."""
    goes_on, counting, most = asyncio.Event(), 0, 0

    async def slowly(_prompt: Prompt) -> int:
        nonlocal counting, most
        counting += 1
        most = max(most, counting)
        await goes_on.wait()
        counting -= 1
        return 100

    shop.model.count_tokens = slowly  # type: ignore[method-assign]
    async with strangers_server() as web:
        web.pages["/page"] = Response("all of it", media_type="text/plain")
        page = Input(f"{web.url}/page", "url")
        jobs = [await buyer.ask(page, f"{n}") for n in range(MAX_GATHERING_EACH + 2)]
        turns = shop.shop.inputs._turns
        await until(lambda: turns._queue == len(jobs) and counting == MAX_GATHERING_EACH)
        refused = await buyer.ask("a round trip", params=[("max_tokens", "no number")], providers=[shop.keys.pubkey])
        await buyer.feedback(refused, "error")
        assert len(web.asked) == MAX_GATHERING_EACH
        goes_on.set()
        for job in jobs:
            await buyer.quote(job)
    assert (most, turns._queue) == (MAX_GATHERING_EACH, 0)


async def test_one_customers_pages_take_no_more_than_half_of_the_turns() -> None:
    turns, goes_on, begun = Turns(), asyncio.Event(), list[str]()

    async def fetch(customer: str) -> None:
        async with turns.turn(customer, paid=False):
            begun.append(customer)
            await goes_on.wait()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(3 * MAX_GATHERING):
            tasks.create_task(fetch("greedy"))
        tasks.create_task(fetch("other"))
        await until(lambda: "other" in begun)
        assert begun == ["greedy"] * MAX_GATHERING_EACH + ["other"]
        goes_on.set()
    assert (len(begun), turns._queue, turns._each, turns._users) == (3 * MAX_GATHERING + 1, 0, {}, {})


async def test_the_queue_is_bounded_and_who_gives_up_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUEUE", 1)
    turns = Turns()

    async def fetch() -> None:
        async with turns.turn("a", paid=False):
            await asyncio.Event().wait()

    task = asyncio.create_task(fetch())
    await until(lambda: turns._queue == 1)
    with pytest.raises(RefusedError, match="busy"):
        async with turns.turn("b", paid=False):
            pass
    async with turns.turn("a", paid=True):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with turns.turn("b", paid=False):
        assert turns._queue == 1
    assert (turns._queue, turns._each) == (0, {})
