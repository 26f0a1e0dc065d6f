"""What is asked of an OpenAI-compatible endpoint, and how its answers are read."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dvm.models.base import Blob, Limits, Prompt, Turn, Usage
from dvm.models.openai import OpenAIModel
from tests.models.answers import FOX, ask, refused
from tests.standins.openai_api import OpenAIStandIn


@pytest.fixture
async def model(endpoint: OpenAIStandIn) -> AsyncIterator[OpenAIModel]:
    made = OpenAIModel("m", model="gpt", api_key=endpoint.key, base_url=endpoint.url)
    yield made
    await made.close()


async def test_the_request_has_everything(endpoint: OpenAIStandIn, model: OpenAIModel) -> None:
    turns = (
        Turn("user", ("Hello", "there")),
        Turn("model", ("Hi",)),
        Turn("user", ("What is this?", Blob("image/png", b"\x89P"), Blob("audio/mpeg", b"m"))),
    )
    settings = {"temperature": 0.0, "top_p": 0.5, "top_k": 3, "frequency_penalty": 1.5, "stop": ("END", "")}
    await ask(model, Prompt(turns, system="Be terse."), max_output_tokens=50, **settings)
    assert endpoint.requests[0] == {
        "model": "gpt",
        "messages": [
            {"role": "system", "content": "Be terse."},
            {"role": "user", "content": "Hello\nthere"},
            {"role": "assistant", "content": "Hi"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVA="}},
                    {"type": "input_audio", "input_audio": {"data": "bQ==", "format": "mp3"}},
                ],
            },
        ],
        "max_tokens": 50,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 3,
        "frequency_penalty": 1.5,
        "stop": ["END"],
    }
    assert endpoint.headers[0]["accept-encoding"] == "identity"


async def test_a_document_is_a_file(endpoint: OpenAIStandIn, model: OpenAIModel) -> None:
    await ask(model, Prompt.of("Sum up.", Blob("application/pdf; x=y", b"%PDF")))
    part = endpoint.requests[0]["messages"][0]["content"][1]
    assert part == {
        "type": "file",
        "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
    }


async def test_nothing_is_asked_for_that_was_not_said(endpoint: OpenAIStandIn, model: OpenAIModel) -> None:
    await ask(model, max_output_tokens=10**9)
    assert set(endpoint.requests[0]) == {"model", "messages", "max_tokens", "stream", "stream_options"}
    assert endpoint.requests[0]["max_tokens"] == model.max_output_tokens == 8192


async def test_what_cannot_be_asked_is_a_bad_request_and_asks_nobody(
    endpoint: OpenAIStandIn, model: OpenAIModel
) -> None:
    for prompt, limits in (
        (Prompt(()), {}),
        (Prompt.of(""), {}),
        (Prompt.of("\ud800"), {}),
        (Prompt.of("x", Blob("video/mp4", b"x")), {}),
        (Prompt((Turn("model", (Blob("image/png", b"x"),)), Turn("user", ("x",)))), {}),
        (Prompt.of("x"), {"temperature": float("nan")}),
        (Prompt.of("x"), {"top_p": float("inf")}),
        (Prompt.of("x"), {"output": "image"}),
    ):
        assert (await refused(model, prompt, **limits)).code == "bad_request"
    assert not endpoint.requests


async def test_an_endpoint_that_wants_max_completion_tokens_gets_them_from_then_on(
    endpoint: OpenAIStandIn, model: OpenAIModel
) -> None:
    endpoint.strict = {"max_completion_tokens", "stream_options"}
    assert (await ask(model, max_output_tokens=5)).last.finish == "length"
    assert endpoint.counters["requests"] == 3, "it has taught us two things"
    await ask(model)
    assert endpoint.counters["requests"] == 4
    assert endpoint.requests[-1].keys() == {"model", "messages", "max_completion_tokens", "stream"}


async def test_openai_itself_is_asked_in_its_own_way() -> None:
    model = OpenAIModel("m", model="gpt", api_key="sk-1")
    assert str(model._url) == "https://api.openai.com/v1/chat/completions"
    assert model._dialect.limit == "max_completion_tokens"


@pytest.mark.parametrize(
    ("base_url", "asks"),
    [
        ("http://localhost:11434/v1/", "http://localhost:11434/v1/chat/completions"),
        ("https://a.example/d?api-version=1", "https://a.example/d/chat/completions?api-version=1"),
    ],
)
def test_where_it_asks(base_url: str, asks: str) -> None:
    assert str(OpenAIModel("m", model="x", base_url=base_url)._url) == asks


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"api_key": "with space s3cret"},
        {"api_key": "s3cret\n"},
        {"base_url": "ftp://s3cret.example"},
        {"base_url": "nonsense"},
        {"base_url": "http://[::s3cret"},
        {"base_url": "https://user:s3cret@x.example"},
        {"base_url": "http://x", "model": ""},
        {"base_url": "http://x", "max_output_tokens": 0},
        {"base_url": "http://x", "stall_seconds": 0},
        {"base_url": "http://x", "first_chunk_seconds": float("nan")},
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="model m: ") as caught:
        OpenAIModel("m", **{"model": "x", **settings})
    assert "s3cret" not in str(caught.value)


async def test_a_server_without_a_key_is_asked_without_one() -> None:
    async with OpenAIStandIn(key="") as server:
        model = OpenAIModel("m", model="llama", base_url=server.url)
        assert (await ask(model)).text == FOX
        await model.close()


async def test_its_usage_is_in_disjoint_classes(endpoint: OpenAIStandIn, model: OpenAIModel) -> None:
    endpoint.script(thoughts=40, cached=6)
    answer = await ask(model)
    assert (answer.text, answer.last.version) == (FOX, "gpt-2026")
    assert answer.usage == Usage(input=5, cached=6, output=11, thoughts=40)
    assert all(chunk.usage is None for chunk in answer.chunks[:-1]), "it was not known before"


async def test_a_usage_that_is_absent_is_none(endpoint: OpenAIStandIn, model: OpenAIModel) -> None:
    endpoint.script(usage="never")
    answer = await ask(model)
    assert (answer.text, answer.last.usage, answer.last.finish) == (FOX, None, "stop")


async def test_what_comes_after_the_last_report_is_our_own_count(endpoint: OpenAIStandIn, model: OpenAIModel) -> None:
    said = {"choices": [{"delta": {"content": "12345678"}}]}
    pieces = [
        {"usage": {"prompt_tokens": 9, "completion_tokens": 30}, **said},
        {"choices": [{"delta": {"reasoning": "1234"}}]},
        said,
        {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": "many"}},
    ]
    endpoint.script(pieces=pieces)
    assert (await ask(model)).usage == Usage(9, 0, 32, 1, frozenset({"output", "thoughts"}))


async def test_thoughts_that_only_were_shown_are_counted(endpoint: OpenAIStandIn, model: OpenAIModel) -> None:
    endpoint.script(usage="never", text="12345678", delta={"reasoning_content": "123456789"})
    ours = frozenset({"input", "output", "thoughts"})
    assert (await ask(model)).usage == Usage(11, 0, 2, 3, ours)


async def test_a_true_zero_stays(endpoint: OpenAIStandIn, model: OpenAIModel) -> None:
    endpoint.script(usage_raw={"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0})
    assert (await ask(model)).usage == Usage()


async def test_a_usage_that_contradicts_itself_is_dropped_and_told(
    endpoint: OpenAIStandIn, model: OpenAIModel, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.script(cached=1000)
    with caplog.at_level(logging.WARNING):
        assert (await ask(model)).last.usage is None
    assert "model m: the reported usage is dropped: 1000 tokens of 11 are cached" in caplog.text


async def test_thoughts_that_meet_the_limit_are_billed(endpoint: OpenAIStandIn, model: OpenAIModel) -> None:
    endpoint.script(thoughts=100)
    answer = await ask(model, max_output_tokens=20)
    assert (answer.text, answer.last.finish, answer.usage.thoughts) == ("", "length", 20)


@pytest.mark.parametrize(
    ("script", "finish"),
    [
        ({"finish": "content_filter"}, "safety"),
        ({"finish": "eos_token"}, "stop"),
        ({"delta": {"refusal": "I will not."}}, "safety"),
        ({"plain": True}, "stop"),
        ({"keep_alives": True}, "stop"),
        ({"done": False}, "stop"),
        ({"content_type": "Text/Event-Stream; charset=utf-8"}, "stop"),
        ({"delta": {"reasoning_content": "Hm.", "content": None}}, "stop"),
        ({"delta": {"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": ""}, 7]}}, "stop"),
    ],
)
async def test_the_ways_in_which_servers_answer(
    endpoint: OpenAIStandIn, model: OpenAIModel, script: dict[str, Any], finish: str
) -> None:
    endpoint.script(**script)
    answer = await ask(model)
    assert (answer.text, answer.last.finish) == (FOX, finish)
    assert answer.usage == Usage(input=11, output=11)


async def test_an_answer_in_parts_is_put_together(endpoint: OpenAIStandIn, model: OpenAIModel) -> None:
    endpoint.script(text="", delta={"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "\ud83e"}]})
    assert (await ask(model)).text == "a\ufffd", "half a surrogate pair has no place in UTF-8"


async def test_no_connection_is_used_twice(model: OpenAIModel) -> None:
    for _ in range(2):
        await ask(model)
        pool = model._connected()._client._transport._pool  # type: ignore[attr-defined]
        assert not pool.connections, "the server may close it just as it is used again"


async def test_walking_away_ends_the_request(endpoint: OpenAIStandIn, model: OpenAIModel) -> None:
    endpoint.script(fault="stall", fault_after=2)
    stream = model.stream(Prompt.of(FOX), Limits(100))
    await anext(stream)
    await stream.aclose()
    await endpoint.until("disconnects")
