"""What models use and no customer pays: it stands in the ledger, and counts for the operator's daily limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from dvm.jobs.kinds import KINDS, checking
from dvm.jobs.kinds.declaration import JSON, TEXT
from dvm.ledger import JobState, UsageRow
from dvm.models import Chunk, ModelError, Usage
from dvm.models.base import ErrorCode
from dvm.models.router import Bounds
from dvm.nip90 import RECEIPT, Receipt
from dvm.pricing import PerToken
from tests.standins.customer import Customer, customer
from tests.standins.relay import TestRelay, running_relay
from tests.standins.scripted import ScriptedModel, answer
from tests.standins.waiting import until
from tests.standins.workshop import PRICE, Workshop, workshop

CHEAP = PerToken(100_000_000, 25_000_000, 400_000_000)  # a tenth of PRICE
LIMIT = ("max_tokens", "60")
BILLED = 300_000  # msat at PRICE, for the 100 tokens in and 50 out of an answer


@pytest.fixture
async def relay() -> AsyncIterator[TestRelay]:
    async with running_relay() as each:
        yield each


@pytest.fixture
async def shop(relay: TestRelay, tmp_path: Path) -> AsyncIterator[Workshop]:
    """Sells `first` (and then `second`) at PRICE and CHEAP; not yet open. Neither can count a prompt."""
    models = [ScriptedModel(name="first"), ScriptedModel(name="second")]
    async with workshop(relay.url, data=tmp_path, models=models, opened=False, spend_msat_per_day=10**12) as each:
        each.prices = {"first": PRICE, "second": CHEAP}
        yield each


@pytest.fixture
async def buyer(relay: TestRelay) -> AsyncIterator[Customer]:
    async with customer(relay.url) as each:
        yield each


def model(shop: Workshop, name: str = "first") -> ScriptedModel:
    found = shop.models[name]
    assert isinstance(found, ScriptedModel)
    return found


async def begun(shop: Workshop, buyer: Customer, output: str | None = None) -> str:
    """A job that is paid."""
    job = await buyer.ask("a question", params=[LIMIT], output=output)
    await shop.pay(buyer, job)
    return job


async def receipt(buyer: Customer, job: str) -> Receipt:
    """Its receipt, which tells nothing of what nobody paid."""
    found = await buyer.receipt(job)
    assert len([event for event in buyer.heard[job] if event.kind == RECEIPT]) == 1
    return found


async def rows(shop: Workshop, count: int) -> list[tuple[str, int, int, bool]]:
    """Model, tokens in and out, and whether it was billed, of so many jobs and attempts, waited for."""
    found: list[UsageRow] = []

    async def stored() -> bool:
        found[:] = await shop.store.report(0)
        return sum(row.jobs for row in found) == count

    await until(stored)
    return [(row.model, row.input, row.output, row.billed) for row in found]


async def counted(shop: Workshop, msat: int) -> None:
    """Today's spending, in the memory and after a restart."""
    await until(lambda: shop.engine.spending.today == msat)
    await shop.reopen()
    assert shop.engine.spending.today == msat


async def test_who_steps_in_is_billed_and_what_the_first_had_read_is_not(shop: Workshop, buyer: Customer) -> None:
    await shop.open()
    model(shop).script = [ModelError("broken_off", "in the middle of a thought")]
    told = await receipt(buyer, await begun(shop, buyer))
    assert (told.cost, told.usage) == (BILLED, {"input": 100, "cached": 0, "output": 50, "thoughts": 0})
    assert await rows(shop, 2) == [("first", 100, 0, False), ("second", 100, 50, True)]
    await counted(shop, 100_000 + 30_000)  # each at its own list price


@pytest.mark.parametrize("code", ["unavailable", "rate_limited", "unauthorized", "not_found"])
async def test_a_request_that_was_turned_away_has_used_nothing(
    shop: Workshop, buyer: Customer, code: ErrorCode
) -> None:
    await shop.open()
    model(shop).script = [ModelError(code, "no")]
    await receipt(buyer, await begun(shop, buyer))
    assert await rows(shop, 1) == [("second", 100, 50, True)]
    await counted(shop, 30_000)


async def test_an_attempt_that_broke_off_counts_as_it_was_reported(shop: Workshop, buyer: Customer) -> None:
    await shop.open()
    used = Usage(input=100, output=20, thoughts=7)
    model(shop).scripts = [[Chunk("so "), ModelError("broken_off", "cut", usage=used)], answer("well")]
    told = await receipt(buyer, await begun(shop, buyer))
    assert (told.cost, told.usage["output"]) == (BILLED, 50)
    assert await rows(shop, 2) == [("first", 100, 50, True), ("first", 100, 20, False)]
    await counted(shop, BILLED + 100_000 + 27 * 4_000)


async def test_or_as_it_had_been_reported_until_then(shop: Workshop, buyer: Customer) -> None:
    await shop.open()
    model(shop).scripts = [[Chunk("so ", usage=Usage(90, output=2)), ModelError("stalled", "nothing")], answer("well")]
    await receipt(buyer, await begun(shop, buyer))
    assert await rows(shop, 2) == [("first", 100, 50, True), ("first", 90, 2, False)]


async def test_and_else_it_is_estimated_by_what_came(shop: Workshop, buyer: Customer) -> None:
    await shop.open()
    model(shop).scripts = [["so much has been said ", ModelError("unavailable", "gone")], answer("well")]
    await receipt(buyer, await begun(shop, buyer))
    billed, lost = await rows(shop, 2)
    assert billed == ("first", 100, 50, True)
    assert (lost[0], lost[1], lost[3]) == ("first", 100, False)
    assert 3 <= lost[2] <= 10


async def test_when_every_attempt_fails_each_is_counted(shop: Workshop, buyer: Customer) -> None:
    shop.set(attempts=2)
    await shop.open()
    model(shop).script = model(shop, "second").script = [ModelError("stalled", "nothing came")]
    assert (await receipt(buyer, await begun(shop, buyer))).cost == 0
    assert await rows(shop, 4) == [("first", 200, 0, False), ("second", 200, 0, False)]
    await counted(shop, 200_000 + 20_000)


async def test_a_time_that_is_up_was_time_of_the_models(shop: Workshop, buyer: Customer) -> None:
    shop.set(job_seconds=0.1, attempts=1)
    await shop.open()
    model(shop).script = [asyncio.Event()]
    assert (await receipt(buyer, await begun(shop, buyer))).cost == 0
    assert await rows(shop, 1) == [("first", 100, 0, False)]


async def test_what_a_shut_down_interrupts_is_begun_again_and_used_twice(shop: Workshop, buyer: Customer) -> None:
    shop.set(shutdown_seconds=0.01)
    await shop.open()
    model(shop).scripts = [[Chunk("so ", usage=Usage(100, output=1)), asyncio.Event()], answer("well")]
    job = await begun(shop, buyer)
    await until(lambda: shop.engine.runner._runs and shop.engine.runner._runs[job].text)
    await shop.reopen()
    assert (await receipt(buyer, job)).cost == BILLED
    assert await rows(shop, 2) == [("first", 100, 50, True), ("first", 100, 1, False)]


async def test_answers_that_are_given_back_are_not_billed(
    shop: Workshop, buyer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, 5050, replace(KINDS[5050], outputs=(TEXT, JSON), checks={JSON: checking.json}))
    shop.kinds = (KINDS[5050],)
    await shop.open()
    model(shop).script = answer("Sure!")
    told = await receipt(buyer, await begun(shop, buyer, JSON))
    assert (told.cost, told.usage["output"]) == (0, 50)  # as before: who is given money back sees what was used
    assert await rows(shop, 1) == [("first", 100, 50, False)]
    await counted(shop, BILLED)


async def test_who_cancels_before_a_model_begins_has_used_nothing_and_after_it_is_billed(
    shop: Workshop, buyer: Customer
) -> None:
    shop.bounds = {"first": Bounds(concurrency=1)}
    await shop.open()
    model(shop).script = ["so ", asyncio.Event()]
    for name in ("running", "waiting"):
        await shop.pay(buyer, await buyer.ask(name, params=[LIMIT, ("model", "first")]))
    runs = shop.engine.runner._runs
    await until(lambda: len(runs) == 2 and model(shop).running)
    for job in sorted(runs, key=lambda job: runs[job].begun):
        await buyer.cancel(job)
        await until(lambda job=job: ended(shop, job))  # type: ignore[misc]
    ((name, tokens, _, billed),) = await rows(shop, 1)
    assert (name, tokens, billed) == ("first", 100, True)


async def test_a_promise_that_is_sent_back_leaves_the_operator_with_what_was_used(
    relay: TestRelay, tmp_path: Path, buyer: Customer
) -> None:
    models = [ScriptedModel("so ", asyncio.Event(), name="first")]
    async with workshop(relay.url, data=tmp_path, models=models, hold=True) as shop:
        job = await begun(shop, buyer)
        await until(lambda: model(shop).running)
        await buyer.cancel(job)
        await until(lambda: ended(shop, job))
        ((name, tokens, _, billed),) = await rows(shop, 1)
        assert (name, tokens, billed) == ("first", 100, False)


async def ended(shop: Workshop, job: str) -> bool:
    return await shop.state(job) in (JobState.CANCELLED, JobState.FAILED)
