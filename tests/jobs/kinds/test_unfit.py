"""Answers whose form is checked: sent as they should be, or given back, and never shown before they are whole."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from dvm.jobs.kinds import KINDS, checking
from dvm.jobs.kinds.declaration import JSON, TEXT
from dvm.jobs.watching import wrong_answers
from dvm.ledger import JobState
from dvm.models import Chunk, ModelError, Usage
from dvm.nip90 import parse_request
from dvm.nostr.keys import Keys
from tests.standins.customer import Customer, customer
from tests.standins.scripted import ScriptedModel, answer
from tests.standins.workshop import Workshop, workshop

USED = Usage(input=100, output=50)
DAY = 86_400


@pytest.fixture
async def shop(relay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Workshop]:
    """It sells JSON."""
    sold = replace(KINDS[5050], outputs=(TEXT, JSON), checks={JSON: checking.json})
    monkeypatch.setitem(KINDS, 5050, sold)
    async with workshop(relay, data=tmp_path, models=[ScriptedModel()], partial_seconds=0) as each:
        yield each


@pytest.fixture
async def buyer(relay: str) -> AsyncIterator[Customer]:
    async with customer(relay) as each:
        yield each


async def test_a_fence_is_no_part_of_the_result(shop: Workshop, buyer: Customer) -> None:
    shop.model.script = answer("```json\n[1]\n```")
    job = await buyer.ask("x", output=JSON)
    await shop.pay(buyer, job)
    assert (await buyer.result(job)).content == "[1]"
    assert shop.model.running == 0


async def test_an_answer_of_another_form_costs_nothing_and_is_not_tried_again(shop: Workshop, buyer: Customer) -> None:
    shop.model.script = [*("Sure! " * 9).split(), *answer("Here it is.")]
    job = await buyer.ask("x", output=JSON)
    await shop.pay(buyer, job)
    said = await buyer.feedback(job, "error")
    receipt = await buyer.receipt(job)
    assert said.text.startswith("wrong-form: ")
    assert receipt.after == receipt.paid
    assert len(shop.model.prompts) == 1
    assert not any(text.startswith("partial") for text in buyer.said(job))
    assert buyer.results(job) == set()


async def test_one_that_its_limit_cut_short_is_sent_and_billed(shop: Workshop, buyer: Customer) -> None:
    shop.model.script = [Chunk("[1, 2", usage=USED, finish="length", version="scripted-1")]
    job = await buyer.ask("x", output=JSON)
    await shop.pay(buyer, job)
    assert (await buyer.result(job)).content == "[1, 2"
    assert ((await buyer.receipt(job)).cost or 0) > 0


# Who provokes them


async def unfit(shop: Workshop, buyer: Customer, count: int, first: int = 0) -> None:
    """So many jobs whose answers are no JSON, the money for which comes back."""
    shop.model.script = answer("Sure!")
    for n in range(first, first + count):
        job = await buyer.ask(f"{n}", output=JSON)
        said = await buyer.until(job, lambda event: event.tag("status") in ("payment-required", "error"))
        if said.tag("status") == "payment-required":  # else the balance covers it
            await shop.pay(buyer, job)
        assert (await buyer.feedback(job, "error")).text.startswith("wrong-form")


async def refusal(buyer: Customer, shop: Workshop, text: str, **asked: str) -> str:
    job = await buyer.ask(text, providers=[shop.keys.pubkey], **asked)
    code = (await buyer.feedback(job, "error")).text.partition(":")[0]
    assert await shop.state(job) is JobState.REJECTED  # and not paid first, out of the balance
    return code


async def test_who_provokes_them_again_and_again_is_refused_until_the_next_day(
    relay: str, shop: Workshop, buyer: Customer, caplog: pytest.LogCaptureFixture
) -> None:
    await shop.close()
    shop.set(wrong_answers_per_day=3, max_age=0, max_ahead=0)
    shop.later = 3_600.0 if time.time() % DAY > DAY - 600 else 0.0  # midnight is not to come meanwhile
    await shop.open()
    await unfit(shop, buyer, 3)
    assert await refusal(buyer, shop, "once more", output=JSON) == "too-many-wrong-answers"
    assert len(shop.model.prompts) == 3
    assert len([each for each in caplog.records if "again and again" in each.message]) == 1

    job = await buyer.ask("in words, then")  # another output, out of the balance
    assert (await buyer.result(job)).content == "Sure!"
    async with customer(relay) as other:
        await unfit(shop, other, 1)
    shop.later += DAY
    await unfit(shop, buyer, 1, first=10)


async def test_what_was_paid_for_before_is_given_back_and_not_run(shop: Workshop, buyer: Customer) -> None:
    await shop.close()
    shop.set(wrong_answers_per_day=2, concurrency=1)
    await shop.open()
    jobs = [await buyer.ask(f"{n}", output=JSON) for n in range(5)]
    for job in jobs:
        await buyer.quote(job)
    for job in jobs:
        await shop.pay(buyer, job)
    said = [(await buyer.feedback(job, "error")).text.partition(":")[0] for job in jobs]
    assert sorted(said) == ["too-many-wrong-answers"] * 3 + ["wrong-form"] * 2
    assert len(shop.model.prompts) == 2
    accounts = await shop.balanced()
    assert (accounts["revenue"], accounts["held"]) == (0, 0)


async def test_0_is_no_limit(shop: Workshop, buyer: Customer) -> None:
    await shop.close()
    shop.set(wrong_answers_per_day=0)
    await shop.open()
    await unfit(shop, buyer, 7)
    assert len(shop.model.prompts) == 7


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (Chunk("", usage=USED, finish="stop"), "no-answer"),
        (ModelError("empty", "not a word", usage=USED), "no-answer"),
        (ModelError("blocked", "a filter let nothing through", usage=USED), "blocked"),
    ],
)
async def test_answers_without_a_word_count_as_well(
    shop: Workshop, buyer: Customer, act: Chunk | ModelError, code: str
) -> None:
    await shop.close()
    shop.set(wrong_answers_per_day=2, attempts=1)
    await shop.open()
    shop.model.script = [act]
    first = await buyer.ask("0")
    await shop.pay(buyer, first)
    assert (await buyer.feedback(first, "error")).text.startswith(code)
    second = await buyer.ask("1")  # out of what came back
    assert (await buyer.feedback(second, "error")).text.startswith(code)
    assert await refusal(buyer, shop, "once more") == "too-many-wrong-answers"
    assert len(shop.model.prompts) == 2


async def test_the_count_of_fresh_keys_is_bounded(
    shop: Workshop, buyer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wrong_answers, "MOST", 3)
    counts = shop.engine.runner._wrong
    for _ in range(10):
        counts.add(parse_request(buyer.keys.sign(5050, [["i", "x", "text"]], "", 0), None))
        counts.add(parse_request(Keys.generate().sign(5050, [["i", "x", "text"]], "", 0), None))
    assert len(counts._counts) == 3
    assert await refusal(buyer, shop, "one more") == "too-many-wrong-answers"


async def test_what_a_model_turns_away_unread_does_not_count(shop: Workshop, buyer: Customer) -> None:
    await shop.close()
    shop.set(wrong_answers_per_day=1)
    await shop.open()
    shop.model.scripts = [[ModelError("blocked", "not such words")]]
    first = await buyer.ask("0")
    await shop.pay(buyer, first)
    assert (await buyer.feedback(first, "error")).text.startswith("blocked")
    await buyer.result(await buyer.ask("1"))


async def test_thoughts_that_a_hold_invoice_does_not_pay_for_count_as_well(shop: Workshop, buyer: Customer) -> None:
    await shop.close()
    shop.set(wrong_answers_per_day=2, hold=True)
    await shop.open()
    shop.model.script = [Chunk("", usage=Usage(input=100, thoughts=60), finish="length")]
    for n in range(2):
        job = await buyer.ask(f"{n}", params=[("max_tokens", "60")])
        await shop.pay(buyer, job)
        assert (await buyer.feedback(job, "error")).text.startswith("no-answer")
    assert await refusal(buyer, shop, "once more") == "too-many-wrong-answers"
