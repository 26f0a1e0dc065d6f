from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dvm.models.base import Blob, Prompt, Turn
from dvm.models.counting import BLOB_TOKENS, approximate_text, approximate_tokens, estimate_tokens

TEXT = st.text(st.characters(codec=None), max_size=200)  # half surrogate pairs among them


@given(TEXT, st.none() | TEXT)
def test_the_estimate_is_no_less_than_the_bytes_of_the_text(text: str, system: str | None) -> None:
    size = len((text + (system or "")).encode("utf-8", "surrogatepass"))
    prompt = Prompt.of(text, system=system)
    assert estimate_tokens(prompt) >= size
    assert size / 4 <= approximate_tokens(prompt) <= size / 4 + 2


def test_each_turn_and_each_blob_counts() -> None:
    one = estimate_tokens(Prompt.of("a"))
    assert estimate_tokens(Prompt((Turn("user", ("a",)), Turn("model", ("a",))))) == 2 * one
    assert estimate_tokens(Prompt.of("a", Blob("image/png", b"x"))) == one + BLOB_TOKENS
    assert estimate_tokens(Prompt.of(Blob("audio/wav", bytes(10**6)))) > 100_000


def test_a_file_is_approximated_by_what_is_usual() -> None:
    assert approximate_tokens(Prompt.of("abcd", Blob("image/png", b"x"))) == 1 + 258
    assert approximate_tokens(Prompt.of(Blob("audio/mpeg", bytes(10**6)))) == 2_000


def test_an_approximation_counts_begun_tokens() -> None:
    assert [approximate_text(text) for text in ("", "a", "abcd", "abcde", "é" * 4)] == [0, 1, 1, 2, 2]
