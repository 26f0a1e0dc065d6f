"""Kind 5002: what the model is asked, and which languages there are."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvm.jobs.kinds.languages import language, language_param
from dvm.nip90 import InvalidRequest
from tests.jobs.kinds.asking import SYSTEM, body_of, instruction, parts, refusal, request, understood


async def test_the_model_is_asked_for_the_translation_and_nothing_else() -> None:
    asked = request(5002, "Good morning", params=[("language", "pt_br")])
    body = await body_of(understood(asked))
    text, task = (part["text"] for part in parts(body))
    assert "Good morning" in text
    assert task == "Translate the text of the inputs above into Portuguese (pt-BR)."
    assert instruction(body).startswith("You translate texts")
    assert "result alone" in instruction(body)
    assert instruction(body).endswith(SYSTEM)
    assert body["generationConfig"] == {"maxOutputTokens": 500, "temperature": 0.2}


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("es", "Spanish (es)"),
        ("DE", "German (de)"),
        ("ger", "German (ger)"),
        ("deu", "German (deu)"),
        ("yue", "Yue Chinese (yue)"),
        ("zh-hant-tw", "Chinese (zh-Hant-TW)"),
        ("es-419", "Spanish (es-419)"),
        ("sl-ROZAJ", "Slovenian (sl-rozaj)"),
    ],
)
def test_a_language_is_a_code_or_a_tag(tag: str, said: str) -> None:
    assert language(tag) == said


@pytest.mark.parametrize(
    "tag", ["xx", "qq", "und", "mul", "zxx", "Spanish", "e", "es-", "es--MX", "es MX", "en-x-evil", ""]
)
def test_what_is_no_language_is_refused(tag: str) -> None:
    assert refusal(5002, [("language", tag)]).startswith("invalid-param: language")


def test_a_translation_needs_one_language() -> None:
    assert refusal(5002, []).startswith("invalid-param: language: it is missing")
    assert "invalid-param" in refusal(5002, [("language", "es"), ("language", "fr")])
    assert "invalid-param" in refusal(5002, [("language", "es", "fr")])
    assert "invalid-output" in refusal(5002, [("language", "es")], output="application/json")


@given(st.text(max_size=30))
def test_nothing_that_is_written_there_gets_into_the_task_but_a_tag(text: str) -> None:
    with suppress(InvalidRequest):
        said = language_param(request(5002, "x", params=[("language", text)]))
        assert said is not None
        assert said.isprintable()
