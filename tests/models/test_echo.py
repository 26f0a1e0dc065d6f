from __future__ import annotations

import pytest

from dvm.models.base import Blob, Prompt, Turn, Usage
from dvm.models.echo import EchoModel
from tests.models.answers import FOX, ask, refused


async def test_by_default_the_whole_answer_is_one_chunk() -> None:
    answer = await ask(EchoModel())
    (only,) = answer.chunks
    assert (only.text, only.finish, only.version) == (FOX, "stop", "echo")
    assert only.usage == Usage(input=11, output=11)


async def test_the_last_turns_parts_are_joined_by_newlines() -> None:
    prompt = Prompt((Turn("user", ("a",)), Turn("model", ("b",)), Turn("user", ("c", "d"))), system="s")
    assert (await ask(EchoModel(), prompt)).text == "c\nd"


async def test_a_chunk_size_cuts_the_same_text_in_pieces() -> None:
    answer = await ask(EchoModel(chunk_tokens=1), "abcdefghij")
    assert [chunk.text for chunk in answer.chunks] == ["abcd", "efgh", "ij"]
    assert [chunk.usage.output for chunk in answer.chunks if chunk.usage] == [1, 2, 3]


async def test_stop_strings_end_it_where_the_first_of_them_begins() -> None:
    answer = await ask(EchoModel(), FOX, stop=("lazy", "", "fox"))
    assert (answer.text, answer.last.finish) == ("The quick brown ", "stop")


async def test_thoughts_and_cached_tokens_are_as_scripted_within_the_limits() -> None:
    model = EchoModel(thoughts=5, cached=4)
    assert (await ask(model)).usage == Usage(input=7, cached=4, output=11, thoughts=5)
    short = await ask(model, max_output_tokens=12)
    assert (short.text, short.usage.thoughts, short.usage.output) == (FOX[:28], 5, 7)
    only_thoughts = await ask(model, max_output_tokens=3)
    assert (only_thoughts.text, only_thoughts.last.finish, only_thoughts.usage.thoughts) == ("", "length", 3)
    assert (await ask(EchoModel(cached=100))).usage == Usage(cached=11, output=11)


async def test_a_prompt_without_text_is_empty_and_its_usage_known() -> None:
    error = await refused(EchoModel(), Prompt.of(Blob("image/png", b"12345")))
    assert (error.code, error.usage) == ("empty", Usage(input=2))


@pytest.mark.parametrize("wrong", [{"chunk_tokens": 0}, {"delay": -1}, {"delay": float("nan")}, {"thoughts": -1}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        EchoModel(**wrong)  # type: ignore[arg-type]
