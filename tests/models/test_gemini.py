"""What is asked of Gemini, and what is made of its answers; by the real SDK, from a real socket."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import sys
from typing import Any

import pytest

from dvm.models import gemini as gemini_module
from dvm.models.base import Blob, Limits, Prompt, Turn, Usage
from dvm.models.gemini import GeminiModel
from tests.models.answers import FOX, ask, refused
from tests.models.conftest import GeminiFactory
from tests.standins.gemini import GeminiStandIn
from tests.standins.gemini_scripts import Script

PIXEL = b"\x89PNG\r\n\x1a\n"


def camel_case(raw: Any) -> Any:
    """Protocol buffers take both spellings of a field's name, and the SDK mixes them by version."""
    match raw:
        case dict():
            return {re.sub("_(.)", lambda m: m[1].upper(), key): camel_case(value) for key, value in raw.items()}
        case list():
            return [camel_case(value) for value in raw]
    return raw


async def test_every_setting_reaches_the_api(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    prompt = Prompt(
        (Turn("user", ("What is this?", Blob("image/png", PIXEL))), Turn("model", ("A",)), Turn("user", ("B",))),
        system="Be brief.",
    )
    limits = Limits(50, temperature=0.5, top_p=0.9, top_k=7, stop=("END", "\n\n"), frequency_penalty=0.25)
    model = flash(thinking_budget=16)
    assert [chunk async for chunk in model.stream(prompt, limits)]

    (request,) = standin.requests
    assert request.path == "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    assert camel_case(request.body) == {
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"text": "What is this?"},
                    {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(PIXEL).decode()}},
                ],
            },
            {"role": "model", "parts": [{"text": "A"}]},
            {"role": "user", "parts": [{"text": "B"}]},
        ],
        "systemInstruction": {"role": "user", "parts": [{"text": "Be brief."}]},
        "generationConfig": {
            "temperature": 0.5,
            "topP": 0.9,
            "topK": 7.0,
            "maxOutputTokens": 50,
            "stopSequences": ["END", "\n\n"],
            "frequencyPenalty": 0.25,
            "thinkingConfig": {"thinkingBudget": 16},
        },
    }
    assert request.headers["accept-encoding"] == "identity"
    assert not any(name.startswith("x-dvm") for name in request.headers)


async def test_what_the_customer_left_open_is_left_to_the_model(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    await ask(flash(max_output_tokens=70), max_output_tokens=1000)
    assert standin.requests[0].body["generationConfig"] == {"maxOutputTokens": 70}
    assert "systemInstruction" not in standin.requests[0].body


async def test_an_answer_streams(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    standin.script("*", text="One two three four.", chunk_chars=4)
    answer = await ask(flash())
    assert [chunk.text for chunk in answer.chunks] == ["One ", "two ", "thre", "e fo", "ur.", ""]
    assert answer.last.finish == "stop"
    assert answer.last.version == "gemini-2.5-flash-001"


async def test_a_chunk_arrives_before_the_next_one_is_made(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    standin.script("*", fault="stall", fault_after=1)
    stream = flash().stream(Prompt.of(FOX), Limits(100))
    assert (await anext(stream)).text == FOX[:16]
    await stream.aclose()


async def test_usage_is_reported_in_disjoint_classes(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    standin.script("*", thoughts=40, cached=5, tool_use=3)
    usage = (await ask(flash())).usage
    assert usage == Usage(input=11 + 3 - 5, cached=5, output=11, thoughts=40)
    assert usage.total == 11 + 11 + 40 + 3


async def test_thoughts_are_billed_but_are_no_part_of_the_answer(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    standin.script("*", thoughts=40, thought_text="The user wants…")
    answer = await ask(flash())
    assert (answer.text, answer.usage.thoughts) == (FOX, 40)


async def test_money_11_a_true_zero_stays_zero(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    standin.script("*", usage_set={"candidatesTokenCount": 0, "totalTokenCount": 11})
    assert (await ask(flash())).usage == Usage(input=11)


async def test_money_11_missing_usage_is_counted_by_us_and_marked(
    standin: GeminiStandIn, flash: GeminiFactory, caplog: pytest.LogCaptureFixture
) -> None:
    standin.script("*", usage="never")
    usage = (await ask(flash())).usage
    assert usage.estimated == {"input", "cached", "output", "thoughts"}
    assert usage.input > 0
    assert usage.output > 0
    assert "does not add up" in caplog.text


async def test_money_11_usage_of_an_earlier_chunk_stands_and_the_rest_is_counted(
    standin: GeminiStandIn, flash: GeminiFactory
) -> None:
    standin.script("*", usage="first", cached=2)
    usage = (await ask(flash())).usage
    assert (usage.input, usage.cached, usage.estimated) == (9, 2, {"output"})
    assert usage.output > 4  # four were reported with the first of three chunks


async def test_money_10_thoughts_missing_from_the_report_are_the_rest_of_the_total(
    standin: GeminiStandIn, flash: GeminiFactory, caplog: pytest.LogCaptureFixture
) -> None:
    standin.script("*", thoughts=40, usage_set={"thoughtsTokenCount": None})
    usage = (await ask(flash())).usage
    assert usage == Usage(11, 0, 11, 40, frozenset({"thoughts"}))
    assert "does not add up" in caplog.text


async def test_an_exact_usage_is_no_warning(flash: GeminiFactory, caplog: pytest.LogCaptureFixture) -> None:
    assert not (await ask(flash())).usage.estimated
    assert "does not add up" not in caplog.text


async def test_a_limit_used_up_by_thoughts_is_length_and_billed(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    standin.script("*", thoughts=500)
    answer = await ask(flash(), max_output_tokens=30)
    assert (answer.text, answer.last.finish) == ("", "length")
    assert answer.usage == Usage(input=11, thoughts=30)


async def test_a_limit_met_without_any_token_is_empty(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    standin.script("*", text="", finish="MAX_TOKENS")
    assert (await refused(flash())).code == "empty"


async def test_stop_and_length(flash: GeminiFactory) -> None:
    assert (await ask(flash(), stop=("fox",))).text == "The quick brown "
    answer = await ask(flash(), max_output_tokens=4)
    assert (answer.text, answer.last.finish) == (FOX[:16], "length")


async def test_a_further_request_is_never_made_for_a_continuation(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    chunk = {
        "candidates": [
            {"content": {"parts": [{"text": "a"}]}, "finishReason": "CONTINUATION", "continuationToken": "eA=="}
        ]
    }
    standin.script("*", fault="raw", raw_body=json.dumps(chunk))
    assert (await ask(flash())).last.finish == "length"
    assert standin.counters["requests"] == 1


async def test_an_image_in_the_answer_is_a_blob(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    standin.script("*", text="", blob=("image/png", base64.b64encode(PIXEL).decode()))
    answer = await ask(flash())
    assert answer.chunks[0].blob == Blob("image/png", PIXEL)
    assert (answer.last.finish, answer.usage.output) == ("stop", 258)


async def test_half_surrogates_do_not_leave_the_model(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    standin.script(
        "gemini-2.5-flash", fault="raw", raw_body='{"candidates":[{"content":{"parts":[{"text":"a\\ud83d"}]}}]}'
    )
    stream = flash().stream(Prompt.of(FOX), Limits(100))
    assert (await anext(stream)).text == "a\ufffd"
    await stream.aclose()


async def test_the_answer_is_whole_once_it_has_a_finish(
    standin: GeminiStandIn, flash: GeminiFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gemini_module, "_LINGER_SECONDS", 0.05)
    for fault in ("reset", "close", "stall", "garbage"):
        standin.script("*", Script(fault=fault, fault_after=3))  # type: ignore[arg-type]
        answer = await ask(flash())
        assert (answer.text, answer.last.finish) == (FOX, "stop")


async def test_the_system_instruction_is_counted(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    assert await flash().count_tokens(Prompt.of("12345678", system="1234")) == 3
    assert standin.requests[0].path == "/v1beta/models/gemini-2.5-flash:countTokens"


async def test_closing_the_iterator_stops_the_request_upstream(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    standin.script("*", chunk_delay=0.02, text="word " * 10_000, chunk_chars=5)
    stream = flash().stream(Prompt.of(FOX), Limits(50_000))
    await anext(stream)
    await stream.aclose()
    await standin.until("disconnects")
    assert standin.counters["answers"] == 0


@pytest.mark.parametrize("chunks", [0, 1])
async def test_cancelling_the_task_stops_the_request_upstream(
    standin: GeminiStandIn, flash: GeminiFactory, chunks: int
) -> None:
    standin.script("*", fault="stall", fault_after=chunks)
    task = asyncio.create_task(ask(flash()))
    await standin.until("requests" if chunks == 0 else "stall")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await standin.until("disconnects")


async def test_the_environment_points_it_elsewhere(
    standin: GeminiStandIn, flash: GeminiFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", standin.url)
    assert (await ask(flash(base_url=None))).text == FOX


async def test_base_url_and_key_win_over_the_environment(
    standin: GeminiStandIn, flash: GeminiFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_API_KEY", "another-key")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    monkeypatch.setenv("GOOGLE_GENAI_API_VERSION", "v9")
    assert (await ask(flash())).text == FOX


async def test_the_sdk_is_imported_in_a_thread_that_start_sets_off() -> None:
    program = """
import asyncio, sys
from dvm.models.registry import make_model
model = make_model("flash", "gemini", model="gemini-2.5-flash", api_key="k")
assert not [name for name in sys.modules if name.startswith("google.genai")]
async def main():
    await model.start()
    ticks = 0
    while not model._loading.done():
        await asyncio.sleep(0.001)
        ticks += 1
    await model.close()
    assert "google.genai.types" in sys.modules
    assert ticks > 10, ticks
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-W", "error::RuntimeWarning", "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"api_key": ""}, "GEMINI_API_KEY"),
        ({"api_key": "two words"}, "GEMINI_API_KEY"),
        ({"model": ""}, "must name a model"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"base_url": "http://[::1"}, "base_url"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"stall_seconds": 0}, "stall_seconds"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        GeminiModel("flash", **{"model": "m", "api_key": "k", **wrong})  # type: ignore[arg-type]
    assert "two words" not in str(caught.value)
