"""Kind 5250: what the model is asked to say, and how."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dvm.jobs.kinds import Gathered, speech
from dvm.nip90 import Input, InvalidRequest
from tests.jobs.kinds.asking import SYSTEM, body_of, parts, request, understood

MIC = "Mic Check, one, two."


async def test_a_text_is_read_aloud_in_a_language_and_a_voice() -> None:
    asked = request(5250, MIC, params=[("language", "zh-cn"), ("voice", "Kore")])
    body = await body_of(understood(asked, kind=speech.KIND))
    (part,) = parts(body)
    task = "Read the following text aloud in Chinese (zh-CN), word for word:"
    assert part["text"] == f"{SYSTEM}\n\n{task}\n\n{MIC}"
    assert "systemInstruction" not in body  # speech models take none
    config = body["generationConfig"]
    assert config["responseModalities"] == ["AUDIO"]
    said = str(config["speechConfig"])
    assert "cmn-CN" in said
    assert "Kore" in said


async def test_without_a_language_it_is_that_of_the_text() -> None:
    body = await body_of(understood(request(5250, MIC, "Two."), kind=speech.KIND))
    (part,) = parts(body)
    assert part["text"] == f"{SYSTEM}\n\nRead the following text aloud, word for word:\n\n{MIC}\n\nTwo."
    assert "speechConfig" not in body["generationConfig"]


@pytest.mark.parametrize(
    "params", [[("language", "xx")], [("language", "en", "de")], [("voice", "../x")], [("voice", "x" * 65)]]
)
def test_what_is_no_language_or_no_voice_is_refused(params: Sequence[Sequence[str]]) -> None:
    with pytest.raises(InvalidRequest, match="invalid-param"):
        speech.KIND.check(request(5250, MIC, params=params))


def test_only_texts_are_read_aloud() -> None:
    with pytest.raises(InvalidRequest, match="invalid-input"):
        speech.KIND.check(request(5250, Input("https://example.com/", "url")))
    with pytest.raises(InvalidRequest, match="no-input"):
        speech.KIND.read(request(5250, " "), Gathered(), None)
