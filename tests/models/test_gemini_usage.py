"""The mapping of usage reports, for any report."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvm.models.base import Usage
from dvm.models.gemini_usage import ABSURD, Report, to_usage

COUNTS = st.integers(0, 2_000_000)
MAYBE = st.none() | COUNTS
ANYTHING = (
    st.none()
    | st.integers()
    | st.integers(-5, 50)
    | st.booleans()
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.integers(), max_size=2)
)


def used(own_input: int = 100, own_output: int = 10, **report: object) -> Usage:
    return to_usage(Report(**report), own_input=own_input, own_output=own_output)[0]


@given(st.builds(Report, *[ANYTHING] * 6), st.integers(0, 10**7), st.integers(0, 10**7))
def test_any_report_is_mapped_within_bounds(report: Report, own_input: int, own_output: int) -> None:
    usage, sound = to_usage(report, own_input=own_input, own_output=own_output)
    for count in (usage.input, usage.cached, usage.output, usage.thoughts):
        assert type(count) is int
        assert 0 <= count <= 2 * ABSURD
    assert usage.estimated <= {"input", "cached", "output", "thoughts"}
    assert sound is not bool(usage.estimated)


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.data())
def test_money_10_a_report_that_adds_up_is_mapped_exactly(
    prompt: int, candidates: int, thoughts: int, tool_use: int, data: st.DataObject
) -> None:
    cached = data.draw(st.integers(0, prompt))
    total = prompt + candidates + thoughts + tool_use
    report = Report(prompt, cached, candidates, thoughts, tool_use, total)
    usage, sound = to_usage(report, own_input=7, own_output=7)
    assert sound
    assert usage == Usage(prompt + tool_use - cached, cached, candidates, thoughts)
    assert usage.total == total


@given(MAYBE, MAYBE, MAYBE, MAYBE, MAYBE, MAYBE, st.integers(0, 10**6), st.integers(0, 10**6))
def test_money_11_a_reported_zero_is_never_replaced(
    prompt: int | None,
    cached: int | None,
    candidates: int | None,
    thoughts: int | None,
    tool_use: int | None,
    total: int | None,
    own_input: int,
    own_output: int,
) -> None:
    def mapped(**zero: int) -> Usage:
        counts = {
            "prompt": prompt,
            "cached": cached,
            "candidates": candidates,
            "thoughts": thoughts,
            "tool_use": tool_use,
            "total": total,
        }
        return used(own_input, own_output, **{**counts, **zero})

    assert mapped(candidates=0).output == 0
    assert mapped(thoughts=0).thoughts == 0
    assert mapped(cached=0).cached == 0
    assert mapped(prompt=0).input + mapped(prompt=0).cached == (tool_use or 0) or mapped(prompt=0).estimated


@given(COUNTS, COUNTS, COUNTS, COUNTS, MAYBE)
def test_money_10_what_is_not_as_reported_is_marked(
    prompt: int, candidates: int, thoughts: int, tool_use: int, total: int | None
) -> None:
    report = Report(prompt, 0, candidates, thoughts, tool_use, total)
    usage, _ = to_usage(report, own_input=7, own_output=7)
    changed = {
        name
        for name, mine, theirs in (
            ("input", usage.input, prompt + tool_use),
            ("output", usage.output, candidates),
            ("thoughts", usage.thoughts, thoughts),
        )
        if mine != theirs
    }
    assert changed <= usage.estimated
    if total is not None and total != prompt + candidates + thoughts + tool_use:
        assert usage.estimated


@given(COUNTS, COUNTS, COUNTS)
def test_a_class_left_out_is_the_rest_of_the_total(prompt: int, candidates: int, thoughts: int) -> None:
    total = prompt + candidates + thoughts
    usage = used(prompt=prompt, candidates=candidates, total=total)
    assert (usage.input, usage.output, usage.thoughts) == (prompt, candidates, thoughts)
    usage = used(prompt=prompt, thoughts=thoughts, total=total)
    assert usage.output == (candidates or 10)
    usage = used(candidates=candidates, thoughts=thoughts, total=total)
    assert usage.input == (prompt or 100)


def test_zeros_that_protocol_buffers_leave_out_are_zeros() -> None:
    assert to_usage(Report(prompt=5, total=5), own_input=9, own_output=0) == (Usage(input=5), True)


def test_an_answer_that_no_report_counts_yet_is_counted_by_us() -> None:
    # Some models count the answer only in the stream's last report.
    usage = used(prompt=5, total=5, own_output=3)
    assert usage == Usage(input=5, output=3, estimated=frozenset({"output"}))


def test_a_rest_that_may_be_answer_or_thoughts_is_divided_by_our_count_of_the_answer() -> None:
    usage = used(prompt=5, total=50, own_output=30)
    assert usage == Usage(5, 0, 30, 15, frozenset({"output", "thoughts"}))


def test_thoughts_that_stand_in_the_candidates_too_are_counted_once() -> None:
    usage = used(prompt=5, candidates=30, thoughts=20, total=35)
    assert usage == Usage(5, 0, 10, 20, frozenset({"output"}))
    assert usage.total == 35


def test_a_tool_use_prompt_that_stands_in_the_prompt_too_is_counted_once() -> None:
    usage = used(prompt=50, candidates=30, tool_use=20, thoughts=0, total=80)
    assert usage == Usage(input=50, output=30, estimated=frozenset({"input"}))


def test_a_total_that_fits_nothing_overrules_no_class_that_was_reported() -> None:
    for total in (0, 3, 10**7):
        usage = used(prompt=5, candidates=6, thoughts=7, tool_use=0, total=total)
        assert usage == Usage(5, 0, 6, 7, frozenset({"output"}))


def test_no_more_is_cached_than_there_was() -> None:
    usage = used(prompt=5, cached=9, candidates=1, total=6)
    assert usage == Usage(0, 5, 1, 0, frozenset({"cached"}))


def test_cached_tokens_beside_the_prompt_are_no_thoughts() -> None:
    beside = frozenset({"input"})
    assert used(prompt=5, cached=9, candidates=1, total=15) == Usage(5, 9, 1, 0, beside)
    assert used(prompt=5, cached=9, candidates=1, thoughts=2, total=17) == Usage(5, 9, 1, 2, beside)
    assert used(prompt=20, cached=9, candidates=1, thoughts=9, total=30) == Usage(11, 9, 1, 9)


def test_without_a_report_everything_is_our_own_count() -> None:
    usage, sound = to_usage(None, own_input=3, own_output=4)
    assert not sound
    assert usage == Usage(3, 0, 4, 0, frozenset({"input", "cached", "output", "thoughts"}))


@pytest.mark.parametrize("absurd", [-1, ABSURD + 1, 2**80, True, "7", 7.0])
def test_what_is_no_count_is_as_good_as_absent(absurd: object) -> None:
    usage = used(prompt=5, candidates=absurd, thoughts=0, total=9)
    assert usage == Usage(input=5, output=4, estimated=frozenset({"output"}))
    assert "thoughts" in used(prompt=5, candidates=1, thoughts=absurd, total=6).estimated
    assert "output" in used(prompt=5, candidates=1, total=absurd).estimated
