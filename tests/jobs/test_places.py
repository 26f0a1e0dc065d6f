"""How many jobs run at once: who waits for a model's own place takes none from the jobs of another."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dvm.ledger import JobState
from dvm.models import ModelError
from dvm.models.router import Bounds
from tests.standins.customer import Customer, customer
from tests.standins.relay import TestRelay, running_relay
from tests.standins.scripted import ScriptedModel, answer
from tests.standins.waiting import until
from tests.standins.workshop import Workshop, workshop

LIMIT = ("max_tokens", "60")
DOWN = ModelError("unavailable", "overloaded")


@pytest.fixture
async def relay() -> AsyncIterator[TestRelay]:
    async with running_relay() as each:
        yield each


@pytest.fixture
async def shop(relay: TestRelay, tmp_path: Path) -> AsyncIterator[Workshop]:
    """Two places in all; the models are `slow`, which waits for `go` of the test, `spare` and `idle`. Not yet open."""
    models = [ScriptedModel(name=name) for name in ("slow", "spare", "idle")]
    async with workshop(relay.url, data=tmp_path, models=models, opened=False, concurrency=2) as each:
        yield each


@pytest.fixture
async def buyer(relay: TestRelay) -> AsyncIterator[Customer]:
    async with customer(relay.url) as each:
        yield each


def model(shop: Workshop, name: str) -> ScriptedModel:
    found = shop.models[name]
    assert isinstance(found, ScriptedModel)
    return found


async def paid(shop: Workshop, buyer: Customer, count: int, *params: tuple[str, str]) -> list[str]:
    """So many jobs that are quoted, and then all paid."""
    jobs = [await buyer.ask(f"{n} {params}", params=[LIMIT, *params]) for n in range(count)]
    for job in jobs:
        await shop.pay(buyer, job)
    return jobs


async def test_a_queue_before_one_model_does_not_keep_jobs_from_another(shop: Workshop, buyer: Customer) -> None:
    shop.bounds = {"slow": Bounds(concurrency=1)}
    await shop.open()
    go = asyncio.Event()
    model(shop, "slow").script = [go, *answer("at last")]
    waiting = await paid(shop, buyer, 5, ("model", "slow"))
    await until(lambda: model(shop, "slow").running)
    for job in await paid(shop, buyer, 3, ("model", "idle")):
        assert (await buyer.result(job)).content == "well"
    assert len(model(shop, "slow").prompts) == 1
    go.set()
    for job in waiting:
        assert (await buyer.result(job)).content == "at last"
    assert model(shop, "slow").most_running == 1


async def test_nor_does_a_model_that_may_be_asked_again_in_a_minute(shop: Workshop, buyer: Customer) -> None:
    shop.bounds = {"slow": Bounds(requests_per_minute=1)}
    await shop.open()
    waiting = await paid(shop, buyer, 4, ("model", "slow"))
    await until(lambda: model(shop, "slow").prompts)
    for job in await paid(shop, buyer, 3, ("model", "idle")):
        assert (await buyer.result(job)).content == "well"
    assert len(model(shop, "slow").prompts) == 1
    states = [await shop.state(job) for job in waiting]
    assert states.count(JobState.DELIVERED) == 1


async def test_nor_do_jobs_whose_model_failed_and_that_wait_for_the_next(shop: Workshop, buyer: Customer) -> None:
    shop.bounds = {"spare": Bounds(concurrency=1)}
    await shop.open()
    go = asyncio.Event()
    model(shop, "slow").script = [DOWN]
    model(shop, "spare").script = [go, *answer("instead")]
    waiting = await paid(shop, buyer, 3)
    await until(lambda: model(shop, "spare").running and len(model(shop, "slow").prompts) == 2)
    for job in await paid(shop, buyer, 3, ("model", "idle")):
        assert (await buyer.result(job)).content == "well"
    go.set()
    for job in waiting:
        assert (await buyer.result(job)).content == "instead"


async def test_all_models_together_work_on_no_more_jobs_than_there_are_places(shop: Workshop, buyer: Customer) -> None:
    await shop.open()
    go = asyncio.Event()
    most = 0
    for each in ("slow", "idle"):
        model(shop, each).script = [go, *answer("well")]
    jobs = [*await paid(shop, buyer, 3, ("model", "slow")), *await paid(shop, buyer, 3, ("model", "idle"))]
    running = lambda: model(shop, "slow").running + model(shop, "idle").running  # noqa: E731
    await until(lambda: running() == 2)
    go.set()
    for job in jobs:
        most = max(most, running())
        await buyer.result(job)
    assert most <= 2
    assert max(model(shop, "slow").most_running, model(shop, "idle").most_running) <= 2


async def test_no_more_jobs_are_in_hand_than_may_be_read_at_once(shop: Workshop, buyer: Customer) -> None:
    """What a job brings is in memory from its beginning: the others wait in the rows."""
    shop.bounds = {"slow": Bounds(concurrency=1)}
    await shop.open()
    go = asyncio.Event()
    model(shop, "slow").script = [go, *answer("at last")]
    waiting = await paid(shop, buyer, 6, ("model", "slow"))
    await until(lambda: len(shop.engine.runner._runs) == 2)
    (last,) = await paid(shop, buyer, 1, ("model", "idle"))
    await buyer.result(last)
    states = Counter([await shop.state(job) for job in waiting])
    assert states == {JobState.RUNNING: 2, JobState.PAID: 4}
    go.set()
    for job in waiting:
        await buyer.result(job)


async def test_who_cancels_while_waiting_for_a_place_has_used_nothing(shop: Workshop, buyer: Customer) -> None:
    shop.bounds = {"slow": Bounds(concurrency=1)}
    await shop.open()
    model(shop, "slow").script = [asyncio.Event()]
    first, second = await paid(shop, buyer, 2, ("model", "slow"))
    runs = shop.engine.runner._runs
    await until(lambda: len(runs) == 2 and model(shop, "slow").running)
    idle = next(job for job, run in runs.items() if not run.by)
    await buyer.cancel(idle)
    receipt = await buyer.receipt(idle)
    assert (receipt.cost, await shop.state(idle)) == (0, JobState.CANCELLED)
    busy = next(job for job in (first, second) if job != idle)
    await buyer.cancel(busy)
    assert (await buyer.receipt(busy)).cost > 0  # it was being read


async def test_the_lease_of_a_job_that_waits_for_a_place_is_kept(
    relay: TestRelay, tmp_path: Path, buyer: Customer
) -> None:
    asked: Counter[str] = Counter()

    class Counting:
        def __init__(self, store: Any) -> None:
            self._store = store

        def __getattr__(self, name: str) -> Any:
            asked[name] += 1
            return getattr(self._store, name)

    models = [ScriptedModel(name="slow"), ScriptedModel(name="idle")]
    async with workshop(
        relay.url, data=tmp_path, models=models, opened=False, lease_seconds=1, around=Counting
    ) as shop:
        shop.bounds = {"slow": Bounds(concurrency=1)}
        await shop.open()
        go = asyncio.Event()
        model(shop, "slow").script = [go, *answer("at last")]
        waiting = await paid(shop, buyer, 2, ("model", "slow"))
        await until(lambda: len(shop.engine.runner._runs) == 2)
        before = asked["jobs"]
        await until(lambda: asked["jobs"] >= before + 3)  # so often was looked for what nobody works on
        assert asked["claim"] == 2
        go.set()
        for job in waiting:
            assert (await buyer.result(job)).content == "at last"
        assert [(await shop.job(job)).attempts for job in waiting] == [1, 1]


async def test_the_time_of_a_model_that_failed_does_not_run_on_while_the_next_is_waited_for(
    shop: Workshop, buyer: Customer
) -> None:
    shop.bounds = {"spare": Bounds(concurrency=1)}
    shop.set(job_seconds=0.3, concurrency=3)
    await shop.open()
    model(shop, "slow").script = [DOWN]
    model(shop, "spare").scripts = [["begun ", asyncio.Event()], ["begun ", asyncio.Event()], answer("instead")]
    jobs = await paid(shop, buyer, 3)  # the first two have `spare` until their time is up, and the third waits
    finishes = sorted([str((await buyer.receipt(job)).finish) for job in jobs])
    assert finishes == ["stop", "timeout", "timeout"]
    assert [len(model(shop, name).prompts) for name in ("slow", "spare")] == [3, 3]
