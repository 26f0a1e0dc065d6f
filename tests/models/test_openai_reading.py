"""What comes from an endpoint is hostile until it is read: events in any pieces, usage in any shape."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dvm.models.base import Usage
from dvm.models.openai_errors import to_model_error, within_stream
from dvm.models.openai_usage import ABSURD, Contradiction, to_usage
from dvm.models.openai_wire import Events, Rejected

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
COUNTS = st.integers(0, 50) | st.integers() | st.none() | JSON


def read(stream: bytes, cuts: list[int]) -> list[str]:
    """The events of a stream that comes in pieces."""
    events, found, begin = Events(), [], 0
    for cut in [*sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]:
        found += events.feed(stream[begin:cut])
        begin = cut
    return found + events.end()


@given(
    texts=st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=20), max_size=5),
    newline=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    cuts=st.lists(st.integers(0, 10_000), max_size=20),
)
def test_events_are_the_same_however_they_are_cut(texts: list[str], newline: bytes, cuts: list[int]) -> None:
    stream = b"".join(
        b": comment" + newline + b"event: x" + newline + b"data: " + text.encode() + newline * 2 for text in texts
    )
    assert read(stream, cuts) == texts


@given(stream=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=10))
@example(stream=b"data: a\r\ndata: b\r\n\r", cuts=[8, 9, 10, 11, 12])
@example(stream=b"\xef\xbb\xbfdata:a\n\n", cuts=[1, 2])
def test_any_bytes_give_the_same_events_in_any_pieces(stream: bytes, cuts: list[int]) -> None:
    assert read(stream, cuts) == read(stream, []) == read(stream, list(range(len(stream))))


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b"data\n\n", [""]),
        (b"data:  a\n\n", [" a"]),
        (b"event: x\n\n", []),
        (b"dat: a\n\n: data: b\n\n", []),
        (b"data: a", ["a"]),
        (b"\n\n\ndata: a\n\n\n\n", ["a"]),
        (b"data: \xff\n\n", ["\ufffd"]),
    ],
)
def test_events_as_the_standard_has_them(stream: bytes, events: list[str]) -> None:
    assert read(stream, []) == events


def usage(prompt: Any, completion: Any, total: Any = None, cached: Any = None, reasoning: Any = None) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
        "prompt_tokens_details": None if cached is None else {"cached_tokens": cached},
        "completion_tokens_details": None if reasoning is None else {"reasoning_tokens": reasoning},
    }


@pytest.mark.parametrize(
    ("raw", "is_"),
    [
        (None, None),
        ({}, None),
        ({"cost": 1}, None),
        (usage(10, 5), Usage(10, 0, 5)),
        (usage(10, 5, 15, 4, 3), Usage(6, 4, 2, 3)),
        (usage(10, 5, 15, 10, 5), Usage(0, 10, 0, 5)),
        (usage(0, 0, 0, 0, 0), Usage()),
        # The thoughts stand beside the completion: the total says so.
        (usage(10, 5, 35, 0, 20), Usage(10, 0, 5, 20)),
        (usage(10, 5, 18, 0, 3), Usage(10, 0, 5, 3)),
        (usage(10, 5, 35), Usage(10, 0, 5, 20, frozenset({"thoughts"}))),
        (usage(10, 5, 35, 0, 15), None),
        # The cached tokens stand beside the prompt: the total says that too.
        (usage(10, 5, 55, 40), Usage(10, 40, 5)),
        (usage(10, 5, 55, 40, 3), Usage(10, 40, 2, 3)),
        (usage(10, 5, 58, 40, 3), Usage(10, 40, 5, 3)),
        (usage(10, 5, 15, 4) | {"prompt_tokens_details": None, "prompt_cache_hit_tokens": 4}, Usage(6, 4, 5)),
        (usage(10, 5, 15) | {"cached_tokens": 4}, Usage(6, 4, 5)),
        # What is absent follows from the total, or is our own count.
        (usage(None, 5, 15), Usage(10, 0, 5, 0, frozenset({"input"}))),
        (usage(10, None, 15), Usage(10, 0, 5, 0, frozenset({"output"}))),
        (usage(10, None), Usage(10, 0, 30, 0, frozenset({"output"}))),
        (usage(10, None, reasoning=8), Usage(10, 0, 22, 8, frozenset({"output"}))),
        (usage(10, None, reasoning=50), Usage(10, 0, 20, 50, frozenset({"output"}))),
        (usage(None, 5), Usage(100, 0, 5, 0, frozenset({"input"}))),
        (usage(None, 5, cached=4), Usage(96, 4, 5, 0, frozenset({"input"}))),
    ],
)
def test_a_usage_becomes_disjoint_classes(raw: Any, is_: Usage | None) -> None:
    assert read_usage(raw) == is_


def read_usage(raw: Any) -> Usage | None:
    """Of a prompt that we count as 100 tokens, a text as 20, and thoughts as 10; None for a contradiction too."""
    try:
        return to_usage(raw, own_input=100, own_output=20, own_thoughts=10)
    except Contradiction:
        return None


@pytest.mark.parametrize(
    "raw",
    [
        7,
        "text",
        [1],
        usage(10, 5, 15, 11),
        usage(10, 5, 15, 0, 6),
        usage(10, 5, None, 0, 6),
        usage(10, 5, 14),
        usage(10, 5, 17, 0, 3),
        usage(-1, 5),
        usage(10, -5),
        usage(10, 5, 15, -1),
        usage(True, 5),
        usage(10.0, 5),
        usage("10", 5),
        usage(10, 5, "15"),
        usage(ABSURD + 1, 5),
        usage(10, None, 5),
        usage(10, 5, 16, 0, 3),
        {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": 7},
    ],
)
def test_a_usage_that_contradicts_itself_is_none(raw: Any) -> None:
    with pytest.raises(Contradiction):
        to_usage(raw)


@given(prompt=COUNTS, completion=COUNTS, total=COUNTS, cached=COUNTS, reasoning=COUNTS)
def test_no_usage_bills_more_than_was_reported(
    prompt: Any, completion: Any, total: Any, cached: Any, reasoning: Any
) -> None:
    raw = usage(prompt, completion, total, cached, reasoning)
    if (found := read_usage(raw)) is None:
        return
    assert min(found.input, found.cached, found.output, found.thoughts) >= 0
    if total is None and None in (prompt, completion):
        assert found.estimated
    else:
        assert found.total == (total if total is not None else prompt + completion)
    assert found.total <= 2 * ABSURD


@given(raw=JSON)
def test_any_usage_is_read_or_refused(raw: Any) -> None:
    with contextlib.suppress(Contradiction):
        to_usage(raw)


FIELDS = st.dictionaries(
    st.sampled_from(["message", "type", "code", "metadata", "status", "detail", "error", "object"]), JSON
)


@given(body=JSON | FIELDS | st.fixed_dictionaries({"error": JSON | FIELDS}), status=st.integers(100, 599))
@example(body={"error": {"code": "400", "message": 7}}, status=500)
def test_any_error_is_one_of_ours(body: Any, status: int) -> None:
    rejected = Rejected(status, httpx.Headers({"x-ratelimit-reset-tokens": json.dumps(body)[:90]}), body)
    error = to_model_error(rejected, key="s3cret", answered=False, usage=None)
    assert len(str(error)) < 400
    assert error.retry_after is None or 0 <= error.retry_after <= 86_400
    within_stream(body, key="s3cret", usage=None)
