"""Answers that have to have a form: what passes, what is mended, and what is no answer."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvm.jobs.kinds import WrongAnswer, checking

GOOD = """WEBVTT

00:00:01.000 --> 00:00:02.500
Good morning.

NOTE a remark

second
00:00:02.500 --> 00:00:04.000 align:start line:0
<v Ann>And
good night.
"""


def test_what_is_webvtt_passes_as_it_is() -> None:
    assert checking.vtt(GOOD, False) == GOOD
    assert checking.vtt("WEBVTT", False) == "WEBVTT\n"  # nobody says a word


@pytest.mark.parametrize(
    "written",
    [
        f"```vtt\n{GOOD}```",
        f"\n```\n{GOOD}\n```\n",
        f"\ufeff{GOOD}",
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("00:00:01.000", "00:01.000"),
        GOOD.replace("01.000", "01,000"),
        GOOD.replace("\n\n", "\n\n\n"),
    ],
)
def test_small_faults_of_models_are_mended(written: str) -> None:
    assert checking.vtt(written, False) == GOOD


@pytest.mark.parametrize(
    "written",
    [
        "Good morning.",
        "Here it is:\n\n" + GOOD,
        GOOD.removeprefix("WEBVTT\n\n"),
        GOOD.replace("WEBVTT\n\n", "WEBVTT\n"),
        GOOD.replace("02.500 align", "90.000 align").replace("00:00:02.500\n", "00:00:00.500\n"),
        GOOD.replace("00:00:02.500\nGood", "00:00:00.500\nGood"),
        GOOD.replace("00:00:02.500 -->", "00:00:00.500 -->"),
        GOOD.replace("00:00:02.500 -->", "00:72:02.500 -->"),
        GOOD.replace(" --> ", " -> "),
        GOOD.replace("\n\nNOTE a remark\n\nsecond", ""),
        GOOD + "\nThat was all.\n",
    ],
)
def test_what_is_no_webvtt_is_no_answer(written: str) -> None:
    with pytest.raises(WrongAnswer, match="no WebVTT") as caught:
        checking.vtt(written, False)
    assert not caught.value.passing


def test_a_torn_last_cue_of_what_was_cut_short_is_left_out() -> None:
    for torn in ("\n00:00:04.0", "\nthird\n", "\n00:00:04.000 --> 00:0"):
        assert checking.vtt(GOOD + torn, True) == GOOD
    assert checking.vtt("```vtt\n" + GOOD, True) == GOOD
    with pytest.raises(WrongAnswer):
        checking.vtt("Good morn", True)


@given(st.recursive(st.none() | st.booleans() | st.text(st.characters(codec="utf-8")), st.lists))
def test_json_passes_also_in_a_fence(value: object) -> None:
    written = json.dumps(value)
    assert checking.json(written, False) == written
    assert checking.json(f"```json\n{written}\n```\n", False) == written


@pytest.mark.parametrize("written", ["Sure!", "{'a': 1}", '{"a": 1', "[1] and more", "NaN", "[" * 100_000, '"\ud800"'])
def test_what_is_no_json_is_no_answer_unless_it_was_cut_short(written: str) -> None:
    with pytest.raises(WrongAnswer, match="no JSON"):
        checking.json(written, False)
    assert checking.json(written, True) == written


@given(st.text(), st.booleans())
def test_an_answer_is_refused_in_one_way_only(text: str, cut: bool) -> None:
    for check in (checking.vtt, checking.json):
        for written in (text, "WEBVTT\n\n" + text, "```\n" + text):
            with suppress(WrongAnswer):
                assert isinstance(check(written, cut), str)
