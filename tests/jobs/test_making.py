"""Answers that are files, or that count only as a whole: what is sent, what is shown before, and what is billed."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dvm.jobs.kinds import checking, image, text_generation
from dvm.jobs.kinds.declaration import JSON
from dvm.ledger import JobState
from dvm.models import Blob, Chunk, ModelError, Usage
from dvm.nip90 import RECEIPT, parse_answer
from tests.standins.customer import Customer
from tests.standins.scripted import ScriptedModel, answer
from tests.standins.workshop import Workshop, workshop

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
USED = Usage(input=100, output=1290)


@pytest.fixture
async def shop(relay: str, tmp_path: Path) -> AsyncIterator[Workshop]:
    models = [ScriptedModel(name=name, max_output_tokens=2000) for name in ("first", "second")]
    for model in models:
        model.makes = ("text", "image", "speech")
    async with workshop(relay, data=tmp_path, models=models, opened=False) as each:
        held = replace(text_generation.KIND, outputs=("text/plain", JSON), checks={JSON: checking.json})
        each.kinds = [held, image.KIND]
        await each.open()
        yield each


async def bought(shop: Workshop, buyer: Customer, kind: int, **fields: Any) -> str:
    """A job that has been paid for and has ended."""
    job = await buyer.ask("a fox", kind=kind, **fields)
    await shop.pay(buyer, job)
    await buyer.until(job, lambda event: event.kind == RECEIPT)
    return job


async def content(buyer: Customer, job: str, kind: int) -> str:
    parsed = parse_answer(await buyer.until(job, lambda event: event.kind == kind + 1000), buyer.keys)
    return str(getattr(parsed, "content"))  # noqa: B009 - of a result; a feedback has one as well


async def test_an_image_is_delivered_and_billed_by_its_tokens(shop: Workshop, buyer: Customer) -> None:
    shop.model.script = [Chunk("Here it is."), Chunk(blob=Blob("image/png", PNG), usage=USED, finish="stop")]
    job = await bought(shop, buyer, 5100)
    assert await content(buyer, job, 5100) == "data:image/png;base64," + base64.b64encode(PNG).decode()
    receipt = await buyer.receipt(job)
    assert receipt.cost == 100_000 + 4 * 1_290_000
    assert (receipt.usage["input"], receipt.usage["output"]) == (100, 1290)
    assert shop.model.limits[0].output == "image"
    assert await shop.state(job) is JobState.DELIVERED


async def test_another_model_steps_in_for_an_image_too(shop: Workshop, buyer: Customer) -> None:
    first, second = shop.models.values()
    assert isinstance(first, ScriptedModel)
    assert isinstance(second, ScriptedModel)
    first.script = [ModelError("unavailable", "down")]
    second.script = [Chunk(blob=Blob("image/png", PNG), usage=USED, finish="stop", version="paints-1")]
    job = await bought(shop, buyer, 5100)
    assert (await buyer.receipt(job)).version == "second/paints-1"


async def test_a_model_that_only_talks_of_an_image_has_not_answered(shop: Workshop, buyer: Customer) -> None:
    shop.model.script = [Chunk("I would rather not.", usage=USED, finish="stop")]
    job = await bought(shop, buyer, 5100)
    receipt = await buyer.receipt(job)
    assert (receipt.cost, receipt.after) == (0, receipt.paid)
    assert (await buyer.feedback(job, "error")).text.startswith("no-answer")


async def test_files_that_cannot_be_delivered_cost_nothing(shop: Workshop, buyer: Customer) -> None:
    shop.model.script = [Chunk(blob=Blob("image/png", PNG * 5000), usage=USED, finish="stop")]
    job = await bought(shop, buyer, 5100)
    assert (await buyer.receipt(job)).cost == 0
    assert (await buyer.feedback(job, "error")).text == "undeliverable: the files could not be uploaded"


async def test_what_cannot_be_delivered_is_made_only_so_often_a_day(shop: Workshop, buyer: Customer) -> None:
    """Else who asks for PNG of a model that makes something else has it drawn all day, for nothing."""
    shop.model.script = [Chunk(blob=Blob("image/jpeg", b"\xff\xd8\xff" + PNG), usage=USED, finish="stop")]
    limit = shop.settings.wrong_answers_per_day
    for n in range(limit):
        job = await buyer.ask(f"fox {n}", kind=5100, output="image/png")
        if n == 0:
            await shop.pay(buyer, job)
        assert "image/jpeg, not image/png" in (await buyer.feedback(job, "error")).text
    job = await buyer.ask("one more fox", kind=5100, output="image/png", providers=[shop.keys.pubkey])
    assert (await buyer.feedback(job, "error")).text.startswith("too-many-wrong-answers")
    assert len(shop.model.prompts) == limit


async def test_no_bid_is_met_by_fewer_tokens_than_an_image_has(shop: Workshop, buyer: Customer) -> None:
    job = await buyer.ask("a fox", kind=5100, bid=2_000_000, providers=[shop.keys.pubkey])
    assert (await buyer.feedback(job, "error")).text.startswith("bid-too-low")


async def test_what_has_a_form_is_sent_in_it_and_not_shown_before_it_is_whole(shop: Workshop, buyer: Customer) -> None:
    shop.model.script = ['```json\n{"fox": ', 0.05, *answer('"red"}\n```')]
    job = await bought(shop, buyer, 5050, output=JSON)
    assert (await content(buyer, job, 5050)).strip() == '{"fox": "red"}'
    assert not [said for said in buyer.said(job) if said.startswith("partial")]
    assert (await buyer.receipt(job)).cost == 300_000


async def test_an_answer_of_the_wrong_form_is_given_back_and_asked_for_only_once(
    shop: Workshop, buyer: Customer
) -> None:
    shop.model.script = answer("I cannot do that.")
    job = await bought(shop, buyer, 5050, output=JSON)
    receipt = await buyer.receipt(job)
    assert (receipt.cost, receipt.after, receipt.usage["output"]) == (0, receipt.paid, 50)
    assert (await buyer.feedback(job, "error")).text.startswith("wrong-form")
    assert len(shop.model.prompts) == 1


async def test_text_is_shown_while_it_is_made(shop: Workshop, buyer: Customer) -> None:
    go = asyncio.Event()
    shop.model.script = ["so ", 0.05, "far, ", go, *answer("and done")]
    job = await buyer.ask("a fox", kind=5050)
    await shop.pay(buyer, job)
    assert (await buyer.feedback(job, "partial")).content.startswith("so ")
    go.set()
    await buyer.receipt(job)
