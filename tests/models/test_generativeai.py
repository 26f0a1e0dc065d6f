"""Gemini by its former SDK: what differs from the present one; what they share is in test_contract."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from dvm.config import ModelConfig
from dvm.doctor.models import advise
from dvm.models import generativeai
from dvm.models.base import Blob, Limits, ModelError, Prompt, Turn, Usage
from dvm.models.generativeai import GenerativeAiModel, installed
from tests.models.answers import FOX, ask, refused
from tests.standins.gemini import GeminiStandIn
from tests.standins.gemini_scripts import RETRY_INFO

Factory = Callable[..., GenerativeAiModel]
needs_sdk = pytest.mark.skipif(not installed(), reason="google-generativeai is not installed")


@pytest.fixture
async def make(standin: GeminiStandIn) -> AsyncIterator[Factory]:
    made = []

    def factory(**settings: Any) -> GenerativeAiModel:
        settings = {"api_key": standin.key, "base_url": standin.url, **settings}
        made.append(GenerativeAiModel("m", model="gemini-2.5-flash", **settings))
        return made[-1]

    yield factory
    for model in made:
        await model.close()


@needs_sdk
async def test_the_request_has_everything(standin: GeminiStandIn, make: Factory) -> None:
    turns = (Turn("user", ("Hi",)), Turn("model", ("Hello",)), Turn("user", (FOX, Blob("image/png", b"\x89P"))))
    settings = {"temperature": 0.5, "top_p": 0.25, "top_k": 3, "frequency_penalty": 1.5, "stop": ("END",)}
    await ask(make(), Prompt(turns, system="Be terse."), max_output_tokens=50, **settings)
    body = standin.requests[0].body
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "Hi"}]},
        {"role": "model", "parts": [{"text": "Hello"}]},
        {"role": "user", "parts": [{"text": FOX}, {"inlineData": {"mimeType": "image/png", "data": "iVA="}}]},
    ]
    assert body["systemInstruction"]["parts"] == [{"text": "Be terse."}]
    assert body["generationConfig"] == {
        "maxOutputTokens": 50,
        "temperature": 0.5,
        "topP": 0.25,
        "topK": 3,
        "frequencyPenalty": 1.5,
        "stopSequences": ["END"],
    }
    assert standin.requests[0].headers["accept-encoding"] == "identity"


@needs_sdk
@pytest.mark.parametrize(
    ("script", "usage"),
    [
        ({"thoughts": 40}, Usage(11, 0, 11, 40, frozenset({"thoughts"}))),
        ({"thoughts": 0}, Usage(11, 0, 11, 0)),
        ({"cached": 5}, Usage(6, 5, 11, 0)),
        ({"usage": "never"}, Usage(11, 0, 11, 0, frozenset({"input", "cached", "output", "thoughts"}))),
    ],
)
async def test_thoughts_are_what_the_total_has_beyond(
    standin: GeminiStandIn, make: Factory, script: dict[str, Any], usage: Usage
) -> None:
    standin.script("*", **script)
    assert (await ask(make())).usage == usage


@needs_sdk
@pytest.mark.parametrize(
    ("script", "code"),
    [
        ({"status": 400}, "bad_request"),
        ({"status": 401}, "unauthorized"),
        ({"status": 403}, "unauthorized"),
        ({"status": 404}, "not_found"),
        ({"status": 429}, "rate_limited"),
        ({"status": 500}, "unavailable"),
        ({"status": 503, "raw_body": "<html>Busy</html>"}, "unavailable"),
        ({"status": 500, "raw_body": "[7]"}, "unavailable"),
        ({"status": 302, "headers": {"location": "/elsewhere"}}, "not_found"),
        ({"fault": "reset"}, "unavailable"),
        ({"fault": "reset", "fault_after": 1}, "broken_off"),
        ({"fault": "cut", "fault_after": 1}, "broken_off"),
        ({"fault": "close", "fault_after": 1}, "broken_off"),
        ({"fault": "garbage", "fault_after": 1}, "broken_off"),
        ({"fault": "end", "fault_after": 1}, "broken_off"),
        ({"fault": "error", "fault_after": 1}, "broken_off"),
        ({"fault": "raw", "raw_body": "[" * 1000}, "broken_off"),
        ({"block_reason": "PROHIBITED_CONTENT"}, "blocked"),
        ({"text": "", "finish": "SAFETY"}, "blocked"),
        ({"text": ""}, "empty"),
        ({"text": "x" * 20_000}, "unavailable"),
        ({"headers": {"content-encoding": "gzip"}}, "unavailable"),
    ],
)
async def test_a_failure_has_its_code(standin: GeminiStandIn, make: Factory, script: dict[str, Any], code: str) -> None:
    standin.script("*", **script)
    error = await refused(make(max_response_bytes=20_000), max_output_tokens=8000)
    assert error.code == code
    assert standin.counters["requests"] == 1, "whether to try again is not the SDK's decision"


@needs_sdk
async def test_a_limit_says_how_long_to_wait(standin: GeminiStandIn, make: Factory) -> None:
    standin.script("*", status=429, error_details=[RETRY_INFO])
    assert (await refused(make())).retry_after == 3.5


@needs_sdk
async def test_an_answer_that_was_filtered_in_the_middle_is_shortened(standin: GeminiStandIn, make: Factory) -> None:
    standin.script("*", finish="SAFETY", text="Well, ")
    answer = await ask(make())
    assert (answer.text, answer.last.finish) == ("Well, ", "safety")


@needs_sdk
async def test_silence_is_a_stall_and_its_connection_is_ended(standin: GeminiStandIn, make: Factory) -> None:
    standin.script("*", fault="stall")
    model = make(first_chunk_seconds=0.1)
    assert (await refused(model)).code == "stalled"
    await standin.until("disconnects")


@needs_sdk
async def test_walking_away_ends_the_request(standin: GeminiStandIn, make: Factory) -> None:
    standin.script("*", fault="stall", fault_after=1)
    stream = make().stream(Prompt.of(FOX), Limits(100))
    await anext(stream)
    await stream.aclose()
    await standin.until("disconnects")


@needs_sdk
async def test_a_cancelled_task_ends_its_request(standin: GeminiStandIn, make: Factory) -> None:
    standin.script("*", fault="stall")
    model = make()
    waiting = asyncio.create_task(ask(model))
    await standin.until("requests")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await standin.until("disconnects")


@needs_sdk
async def test_what_cannot_be_asked_is_a_bad_request(make: Factory) -> None:
    for prompt, limits in (
        (Prompt.of("\ud800"), {}),
        (Prompt.of("x"), {"temperature": float("nan")}),
        (Prompt.of("x"), {"output": "image"}),
        (Prompt.of("x"), {"top_k": 2**70}),
    ):
        assert (await refused(make(), prompt, **limits)).code == "bad_request"


@needs_sdk
async def test_the_key_is_shown_nowhere(standin: GeminiStandIn, caplog: pytest.LogCaptureFixture) -> None:
    model = GenerativeAiModel("m", model="gemini-x", api_key="s3cret-key", base_url=standin.url)
    with caplog.at_level("DEBUG"):
        error = await refused(model)
        standin.key = "s3cret-key"
        standin.script("*", status=500, error_message="s3cret-key")
        again = await refused(model)
    assert (error.code, again.code) == ("unauthorized", "unavailable")
    shown = "".join(traceback.format_exception(error)) + str(again) + repr(error) + repr(model) + caplog.text
    assert "s3cret-key" not in shown
    await model.close()


@needs_sdk
def test_its_import_says_nothing() -> None:
    program = "from dvm.models.generativeai import GenerativeAiModel as M; M('m', model='x', api_key='k')._load()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""


async def test_without_the_sdk_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generativeai, "installed", lambda: False)
    model = GenerativeAiModel("m", model="gemini-x", api_key="k")
    await model.start()
    for _ in range(2):
        with pytest.raises(ModelError, match=r"pip install 'lightning-dvm\[google-generativeai\]'") as caught:
            await model.count_tokens(Prompt.of(FOX))
        assert caught.value.code == "not_found"
    table = ModelConfig(provider="google-generativeai", model="gemini-x")
    assert advise("m", table, caught.value) == "Install it, or correct models.m.model."
    await model.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": ""},
        {"api_key": "s3cret with space"},
        {"model": ""},
        {"base_url": "ftp://s3cret"},
        {"max_output_tokens": 0},
        {"stall_seconds": 0},
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="model m: ") as caught:
        GenerativeAiModel("m", **{"model": "x", "api_key": "k", **settings})
    assert "s3cret" not in str(caught.value)
