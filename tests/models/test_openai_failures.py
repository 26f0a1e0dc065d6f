"""Each way in which an OpenAI-compatible endpoint fails is one ModelError; from a real socket."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from time import time
from typing import Any

import pytest

from dvm.models.base import Limits, ModelError, Prompt, Usage
from dvm.models.openai import OpenAIModel
from tests.models.answers import FOX, ask, refused
from tests.standins.openai_api import OpenAIStandIn

Factory = Callable[..., OpenAIModel]


@pytest.fixture
async def make(endpoint: OpenAIStandIn) -> AsyncIterator[Factory]:
    made = []

    def factory(**settings: Any) -> OpenAIModel:
        settings = {"api_key": endpoint.key, "base_url": endpoint.url, **settings}
        made.append(OpenAIModel("m", model="gpt", **settings))
        return made[-1]

    yield factory
    for model in made:
        await model.close()


def error(**fields: Any) -> dict[str, Any]:
    return {"error": {"message": "says the endpoint", **fields}}


MODERATED = error(code=403, metadata={"reasons": ["violence"]})


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ({"status": 400}, "bad_request"),
        ({"status": 400, "body": error(code="context_length_exceeded")}, "bad_request"),
        ({"status": 400, "body": error(code="content_filter")}, "blocked"),
        ({"status": 400, "body": {"error": "text"}}, "bad_request"),
        ({"status": 400, "body": [1]}, "bad_request"),
        ({"status": 401}, "unauthorized"),
        ({"status": 402}, "unauthorized"),
        ({"status": 403}, "unauthorized"),
        ({"status": 403, "body": MODERATED}, "blocked"),
        ({"status": 404, "body": error(code="model_not_found")}, "not_found"),
        ({"status": 405}, "not_found"),
        ({"status": 408}, "unavailable"),
        ({"status": 413}, "bad_request"),
        ({"status": 422, "body": {"detail": [{"msg": "x"}]}}, "bad_request"),
        ({"status": 429}, "rate_limited"),
        ({"status": 429, "body": error(code="insufficient_quota")}, "unauthorized"),
        ({"status": 500, "body": error(type="invalid_request_error")}, "unavailable"),
        ({"status": 502, "body": "<html>Bad gateway</html>"}, "unavailable"),
        ({"status": 503, "body": "[" * 100_000}, "unavailable"),
        ({"status": 529}, "unavailable"),
        ({"status": 302, "headers": {"location": "/elsewhere"}}, "not_found"),
        ({"fault": "reset"}, "broken_off"),
        ({"text": ""}, "empty"),
        ({"text": "", "finish": "content_filter"}, "blocked"),
        ({"text": "", "delta": {"refusal": "No."}}, "blocked"),
        ({"finish": "tool_calls"}, "broken_off"),
        ({"text": "", "finish": "tool_calls"}, "empty"),
        ({"headers": {"content-encoding": "gzip"}}, "unavailable"),
        ({"raw": b"<html>Welcome!</html>", "content_type": "text/html"}, "unavailable"),
    ],
)
async def test_a_failure_has_its_code(
    endpoint: OpenAIStandIn, make: Factory, script: dict[str, Any], code: str
) -> None:
    endpoint.script(**script)
    assert (await refused(make())).code == code
    assert endpoint.counters["requests"] == 1, "whether to try again is the engine's decision"


async def test_a_web_page_is_told_as_such(endpoint: OpenAIStandIn, make: Factory) -> None:
    endpoint.script(raw=b"<html>Welcome!</html>", content_type="text/html")
    caught = await refused(make())
    assert (caught.code, caught.passing) == ("unavailable", True)
    assert "is a web page, no JSON: does base_url lead to the API" in str(caught)
    endpoint.script(status=500, body="<html>Oh no</html>")
    assert str(await refused(make())) == "unavailable: HTTP 500: it sent a web page instead of JSON"


@pytest.mark.parametrize("fault", ["cut", "reset", "end"])
async def test_a_stream_that_breaks_off_says_so_and_keeps_the_usage(
    endpoint: OpenAIStandIn, make: Factory, fault: str
) -> None:
    endpoint.script(fault=fault, fault_after=3, usage="every")
    caught = await refused(make())
    assert caught.code == "broken_off"
    assert caught.usage in {Usage(input=11, output=4), None if fault == "reset" else Usage(input=11, output=4)}
    endpoint.script(fault=fault, fault_after=3)
    counted = Usage(11, 0, 4, 0, frozenset({"input", "output"}))
    assert (await refused(make())).usage in {counted, None if fault == "reset" else counted}


async def test_an_answer_that_is_whole_stays_whole(endpoint: OpenAIStandIn, make: Factory) -> None:
    pieces = 8  # the role, six of text, and the finish
    endpoint.script(fault="cut", fault_after=pieces)
    answer = await ask(make())
    assert (answer.text, answer.last.finish, answer.last.usage) == (FOX, "stop", None)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"code": 502, "message": "Provider returned error"}, "unavailable"),
        ({"code": 429, "message": "slow down"}, "rate_limited"),
        ({"code": "429", "message": "slow down"}, "rate_limited"),
        ({"code": "rate_limit_exceeded"}, "rate_limited"),
        ({"code": 400, "type": "exceed_context_size_error"}, "bad_request"),
        ({"type": "invalid_request_error"}, "bad_request"),
        ({"type": "server_error", "message": None}, "unavailable"),
        ({"code": True, "metadata": 7}, "unavailable"),
        ("text", "unavailable"),
        ([1], "unavailable"),
    ],
)
async def test_an_error_within_the_stream_keeps_its_code_and_the_usage(
    endpoint: OpenAIStandIn, make: Factory, body: Any, code: str
) -> None:
    endpoint.script(error=body, fault_after=2, usage="every")
    caught = await refused(make())
    assert (caught.code, caught.usage) == (code, Usage(input=11, output=2))


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b'data: {"object": "error", "code": 400, "message": "too long"}\n\n', "bad_request"),
        (b'error: {"code": 500, "message": "x"}\n\n', "unavailable"),
        (b"data: {\n\n", "broken_off"),
        (b"data: []\n\n", "broken_off"),
        (b"data: 7\n\n", "broken_off"),
        (b"data: " + b"[" * 100_000 + b"\n\n", "broken_off"),
        (b"data: " + b"1" * 10_000 + b"\n\n", "broken_off"),
        (b"data: \xff\n\n", "broken_off"),
        (b'data: {"choices": 7, "usage": 7, "model": 7}\n\n', "broken_off"),
        (b'data: {"choices": [7]}\n\n', "broken_off"),
        (b'data: {"choices": [{"delta": {"content": 7}, "finish_reason": 7}]}\n\n', "broken_off"),
        (b'data: {"choices": [{"delta": [], "finish_reason": "stop"}]}\n\n', "empty"),
        (b"data: [DONE]\n\n", "broken_off"),
        (b"", "broken_off"),
        (b"<html>", "broken_off"),
    ],
)
async def test_nonsense_in_the_stream_is_an_error_of_ours(
    endpoint: OpenAIStandIn, make: Factory, raw: bytes, code: str
) -> None:
    endpoint.script(raw=raw)
    assert (await refused(make())).code == code


async def test_an_answer_without_end_is_not_read(endpoint: OpenAIStandIn, make: Factory) -> None:
    endpoint.script(text="x" * 100_000)
    caught = await refused(make(max_response_bytes=10_000, max_output_tokens=100_000), max_output_tokens=100_000)
    assert (caught.code, "too large" in str(caught)) == ("broken_off", True)


async def test_silence_is_a_stall(endpoint: OpenAIStandIn, make: Factory) -> None:
    endpoint.script(fault="stall", keep_alives=True)
    assert (await refused(make(first_chunk_seconds=0.1))).code == "stalled", "comments are no answer"
    await endpoint.until("disconnects")
    endpoint.script(fault="stall", fault_after=3, usage="every")
    caught = await refused(make(stall_seconds=0.1))
    assert (caught.code, caught.usage) == ("stalled", Usage(input=11, output=4))
    await endpoint.until("disconnects", 2)


async def test_a_refused_connection_is_unavailable(endpoint: OpenAIStandIn, make: Factory) -> None:
    model = make()
    await endpoint.close()
    assert (await refused(model)).code == "unavailable"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "99999999"}, 86_400),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "7", "x-ratelimit-reset-requests": "1h"}, 7),
        ({"x-ratelimit-reset-requests": "6m0.5s"}, 360.5),
        ({"x-ratelimit-reset-tokens": "20ms", "x-ratelimit-reset-requests": "1h2s"}, 3602),
        ({"x-ratelimit-reset-tokens": "20s", "x-ratelimit-remaining-tokens": "5"}, None),
        ({"x-ratelimit-reset": "12"}, 12),
        ({"x-ratelimit-reset-requests": "-1s"}, None),
        ({"x-ratelimit-reset-requests": "1s" * 1000}, None),
        ({"x-ratelimit-reset-requests": "999999999h"}, 86_400),
        ({}, None),
    ],
)
async def test_a_limit_says_how_long_to_wait(
    endpoint: OpenAIStandIn, make: Factory, headers: dict[str, str], seconds: float | None
) -> None:
    endpoint.script(status=429, headers=headers)
    assert (await refused(make())).retry_after == seconds


async def test_a_wait_may_be_a_date(endpoint: OpenAIStandIn, make: Factory) -> None:
    for headers in (
        {"retry-after": formatdate(time() + 1000, usegmt=True)},
        {"x-ratelimit-reset": str(int((time() + 1000) * 1000))},
    ):
        endpoint.script(status=429, headers=headers)
        wait = (await refused(make())).retry_after
        assert wait is not None
        assert 0 < wait <= 1000


async def test_the_key_is_shown_nowhere(endpoint: OpenAIStandIn, caplog: pytest.LogCaptureFixture) -> None:
    wrong = OpenAIModel("m", model="gpt", api_key="s3cret-key", base_url=endpoint.url)
    with caplog.at_level("DEBUG"):
        caught = await refused(wrong)
    assert caught.code == "unauthorized"
    assert "Incorrect API key provided: Bearer [key]" in str(caught)
    shown = "".join(traceback.format_exception(caught)) + repr(caught) + repr(wrong) + repr(vars(caught)) + caplog.text
    assert "s3cret-key" not in shown
    endpoint.key = "s3cret-key"
    endpoint.script(finish="s3cret-key", text="", usage_raw={"prompt_tokens": "s3cret-key"})
    with caplog.at_level("DEBUG"):
        assert "s3cret-key" not in str(await refused(wrong)) + caplog.text
    endpoint.script(error={"message": "s3cret-key", "code": 401})
    assert "s3cret-key" not in str(await refused(wrong))
    await wrong.close()


async def test_closing_ends_what_waits_for_its_first_piece(endpoint: OpenAIStandIn, make: Factory) -> None:
    endpoint.script(fault="stall")
    model = make()
    waiting = asyncio.create_task(anext(model.stream(Prompt.of(FOX), Limits(10))))
    await endpoint.until("stall")
    await model.close()
    with pytest.raises(ModelError, match="closed"):
        await waiting
