"""The table for OpenAI-compatible endpoints. The counts in a comment are input, cached, output, thoughts."""

from __future__ import annotations

from typing import Any

from tests.money.usage_common import Scripts, rows
from tests.money.usage_rows import HALF, OURS, Due, Row, given_back
from tests.standins.openai_api import Script


def used(prompt: Any = None, completion: Any = None, total: Any = None, **more: Any) -> dict[str, Any]:
    """What is None is absent; `cached` and `reasoning` stand in the details."""
    cached, reasoning = more.pop("cached", None), more.pop("reasoning", None)
    fields = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
        "prompt_tokens_details": None if cached is None else {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": None if reasoning is None else {"reasoning_tokens": reasoning},
        **more,
    }
    return {name: value for name, value in fields.items() if value is not None}


def said(text: str, usage: object = ..., finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """One piece; without `usage` it has no such field."""
    content = {"content": text} if text else {}
    choice = {"index": 0, "delta": {**content, **delta}, "finish_reason": finish}
    piece: dict[str, Any] = {"model": "gpt-1", "choices": [choice]}
    return piece if usage is ... else {**piece, "usage": usage}


def after(usage: object) -> dict[str, Any]:
    """What comes behind the end with `stream_options.include_usage`: a piece without choices."""
    return {"model": "gpt-1", "choices": [], "usage": usage}


def script(*pieces: dict[str, Any], **settings: Any) -> Script:
    return Script(pieces=pieces, **settings)


def ended(usage: object = ..., finish: str = "stop") -> Script:
    """A whole answer, and behind it its usage, if there is one."""
    end = said("", ..., finish)
    return script(said(HALF), said(HALF), end, *([] if usage is ... else [after(usage)]))


HALFWAY = used(120, 25, 145)
WHOLE = used(120, 50, 170)
USUAL = Due(161, (120, 0, 50, 0))  # 36 + 125
COUNTED = Due(80, (100, 0, 20, 0), OURS)  # 30 + 50
CACHED = Due(143, (39, 81, 50, 0))  # 11.7 + 6.075 + 125 = 142.775

REPORTS = [
    Row("at the end", (script(said(HALF), said(HALF, WHOLE, "stop")),), USUAL),
    Row(
        "at the end", (script(said(HALF), said(HALF), said("", ..., "stop"), after(WHOLE), plain=True),), USUAL, "plain"
    ),
    Row("after the end", (ended(WHOLE),), USUAL),
    Row("with every piece", (script(said(HALF, HALFWAY), said(HALF, WHOLE), said("", WHOLE, "stop")),), USUAL),
    # 25 as reported, and 10 that came after it: 36 + 35 × 2.5 = 123.5
    Row(
        "in the beginning only",
        (script(said(HALF, HALFWAY), said(HALF), said("", ..., "stop")),),
        Due(124, (120, 0, 35, 0), "output"),
    ),
    # And 10 of thoughts that were shown: 36 + 45 × 2.5 = 148.5
    Row(
        "in the beginning only",
        (script(said(HALF, HALFWAY), said("", reasoning=HALF), said(HALF), said("", ..., "stop")),),
        Due(149, (120, 0, 35, 10), "output thoughts"),
        "with thoughts that are shown",
    ),
    Row("not at all", (ended(),), COUNTED),
    Row(
        "not at all",
        (script(said(HALF, None), said(HALF, None), said("", None, "stop"), after(None)),),
        COUNTED,
        "null",
    ),
    Row("not at all", (ended({}),), COUNTED, "an empty object"),
    # Of what is shown of the thoughts, 40 characters, nobody else has a count: 30 + 50 + 25
    Row(
        "not at all",
        (script(said("", reasoning_content=HALF), said(HALF), said(HALF), said("", ..., "stop")),),
        Due(105, (100, 0, 20, 10), "input output thoughts"),
        "with thoughts that are shown",
    ),
    Row("zero", (ended(used(0, 0, 0)),), Due(0, (0, 0, 0, 0))),
    Row("no number", (ended(used(120, -50, 170)),), COUNTED, "negative"),
    Row("no number", (ended(used(-120, -50, -170)),), COUNTED, "all negative"),
    Row("no number", (ended(used(120, 2**40, 170)),), COUNTED, "absurd"),
    Row("no number", (ended(used("120", "50", "170")),), COUNTED, "digits in a text"),
    Row("no number", (ended(used("many", "few")),), COUNTED, "words"),
    Row("no number", (ended(used(120, 50.5)),), COUNTED, "a fraction"),
    Row("no number", (ended(used(120.0, 50.0, 170.0)),), COUNTED, "a whole float"),
    Row("no number", (ended(used(True, True)),), COUNTED, "a truth value"),
    Row("no number", (ended([120, 50]),), COUNTED, "a list"),
    # What was reported before it stands: 25, and 10 that came after: 36 + 87.5
    Row(
        "no number",
        (script(said(HALF, HALFWAY), said(HALF), said("", ..., "stop"), after(used("120", "50"))),),
        Due(124, (120, 0, 35, 0), "output"),
        "after a report that was good",
    ),
    Row("a sum that is wrong", (ended(used(120, 50, 160)),), COUNTED),
    # 90 million tokens are no absurd number, but more than was quoted is never billed.
    Row("more than was quoted", (ended(used(120, 90_000_000, 90_000_120)),), Due(3_000, (120, 0, 90_000_000, 0))),
    Row("prompt only", (ended(used(120)),), Due(86, (120, 0, 20, 0), "output")),  # 36 + 50
    Row("prompt only", (ended(used(120, None, 170)),), Due(161, (120, 0, 50, 0), "output"), "and the total"),
    Row("output only", (ended(used(None, 50)),), Due(155, (100, 0, 50, 0), "input")),  # 30 + 125
    Row("output only", (ended(used(None, 50, 170)),), Due(161, (120, 0, 50, 0), "input"), "and the total"),
    Row("total only", (ended(used(None, None, 170)),), COUNTED),
    Row("thoughts beside the output", (ended(used(120, 50, 200, reasoning=30)),), Due(236, (120, 0, 50, 30))),  # + 75
    Row("thoughts within the output", (ended(used(120, 80, 200, reasoning=30)),), Due(236, (120, 0, 50, 30))),
    Row("thoughts within the output", (ended(used(120, 20, 140, reasoning=30)),), COUNTED, "more than it has"),
    Row("thoughts in the total only", (ended(used(120, 50, 200)),), Due(236, (120, 0, 50, 30), "thoughts")),
    Row("cached within the prompt", (ended(used(120, 50, 170, cached=81)),), CACHED),
    Row(
        "cached within the prompt", (ended(used(120, 50, 170, prompt_cache_hit_tokens=81)),), CACHED, "as DeepSeek says"
    ),
    Row("cached within the prompt", (ended(used(120, 50, 170, cached_tokens=81)),), CACHED, "as Moonshot says"),
    # 36 + 6.075 + 125 = 167.075
    Row("cached beside the prompt", (ended(used(120, 50, 251, cached=81)),), Due(168, (120, 81, 50, 0))),
    # And thoughts within the output: 36 + 6.075 + 125 + 75 = 242.075
    Row(
        "cached beside the prompt",
        (ended(used(120, 80, 281, cached=81, reasoning=30)),),
        Due(243, (120, 81, 50, 30)),
        "with thoughts",
    ),
    Row("more cached than prompt", (ended(used(120, 50, 170, cached=200)),), COUNTED),
    Row(
        "falling counts",
        (script(said(HALF, used(120, 60, 180)), said(HALF), said("", ..., "stop"), after(WHOLE)),),
        USUAL,
    ),
    Row(
        "by kinds of media as well",
        (ended({**WHOLE, "completion_tokens_details": {"audio_tokens": 9, "accepted_prediction_tokens": 4}}),),
        USUAL,
    ),
]

ENDS = [
    Row(
        "broken off",
        (script(said(HALF, HALFWAY), error={"code": 502, "message": "lost"}, fault_after=1),),
        given_back((120, 0, 25, 0)),
        "by an error",
    ),
    # Ten tokens were allowed, a quote of one sat; it goes on, and is stopped at twice as many by our count.
    Row(
        "longer than allowed, and no usage yet",
        (script(said("word " * 400), fault="stall", fault_after=1),),
        Due(1_000, (100, 0, 500, 0), OURS, "length", quote=1_000),
        max_tokens=10,
    ),
    Row("refused", (script(said("", ..., "content_filter"), after(used(120, 0, 120))),), given_back((120, 0, 0, 0))),
    Row(
        "refused",
        (script(said("", refusal="No."), said("", ..., "stop"), after(WHOLE)),),
        given_back((120, 0, 50, 0)),
        "by the model itself",
    ),
    Row("no answer", (script(said("", ..., "stop"), after(used(120, 0, 120))),), given_back((120, 0, 0, 0))),
    Row(
        "nothing but thoughts",
        (script(said("", ..., "length"), after(used(120, 30, 150, reasoning=30))),),
        Due(111, (120, 0, 0, 30), finish="length", delivered=False),  # 36 + 75
    ),
]
COMMON = rows(
    Scripts(
        whole=ended(WHOLE),
        whole_without=ended(),
        filtered=ended(WHOLE, "content_filter"),
        broken=script(said(HALF, HALFWAY), fault="end", fault_after=1),
        broken_without=script(said(HALF), fault="cut", fault_after=1),
        silent=script(said(HALF, HALFWAY), fault="stall", fault_after=1),
        silent_without=script(said(HALF), fault="stall", fault_after=1),
        overrun=script(said(HALF, used(120, 2000, 2120)), fault="stall", fault_after=1),
        down=script(status=503),
    ),
    OURS,
)
ROWS = [*REPORTS, *ENDS, *COMMON]
