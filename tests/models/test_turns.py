"""The next turn of a conversation: its request begins as the last one did, and what is cached of it is told apart."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from dvm.models.base import Model, Prompt, Turn
from dvm.models.embedded import EmbeddedModel
from dvm.models.gemini import GeminiModel
from dvm.models.generativeai import GenerativeAiModel, installed
from dvm.models.openai import OpenAIModel
from tests.models.answers import ask
from tests.models.test_contract import NEEDS_EMBEDDED
from tests.standins.gemini import GeminiStandIn
from tests.standins.llama import llama_server
from tests.standins.openai_api import OpenAIStandIn

SYSTEM = "You are a patient teacher of geography, and answer in one short sentence."


@pytest.fixture(scope="module")
def llama() -> Iterator[tuple[str, str]]:
    with llama_server() as (url, key):
        yield url, key


def begun(question: str) -> Prompt:
    return Prompt.of(question, system=SYSTEM)


def continued(prompt: Prompt, answer: str, question: str) -> Prompt:
    return Prompt((*prompt.turns, Turn("model", (answer,)), Turn("user", (question,))), prompt.system)


async def talk(model: Model) -> None:
    """Three turns, each with all that was said before."""
    prompt = begun("Where does the Rhine rise?")
    for question in ("And where does it end?", "Which towns lie between?"):
        prompt = continued(prompt, (await ask(model, prompt)).text, question)
    await ask(model, prompt)
    await model.close()


@pytest.mark.parametrize(
    "made",
    [
        GeminiModel,
        pytest.param(
            GenerativeAiModel,
            marks=pytest.mark.skipif(not installed(), reason="google-generativeai is not installed"),
        ),
    ],
)
async def test_gemini_is_asked_with_the_same_beginning(standin: GeminiStandIn, made: Any) -> None:
    await talk(made("m", model="gemini-2.5-flash", api_key=standin.key, base_url=standin.url))
    asked = [request.body for request in standin.requests]
    assert [len(body["contents"]) for body in asked] == [1, 3, 5]
    for body, following in itertools.pairwise(asked):
        assert following["systemInstruction"] == body["systemInstruction"]
        assert following["contents"][: len(body["contents"])] == body["contents"]
        assert following["generationConfig"] == body["generationConfig"]


async def test_an_openai_endpoint_is_asked_with_the_same_beginning() -> None:
    async with OpenAIStandIn() as endpoint:
        await talk(OpenAIModel("m", model="gpt", api_key=endpoint.key, base_url=endpoint.url))
        asked = [json.dumps(request["messages"]).removesuffix("]") for request in endpoint.requests]
    assert asked[1].startswith(asked[0])
    assert asked[2].startswith(asked[1])


@pytest.mark.parametrize(
    "kind", [pytest.param("embedded", marks=NEEDS_EMBEDDED), pytest.param("openai at llama.cpp", marks=NEEDS_EMBEDDED)]
)
async def test_the_next_turn_goes_on_from_what_is_cached(kind: str, request: pytest.FixtureRequest) -> None:
    model: Model
    if kind == "embedded":
        model = EmbeddedModel("m", threads=1)
    else:
        url, key = request.getfixturevalue("llama")
        model = OpenAIModel("m", model="smollm2", api_key=key, base_url=url)
    await model.start()
    prompt = begun("Where does the Rhine rise?")
    first = await ask(model, prompt, max_output_tokens=12, temperature=0)
    read = first.usage.input + first.usage.cached
    prompt = continued(prompt, first.text, "And where does it end?")
    usage = (await ask(model, prompt, max_output_tokens=4, temperature=0)).usage
    assert usage.cached >= read - 1, "all that was read before"
    assert 0 < usage.input < read
    assert usage.estimated == frozenset()
    if kind == "embedded":
        assert usage.input + usage.cached == await model.count_tokens(prompt)
    await model.close()
