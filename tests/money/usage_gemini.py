"""The table for Gemini, by both of Google's SDKs. The counts in a comment are input, cached, output, thoughts."""

from __future__ import annotations

import base64
from typing import Any

from tests.money.usage_common import Scripts, rows
from tests.money.usage_rows import ALL, HALF, OURS, PER_REQUEST, Due, Row, given_back
from tests.standins.gemini_scripts import Script

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(100)).decode()
SPOKEN = base64.b64encode(bytes(19_200)).decode()  # 0.4 s
PCM = "audio/L16;codec=pcm;rate=24000"
_FIELDS = {
    "prompt": "promptTokenCount",
    "cached": "cachedContentTokenCount",
    "candidates": "candidatesTokenCount",
    "thoughts": "thoughtsTokenCount",
    "tool": "toolUsePromptTokenCount",
    "total": "totalTokenCount",
}


def used(**counts: Any) -> dict[str, Any]:
    return {_FIELDS.get(name, name): count for name, count in counts.items()}


def said(text: str, usage: object = ..., finish: str | None = None, *blobs: tuple[str, str]) -> dict[str, Any]:
    """One response object; without `usage` it has no such field."""
    parts: list[Any] = [{"text": text}] if text else []
    parts += [{"inlineData": {"mimeType": mime, "data": data}} for mime, data in blobs]
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    chunk: dict[str, Any] = {"candidates": [candidate], "modelVersion": "gemini-1"}
    return chunk if usage is ... else {**chunk, "usageMetadata": usage}


def script(*chunks: dict[str, Any], **settings: Any) -> Script:
    return Script(chunks=chunks, **settings)


def ended(usage: object = ..., finish: str = "STOP") -> Script:
    """A whole answer, its usage at its end."""
    return script(said(HALF), said(HALF, usage, finish))


HALFWAY = used(prompt=120, candidates=25, total=145)
WHOLE = used(prompt=120, candidates=50, total=170)
USUAL = Due(161, (120, 0, 50, 0))  # 36 + 125
COUNTED = Due(80, (100, 0, 20, 0), ALL)  # 30 + 50
COUNTED_MOSTLY = Due(80, (100, 0, 20, 0), OURS)  # zeros that are left out are zeros, but not those of what there was
BROKEN = given_back((100, 0, 20, 0), ALL)  # its numbers are none of protocol buffers', which refuses the whole piece
DIVIDED = Due(
    161, (120, 0, 20, 30), "output thoughts"
)  # our count of the answer; what the total has left, 30, is thought

REPORTS = [
    Row("at the end", (ended(WHOLE),), USUAL),
    Row("with every piece", (script(said(HALF, HALFWAY), said(HALF, WHOLE, "STOP")),), USUAL),
    # 25 as reported, and 10 that came after it: 36 + 35 × 2.5 = 123.5
    Row(
        "in the beginning only",
        (script(said(HALF, HALFWAY), said(HALF, finish="STOP")),),
        Due(124, (120, 0, 35, 0), "output"),
    ),
    Row(
        "after the end",
        (script(said(HALF), said(HALF, finish="STOP"), {"usageMetadata": WHOLE}),),
        USUAL,
    ),
    Row("not at all", (ended(),), COUNTED),
    Row("not at all", (ended(None),), COUNTED, "null"),
    Row("not at all", (ended({}),), COUNTED_MOSTLY, "an empty object"),
    # The former SDK does not tell a zero from nothing.
    Row("zero", (ended(used(prompt=0, candidates=0, total=0)),), Due(0, (0, 0, 0, 0)), former=COUNTED_MOSTLY),
    Row("no number", (ended(used(prompt=120, candidates=-50, total=170)),), DIVIDED, "negative"),
    Row("no number", (ended(used(prompt=-120, candidates=-50, total=-170)),), COUNTED_MOSTLY, "all negative"),
    Row(
        "no number",
        (ended(used(prompt=120, candidates=2**40, total=170)),),
        DIVIDED,
        "absurd",
        former=given_back((100, 0, 10, 0), ALL),
    ),
    Row("no number", (ended(used(prompt="120", candidates="50", total="170")),), USUAL, "digits in a text"),
    Row("no number", (ended(used(prompt="many", candidates="few")),), given_back((100, 0, 10, 0), ALL), "words"),
    Row("no number", (ended(used(prompt=120, candidates=50.5)),), given_back((100, 0, 10, 0), ALL), "a fraction"),
    Row("no number", (ended(used(prompt=120.0, candidates=50.0, total=170.0)),), USUAL, "a whole float"),
    Row(
        "a sum that is wrong",
        (ended(used(prompt=120, candidates=50, total=165)),),
        Due(161, (120, 0, 50, 0), "output"),
    ),
    # 90 million tokens are no absurd number, but more than was quoted is never billed, and ends the answer.
    Row(
        "more than was quoted",
        (ended(used(prompt=120, candidates=90_000_000, total=90_000_120)),),
        Due(3_000, (120, 0, 90_000_000, 0), finish="length"),
    ),
    Row("prompt only", (ended(used(prompt=120)),), Due(86, (120, 0, 20, 0), "output")),  # 36 + 50
    Row("output only", (ended(used(candidates=50)),), Due(155, (100, 0, 50, 0), "input")),  # 30 + 125
    # 100 are our count of the prompt, 20 of the answer; the 50 left are thoughts: 30 + 175
    Row("total only", (ended(used(total=170)),), Due(205, (100, 0, 20, 50), "input output thoughts")),
    Row(
        "thoughts beside the output",
        (ended(used(prompt=120, candidates=50, thoughts=30, total=200)),),
        Due(236, (120, 0, 50, 30)),  # 36 + 125 + 75
        former=Due(236, (120, 0, 50, 30), "thoughts"),
    ),
    Row(
        "thoughts within the output",
        (ended(used(prompt=120, candidates=50, thoughts=30, total=170)),),
        Due(161, (120, 0, 20, 30), "output"),
        former=USUAL,
    ),
    Row(
        "thoughts in the total only",
        (ended(used(prompt=120, candidates=50, total=200)),),
        Due(236, (120, 0, 50, 30), "thoughts"),
    ),
    # 39 × 0.3 + 81 × 0.075 + 125 = 142.775
    Row("cached within the prompt", (ended({**WHOLE, **used(cached=81)}),), Due(143, (39, 81, 50, 0))),
    # 36 + 6.075 + 125 = 167.075
    Row(
        "cached beside the prompt",
        (ended(used(prompt=120, cached=81, candidates=50, total=251)),),
        Due(168, (120, 81, 50, 0), "input"),
    ),
    # As much as there was: 9 + 125
    Row("more cached than prompt", (ended({**WHOLE, **used(cached=200)}),), Due(134, (0, 120, 50, 0), "cached")),
    Row(
        "falling counts",
        (script(said(HALF, used(prompt=120, candidates=60, total=180)), said(HALF, WHOLE, "STOP")),),
        USUAL,
    ),
    # 140 × 0.3 + 125. The former SDK knows nothing of tools: to it, 20 tokens of the total are thoughts.
    Row(
        "tools' tokens",
        (ended(used(prompt=120, candidates=50, tool=20, total=190)),),
        Due(167, (140, 0, 50, 0)),
        former=Due(211, (120, 0, 50, 20), "thoughts"),
    ),
    Row(
        "by kinds of media as well",
        (ended({**WHOLE, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 99}]}),),
        USUAL,
    ),
]

ENDS = [
    # Ten tokens were allowed, a quote of one sat; it goes on, and is stopped at 30 + 2500 msat by our count.
    Row(
        "longer than allowed, and no usage yet",
        (script(*[said("word " * 400)] * 2, fault="stall", fault_after=2),),
        Due(1_000, (100, 0, 1000, 0), ALL, "length", quote=1_000),
        max_tokens=10,
    ),
    Row(
        "refused",
        (script({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": used(prompt=120, total=120)}),),
        given_back((120, 0, 0, 0)),
    ),
    Row("refused", (script(said("", WHOLE, "SAFETY")),), given_back((120, 0, 50, 0)), "by a filter of answers"),
    Row("no answer", (script(said("", used(prompt=120, total=120), "STOP")),), given_back((120, 0, 0, 0))),
    Row(
        "nothing but thoughts",
        (script(said("", used(prompt=120, thoughts=30, total=150), "MAX_TOKENS")),),
        Due(111, (120, 0, 0, 30), finish="length", delivered=False),  # 36 + 75
        former=Due(111, (120, 0, 0, 30), "thoughts", "length", delivered=False),
    ),
]
COMMON = rows(
    Scripts(
        whole=ended(WHOLE),
        whole_without=ended(),
        filtered=ended(WHOLE, "SAFETY"),
        broken=script(said(HALF, HALFWAY), fault="close", fault_after=1),
        broken_without=script(said(HALF), fault="close", fault_after=1),
        silent=script(said(HALF, HALFWAY), fault="stall", fault_after=1),
        silent_without=script(said(HALF), fault="stall", fault_after=1),
        overrun=script(said(HALF, used(prompt=120, candidates=2000, total=2120)), fault="stall", fault_after=1),
        down=script(status=503),
    ),
    ALL,
)

# 8192 tokens of output may be used: 30 + 20 480 msat, or (of speech, whose prompt has a task) 33.6.
DRAWN = used(prompt=120, candidates=1290, total=1410)
MADE = [
    Row(
        "an image",
        (script(said("Here:", ...), said("", DRAWN, "STOP", ("image/png", PNG))),),
        Due(3_261, (120, 0, 1290, 0), quote=21_000),  # 36 + 3225
        kind=5100,
    ),
    # 1290 tokens by our own count, and "Here:" has two: 30 + 3230
    Row(
        "an image",
        (script(said("Here:"), said("", ..., "STOP", ("image/png", PNG))),),
        Due(3_260, (100, 0, 1292, 0), ALL, quote=21_000),
        "no usage",
        kind=5100,
    ),
    Row(
        "an image",
        (script(said("", DRAWN, "STOP", ("image/png", PNG))),),
        Due(21_000, (120, 0, 1290, 0), quote=21_000),
        "at a price for the job",
        kind=5100,
        price=PER_REQUEST,
    ),
    Row("an image", (ended(WHOLE),), given_back((120, 0, 50, 0), quote=21_000), "only talked about", kind=5100),
    Row(
        "speech",
        (script(said("", WHOLE, "STOP", (PCM, SPOKEN))),),
        Due(161, (120, 0, 50, 0), quote=21_000),
        kind=5250,
    ),
    # Of 25 tokens a second; the prompt has 112 by our count: 33.6 + 50 = 83.6
    Row(
        "speech",
        (script(said("", ..., None, (PCM, SPOKEN)), said("", ..., "STOP", (PCM, SPOKEN))),),
        Due(84, (112, 0, 20, 0), ALL, quote=21_000),
        "no usage",
        kind=5250,
    ),
]
ROWS = [*REPORTS, *ENDS, *COMMON, *MADE]
