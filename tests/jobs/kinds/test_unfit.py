"""Answers whose form is checked: sent as they should be, or given back, and never shown before they are whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from dvm.jobs.kinds import KINDS, checking
from dvm.jobs.kinds.declaration import JSON, TEXT
from dvm.models import Chunk, Usage
from tests.standins.customer import Customer, customer
from tests.standins.scripted import ScriptedModel, answer
from tests.standins.workshop import Workshop, workshop

USED = Usage(input=100, output=50)


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
    assert said.text.startswith("no-answer")
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
