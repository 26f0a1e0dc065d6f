"""Each way in which Gemini fails is one ModelError; by the real SDK, from a real socket."""

from __future__ import annotations

import asyncio
import logging
import traceback
from email.utils import formatdate
from time import time
from typing import Any

import pytest

from dvm.models.base import Limits, ModelError, Prompt, Usage
from tests.models.answers import FOX, ask, refused
from tests.models.conftest import GeminiFactory
from tests.standins.gemini import GeminiStandIn
from tests.standins.gemini_scripts import RETRY_INFO, Script


def reason(name: str) -> list[dict[str, str]]:
    return [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": name}]


@pytest.mark.parametrize(
    ("script", "code", "passing"),
    [
        ({"status": 400}, "bad_request", False),
        ({"status": 400, "error_details": reason("API_KEY_INVALID")}, "unauthorized", False),
        ({"status": 400, "error_status": "FAILED_PRECONDITION"}, "unauthorized", False),
        ({"status": 401}, "unauthorized", False),
        ({"status": 403}, "unauthorized", False),
        ({"status": 404}, "not_found", False),
        ({"status": 413}, "bad_request", False),
        ({"status": 429}, "rate_limited", True),
        ({"status": 500}, "unavailable", True),
        ({"status": 502, "raw_body": "<html>Bad gateway</html>"}, "unavailable", True),
        ({"status": 503}, "unavailable", True),
        ({"status": 504}, "unavailable", True),
        ({"status": 302, "headers": {"location": "/elsewhere"}}, "not_found", False),
        ({"status": 500, "raw_body": "\x00" * 100}, "unavailable", True),
        ({"status": 400, "raw_body": '{"error": "text"}'}, "bad_request", False),
        ({"status": 400, "raw_body": "[1, 2]"}, "bad_request", False),
        ({"status": 503, "raw_body": '{"error": {"details": [7, null, {"retryDelay": []}]}}'}, "unavailable", True),
        ({"fault": "reset"}, "unavailable", True),
        ({"block_reason": "PROHIBITED_CONTENT"}, "blocked", False),
        ({"text": "", "finish": "SAFETY"}, "blocked", False),
        ({"text": "", "finish": "RECITATION"}, "blocked", False),
        ({"text": "", "finish": "PUP_LIMITED_DISABLED"}, "unauthorized", False),
        ({"text": ""}, "empty", True),
        ({"text": "", "finish": "OTHER"}, "empty", True),
        ({"text": "", "finish": "A_REASON_OF_TOMORROW"}, "empty", True),
        ({"finish": "MALFORMED_RESPONSE"}, "broken_off", True),
        ({"headers": {"content-encoding": "gzip"}}, "unavailable", True),
    ],
)
async def test_a_failure_has_its_code(
    standin: GeminiStandIn, flash: GeminiFactory, script: dict[str, Any], code: str, passing: bool
) -> None:
    standin.script("*", **script)
    error = await refused(flash())
    assert (error.code, error.passing) == (code, passing)
    assert standin.counters["requests"] == 1, "whether to try again is not the SDK's decision"


@pytest.mark.parametrize("fault", ["reset", "close", "cut", "garbage", "end"])
async def test_a_stream_that_breaks_off_says_so_and_keeps_the_usage(
    standin: GeminiStandIn, flash: GeminiFactory, fault: Any
) -> None:
    standin.script("*", Script(fault=fault, fault_after=1, thoughts=5))
    error = await refused(flash())
    assert (error.code, error.usage) == ("broken_off", Usage(input=11, output=4, thoughts=5))


@pytest.mark.parametrize("fault", ["close", "cut", "garbage", "end"])
async def test_a_stream_that_breaks_off_at_once_has_no_usage(
    standin: GeminiStandIn, flash: GeminiFactory, fault: Any
) -> None:
    standin.script("*", Script(fault=fault))
    error = await refused(flash())
    assert (error.code, error.usage) == ("broken_off", None)


@pytest.mark.parametrize(("status", "code"), [(503, "unavailable"), (429, "rate_limited"), (400, "bad_request")])
async def test_an_error_within_the_stream_keeps_its_code_and_the_usage(
    standin: GeminiStandIn, flash: GeminiFactory, status: int, code: str
) -> None:
    standin.script("*", fault="error", status=status, fault_after=2)
    error = await refused(flash())
    assert (error.code, error.usage) == (code, Usage(input=11, output=8))


@pytest.mark.parametrize(
    "line",
    [
        '{"error": "text"}',
        '{"error": {}}',
        '{"error": null}',
        "[]",
        "null",
        "7",
        '{"candidates": 7}',
        '{"candidates": [{"content": {"parts": [{"text": 7}]}}]}',
        '{"candidates": [{"content": {"parts": [{"inlineData": {"data": "?"}}]}}]}',
        '{"usageMetadata": {"promptTokenCount": "many"}}',
        "[" * 100_000,
        "\x00",
        '{"candidates": [null]}',
    ],
)
async def test_nonsense_in_the_stream_is_an_error_of_ours(
    standin: GeminiStandIn, flash: GeminiFactory, line: str
) -> None:
    standin.script("*", fault="raw", raw_body=line)
    assert (await refused(flash())).code in {"broken_off", "unavailable"}


async def test_silence_before_the_first_chunk_is_a_stall(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    standin.script("*", fault="stall")
    error = await refused(flash(first_chunk_seconds=0.1))
    assert (error.code, error.usage) == ("stalled", None)
    await standin.until("disconnects")


async def test_silence_in_mid_stream_is_a_stall(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    standin.script("*", fault="stall", fault_after=1)
    error = await refused(flash(stall_seconds=0.1))
    assert (error.code, error.usage) == ("stalled", Usage(input=11, output=4))
    await standin.until("disconnects")


async def test_a_long_answer_is_no_stall_as_long_as_something_comes(
    standin: GeminiStandIn, flash: GeminiFactory
) -> None:
    standin.script("*", text="word " * 40, chunk_chars=5, chunk_delay=0.02)
    assert (await ask(flash(stall_seconds=0.5, first_chunk_seconds=0.5))).last.finish == "stop"


async def test_a_refused_connection_is_unavailable(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    model = flash()
    await ask(model)
    await standin.close()
    assert (await refused(model)).code == "unavailable"
    with pytest.raises(ModelError, match="unavailable"):
        await model.count_tokens(Prompt.of(FOX))
    await standin.start()
    assert (await ask(model)).text == FOX


async def test_a_wrong_key_is_unauthorized(flash: GeminiFactory) -> None:
    assert (await refused(flash(api_key="wrong"))).code == "unauthorized"


async def test_an_unknown_model_is_not_found(flash: GeminiFactory) -> None:
    assert (await refused(flash("palm-2"))).code == "not_found"


async def test_what_the_api_refuses_is_a_bad_request(flash: GeminiFactory) -> None:
    for limits in ({"temperature": 9.0}, {"max_output_tokens": 0}, {"stop": tuple("abcdefg")}):
        assert (await refused(flash(), **limits)).code == "bad_request"
    assert (await refused(flash(), Prompt(()))).code == "bad_request"


async def test_a_prompt_beyond_the_context_is_a_bad_request(flash: GeminiFactory, standin: GeminiStandIn) -> None:
    standin.input_limit = 10
    error = await refused(flash())
    assert error.code == "bad_request"
    assert "exceeds the maximum number of tokens" in str(error)


@pytest.mark.parametrize(
    ("script", "least", "most"),
    [
        ({"error_details": [RETRY_INFO]}, 3.5, 3.5),
        ({"error_details": [{"retryDelay": "3s"}]}, 3, 3),
        ({"error_details": [{"@type": "x"}, RETRY_INFO], "headers": {"retry-after": "9"}}, 3.5, 3.5),
        ({"headers": {"retry-after": "7"}}, 7, 7),
        ({"headers": {"retry-after": formatdate(time() + 3600, usegmt=True)}}, 3000, 3600),
        ({"headers": {"retry-after": formatdate(time() - 3600, usegmt=True)}}, 0, 0),
        ({"error_details": [{"retryDelay": "999999999s"}]}, 86_400, 86_400),
    ],
)
async def test_how_long_to_wait_is_passed_on(
    standin: GeminiStandIn, flash: GeminiFactory, script: dict[str, Any], least: float, most: float
) -> None:
    standin.script("*", status=429, **script)
    retry_after = (await refused(flash())).retry_after
    assert retry_after is not None
    assert least <= retry_after <= most


@pytest.mark.parametrize(
    "script",
    [
        {},
        {"error_details": [{"retryDelay": "-3s"}]},
        {"error_details": [{"retryDelay": "1e9s"}]},
        {"error_details": [{"retryDelay": 3}]},
        {"headers": {"retry-after": "soon"}},
        {"headers": {"retry-after": "-1"}},
    ],
)
async def test_a_wait_that_makes_no_sense_is_none(
    standin: GeminiStandIn, flash: GeminiFactory, script: dict[str, Any]
) -> None:
    standin.script("*", status=429, **script)
    assert (await refused(flash())).retry_after is None


async def test_text_and_then_a_filter_is_an_answer_that_ends_for_safety(
    standin: GeminiStandIn, flash: GeminiFactory
) -> None:
    standin.script("*", text="Well, ", finish="SAFETY")
    answer = await ask(flash())
    assert (answer.text, answer.last.finish, answer.usage) == ("Well, ", "safety", Usage(input=11, output=2))


@pytest.mark.parametrize(
    "script", [{"block_reason": "SAFETY"}, {"text": "", "finish": "SAFETY", "thoughts": 9}, {"text": ""}]
)
async def test_money_12_the_usage_of_a_blocked_or_empty_answer_is_kept(
    standin: GeminiStandIn, flash: GeminiFactory, script: dict[str, Any]
) -> None:
    standin.script("*", **script)
    usage = (await refused(flash())).usage
    assert usage is not None
    assert (usage.input, usage.thoughts) == (11, script.get("thoughts", 0))
    assert not usage.estimated


async def test_an_answer_out_of_proportion_is_refused(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    standin.script("*", text="x" * 100_000, chunk_chars=1000)
    error = await refused(flash(max_response_bytes=20_000), max_output_tokens=100_000)
    assert (error.code, str(error)) == ("unavailable", "unavailable: the answer is too large")
    standin.script("*", status=500, raw_body="x" * 100_000)
    assert (await refused(flash(max_response_bytes=20_000))).code == "unavailable"


async def test_a_redirect_does_not_carry_the_key_away(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    async with GeminiStandIn() as elsewhere:
        standin.script("*", status=307, headers={"location": f"{elsewhere.url}/v1beta/models/gemini-x"})
        error = await refused(flash())
        assert error.code == "not_found"
        assert "base_url" in str(error)
        assert not elsewhere.requests


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ({"status": 400}, "bad_request"),
        ({"status": 429, "error_details": [RETRY_INFO]}, "rate_limited"),
        ({"status": 503}, "unavailable"),
        ({"count": None, "fault": "reset"}, "unavailable"),
        ({"count": 0}, "unavailable"),
        ({"count": -5}, "unavailable"),
        ({"count": 10**12}, "unavailable"),
        ({"count": "many"}, "broken_off"),
        ({"count": [1]}, "broken_off"),
        ({"delay": 60}, "stalled"),
    ],
)
async def test_a_count_that_fails_is_an_error(
    standin: GeminiStandIn, flash: GeminiFactory, script: dict[str, Any], code: str
) -> None:
    standin.script("*", endpoint="count", **script)
    with pytest.raises(ModelError) as caught:
        await flash(count_seconds=0.2).count_tokens(Prompt.of(FOX))
    assert caught.value.code == code


async def test_no_secret_is_in_any_error_log_or_repr(
    standin: GeminiStandIn, flash: GeminiFactory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    standin.key = secret = "AIzaSy-very+secret/key"
    said = []
    for script in (
        {
            "status": 400,
            "error_message": f"the key {secret} is wrong, {secret.replace('+', '%2B').replace('/', '%2F')}",
        },
        {"status": 500, "raw_body": f"<html>{secret}</html>"},
        {"status": 503, "error_status": secret},
        {"fault": "error", "status": 503, "error_message": secret},
        {"fault": "raw", "raw_body": f'{{"x": "{secret}'},
        {"fault": "reset"},
        {"fault": "close"},
        {"block_reason": secret},
        {"text": "", "finish": secret},
        {"usage": "never"},
    ):
        standin.script("*", **script)
        model = flash()
        said.append(repr(model))
        try:
            await ask(model)
        except ModelError as error:
            said.append("".join(traceback.format_exception(error)))
            said.append(repr(error))
    await standin.close()
    said.append("".join(traceback.format_exception(await refused(flash()))))
    said.append(caplog.text)
    for text in said:
        assert "very+secret" not in text
        assert "very%2Bsecret" not in text


async def test_cancelled_requests_leave_no_connection_behind(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    standin.script("*", fault="stall", fault_after=1)
    model = flash()
    streams = [model.stream(Prompt.of(FOX), Limits(100)) for _ in range(20)]
    await asyncio.gather(*(anext(stream) for stream in streams))
    assert len(standin.connections) == 20
    await asyncio.gather(*(stream.aclose() for stream in streams))
    await standin.until("disconnects", 20)
    assert not standin.connections
    standin.forget()
    assert (await ask(model)).text == FOX
