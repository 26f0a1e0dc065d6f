"""Several models behind one service: who is quoted, who answers, and what is billed whoever does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dvm.announcing import announcement_of
from dvm.config import Identity
from dvm.ledger import JobState
from dvm.models import Chunk, ModelError, Usage
from dvm.models.health import FAILURES, FIRST_PAUSE
from dvm.models.router import Bounds
from dvm.nip90 import RECEIPT, Receipt, parse_request, verify_receipt
from dvm.nostr.event import Event
from dvm.pricing import FREE, PerRequest, PerToken
from tests.standins.customer import Customer
from tests.standins.scripted import ScriptedModel, answer
from tests.standins.waiting import until
from tests.standins.workshop import PRICE, Workshop, workshop

DOWN = ModelError("unavailable", "overloaded")
CHEAP = PerToken(100_000_000, 25_000_000, 400_000_000)  # a tenth of PRICE
LIMIT = [("max_tokens", "60")]  # with 100 tokens of input: 340 sats at PRICE, 34 at CHEAP
DAY = 86_400


@pytest.fixture
async def shop(relay: str, tmp_path: Path) -> AsyncIterator[Workshop]:
    """Sells `first` (and then `second`) at PRICE and CHEAP; not yet open."""
    models = [ScriptedModel(name="first"), ScriptedModel(name="second")]
    async with workshop(relay, data=tmp_path, models=models, opened=False) as each:
        each.prices = {"first": PRICE, "second": CHEAP}
        yield each


def models(shop: Workshop) -> tuple[ScriptedModel, ScriptedModel]:
    first, second = shop.models.values()
    assert isinstance(first, ScriptedModel)
    assert isinstance(second, ScriptedModel)
    return first, second


async def bought(shop: Workshop, buyer: Customer, **params: str) -> Receipt:
    """The receipt of a job, paid by invoice or out of the balance, held against all that its customer knows."""
    job = await buyer.ask(f"question {len(buyer.heard)}", params=[*LIMIT, *params.items()])
    first = await buyer.until(job, lambda event: event.kind == RECEIPT or event.tag("status") == "payment-required")
    paid = [] if first.kind == RECEIPT else [await shop.pay(buyer, job)]
    receipt = await buyer.receipt(job)
    wrong = verify_receipt(
        receipt,
        request=parse_request(Event.from_json((await shop.job(job)).request), buyer.keys),
        result=await buyer.result(job) if receipt.result else None,
        announcement=replace(announcement_of(Identity(), shop.shop.services), provider=shop.keys.pubkey),
        provider=shop.keys.pubkey,
        agreed=(await shop.job(job)).quote_msat,
        paid=paid,
    )
    assert wrong == []
    return receipt


async def refused(buyer: Customer, job: str) -> str:
    """The code with which that job was refused."""
    return (await buyer.feedback(job, "error")).text.partition(":")[0]


# Who steps in, and the money


@pytest.mark.parametrize(
    ("prices", "cost"),
    [
        ({"first": PRICE, "second": CHEAP}, 300_000),  # 100 tokens in, 50 out
        ({"first": CHEAP, "second": PRICE}, 30_000),
        ({"first": CHEAP, "second": PerRequest(7_000)}, 30_000),
        ({"first": PerRequest(7_000), "second": PRICE}, 7_000),
        ({"first": FREE, "second": PRICE}, 0),
    ],
)
async def test_the_quoted_price_is_billed_whichever_model_answers(
    shop: Workshop, buyer: Customer, prices: dict[str, Any], cost: int
) -> None:
    shop.prices = prices
    await shop.open()
    first, second = models(shop)
    first.script = [DOWN]
    if cost:
        receipt = await bought(shop, buyer)
        assert receipt.after == receipt.paid - cost
    else:
        receipt = await buyer.receipt(await buyer.ask("a question", params=LIMIT))
    assert receipt.cost == cost
    assert (receipt.model, receipt.version) == ("first", "second/scripted-1")
    assert (len(first.prompts), len(second.prompts)) == (1, 1)
    assert (await shop.balanced())["revenue"] == cost
    rows = await shop.store.report(0)
    assert [(row.model, row.msat) for row in rows] == [("second", cost)]


async def test_a_model_that_uses_more_than_was_quoted_is_the_providers_loss(shop: Workshop, buyer: Customer) -> None:
    await shop.open()
    first, second = models(shop)
    first.script = [DOWN]
    second.script = answer("at length", Usage(input=400, output=60))
    assert (await bought(shop, buyer)).cost == 340_000


async def test_an_answer_that_breaks_off_is_tried_again_by_the_same_model_and_by_no_other(
    shop: Workshop, buyer: Customer
) -> None:
    await shop.open()
    first, second = models(shop)
    first.scripts = [["so ", DOWN], answer("well")]
    receipt = await bought(shop, buyer)
    assert (receipt.model, receipt.version) == ("first", "scripted-1")
    assert (len(first.prompts), len(second.prompts)) == (2, 0)


async def test_an_attempt_has_failed_only_when_every_model_has(shop: Workshop, buyer: Customer) -> None:
    shop.set(attempts=2)
    await shop.open()
    first, second = models(shop)
    first.script, second.scripts = [DOWN], [[DOWN], answer("well")]
    assert (await bought(shop, buyer)).version == "second/scripted-1"
    assert (len(first.prompts), len(second.prompts)) == (2, 2)


async def test_when_no_model_answers_the_money_is_given_back_once(shop: Workshop, buyer: Customer) -> None:
    await shop.open()
    for each in models(shop):
        each.script = [DOWN]
    receipt = await bought(shop, buyer)
    assert (receipt.cost, receipt.after) == (0, 340_000)
    assert [len(each.prompts) for each in models(shop)] == [3, 3]
    accounts = await shop.balanced()
    assert (accounts["revenue"], accounts["customers"], accounts["held"]) == (0, 340_000, 0)


async def test_what_the_request_is_to_blame_for_has_no_fall_back(shop: Workshop, buyer: Customer) -> None:
    shop.prices = {"first": CHEAP, "second": PRICE}
    await shop.open()
    first, second = models(shop)
    first.script = [ModelError("bad_request", "no such setting")]
    assert (await bought(shop, buyer)).cost == 0
    assert second.prompts == []


async def test_a_fall_back_survives_a_restart_with_the_quoted_price(shop: Workshop, buyer: Customer) -> None:
    await shop.open()
    first, second = models(shop)
    first.script = [DOWN]
    second.scripts = [[asyncio.Event()], answer("well")]
    job = await buyer.ask("a question", params=LIMIT)
    await shop.pay(buyer, job)
    await until(lambda: second.running)
    shop.set(shutdown_seconds=0.01)
    await shop.reopen()
    receipt = await buyer.receipt(job)
    assert (receipt.cost, receipt.model, receipt.version) == (300_000, "first", "second/scripted-1")


# The customer's choice


@pytest.mark.parametrize(("wanted", "by"), [("first", "first"), ("second", "second"), ("auto", "second")])
async def test_the_customer_chooses_a_model_or_leaves_it_to_the_price(
    shop: Workshop, buyer: Customer, wanted: str, by: str
) -> None:
    await shop.open()
    receipt = await bought(shop, buyer, model=wanted)
    assert (receipt.model, receipt.version) == (by, "scripted-1")


async def test_who_names_a_model_gets_that_one_or_the_money_back(shop: Workshop, buyer: Customer) -> None:
    await shop.open()
    first, second = models(shop)
    first.script = [DOWN]
    assert (await bought(shop, buyer, model="first")).cost == 0
    assert second.prompts == []


async def test_a_model_that_is_not_sold_is_refused_by_the_names_of_those_that_are(
    shop: Workshop, buyer: Customer
) -> None:
    await shop.open()
    job = await buyer.ask("a question", providers=[shop.keys.pubkey], params=[("model", "third")])
    assert "one of first, second, auto expected" in (await buyer.feedback(job, "error")).text
    assert announcement_of(Identity(), shop.shop.services).params["model"].values == ("first", "second", "auto")


async def test_where_one_model_cannot_count_a_prompt_the_next_is_quoted(shop: Workshop, buyer: Customer) -> None:
    await shop.open()
    first, _ = models(shop)
    first.count = ModelError("unauthorized", "no such key")
    receipt = await bought(shop, buyer)
    assert (receipt.model, receipt.cost) == ("second", 30_000)


async def test_a_prompt_for_which_a_model_has_no_room_is_quoted_for_another(shop: Workshop, buyer: Customer) -> None:
    await shop.open()
    first, _ = models(shop)
    first.context_tokens = 100  # as many as it counts
    assert (await bought(shop, buyer)).model == "second"


@pytest.mark.parametrize("tokens", [1, 100])  # less than we estimate; as many as it counts
async def test_auto_passes_over_a_cheaper_model_that_has_no_room(shop: Workshop, buyer: Customer, tokens: int) -> None:
    await shop.open()
    _, second = models(shop)
    second.context_tokens = tokens
    receipt = await bought(shop, buyer, model="auto")
    assert (receipt.model, receipt.cost) == ("first", 300_000)
    assert second.prompts == []


async def test_auto_passes_over_a_cheaper_model_while_it_is_left_alone(shop: Workshop, buyer: Customer) -> None:
    await shop.open()
    _, second = models(shop)
    second.script = [ModelError("unauthorized", "no such key")]
    assert (await bought(shop, buyer, model="auto")).version == "first/scripted-1"
    assert (await bought(shop, buyer, model="auto")).model == "first"
    assert len(second.prompts) == 1


# Health


async def test_a_model_that_keeps_failing_is_left_alone_and_then_tried_by_one_job(
    shop: Workshop, buyer: Customer
) -> None:
    await shop.open()
    first, _ = models(shop)
    first.script = [DOWN]
    for _ in range(FAILURES):
        assert (await bought(shop, buyer)).model == "first"
    receipt = await bought(shop, buyer)  # now the second is quoted
    assert (receipt.model, receipt.version, receipt.cost) == ("second", "scripted-1", 30_000)
    assert len(first.prompts) == FAILURES
    shop.later += FIRST_PAUSE
    first.script = answer("again")
    assert (await bought(shop, buyer)).version == "scripted-1"
    assert shop.shop.router.health("first").state == "closed"


async def test_jobs_that_no_model_could_do_are_refused_until_a_trial_is_due(shop: Workshop, buyer: Customer) -> None:
    await shop.open()
    first, _ = models(shop)
    first.script = [ModelError("unauthorized", "no such key")]
    assert (await bought(shop, buyer, model="first")).cost == 0
    wanted: dict[str, Any] = {"providers": [shop.keys.pubkey], "params": [*LIMIT, ("model", "first")]}
    assert await refused(buyer, await buyer.ask("a question", **wanted)) == "unavailable"
    shop.later += FIRST_PAUSE
    first.script = answer("again")
    job = await buyer.ask("another question", **wanted)
    assert (await buyer.receipt(job)).cost == 300_000  # out of the balance


async def test_one_model_gets_no_more_jobs_at_once_than_it_has_places(shop: Workshop, buyer: Customer) -> None:
    shop.bounds = {"first": Bounds(concurrency=2)}
    await shop.open()
    first, second = models(shop)
    go = asyncio.Event()
    first.script = second.script = [go, *answer("well")]
    jobs = [await buyer.ask(f"{n}", params=[*LIMIT, ("model", name)]) for name in shop.models for n in range(4)]
    for job in jobs:
        await shop.pay(buyer, job)
    await until(lambda: second.running == 4)
    assert first.running == 2
    go.set()
    for job in jobs:
        await buyer.receipt(job)
    assert (first.most_running, len(first.prompts)) == (2, 4)


async def test_time_spent_waiting_for_a_place_is_no_time_of_the_job(shop: Workshop, buyer: Customer) -> None:
    shop.bounds = {"first": Bounds(concurrency=1)}
    shop.set(job_seconds=0.5)
    await shop.open()
    first, _ = models(shop)
    first.scripts = [["slow ", asyncio.Event()], ["slow ", asyncio.Event()], answer("well")]
    jobs = [await buyer.ask(f"{n}", params=[*LIMIT, ("model", "first")]) for n in range(3)]
    for job in jobs:
        await shop.pay(buyer, job)
    finishes = sorted([str((await buyer.receipt(job)).finish) for job in jobs])
    assert finishes == ["stop", "timeout", "timeout"]
    assert len(first.prompts) == 3


# The operator's daily limit


async def test_nothing_new_is_sold_once_the_days_spending_is_reached_over_a_restart_too(
    shop: Workshop, buyer: Customer, caplog: pytest.LogCaptureFixture
) -> None:
    shop.set(spend_msat_per_day=500_000)
    shop.later = 3600.0 if time.time() % DAY > DAY - 600 else 0.0  # midnight is not to come meanwhile
    await shop.open()
    wanted: dict[str, Any] = {"providers": [shop.keys.pubkey]}
    assert (await bought(shop, buyer)).cost == 300_000
    assert (await bought(shop, buyer)).cost == 300_000
    assert shop.engine.spending.today == 600_000
    with caplog.at_level(logging.WARNING, "dvm.jobs.watching.spending"):
        for restarted in (False, True):
            if restarted:
                await shop.reopen()
            assert shop.engine.spending.today == 600_000
            job = await buyer.ask(f"one more {restarted}", **wanted)
            assert await refused(buyer, job) == "unavailable"
    told = [each for each in caplog.records if "spend_sats" in each.message]
    assert len(told) == 2  # once in each run
    shop.later += DAY
    shop.set(max_age=0, max_ahead=0)
    await shop.reopen()
    assert (await bought(shop, buyer)).cost == 300_000
    assert shop.engine.spending.today == 300_000


async def test_what_was_used_for_nothing_counts_at_the_list_price_of_the_model_that_used_it(
    shop: Workshop, buyer: Customer
) -> None:
    shop.set(spend_msat_per_day=10**9)
    shop.prices = {"first": FREE, "second": CHEAP}
    await shop.open()
    first, second = models(shop)
    first.script = [DOWN]
    await buyer.receipt(await buyer.ask("free, and answered by the second", params=LIMIT))
    assert shop.engine.spending.today == 30_000
    second.script = [Chunk("so ", usage=Usage(100, 0, 10)), ModelError("blocked", "no", usage=Usage(100, 0, 10))]
    job = await buyer.ask("a job that fails", params=[*LIMIT, ("model", "second")])
    await shop.pay(buyer, job)
    assert (await buyer.receipt(job)).cost == 0
    assert await shop.state(job) is JobState.FAILED
    assert shop.engine.spending.today == 30_000 + 14_000
    await shop.reopen()
    assert shop.engine.spending.today == 44_000
