"""Proof of work counts the id's leading zero bits, and only as many as its author committed to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dvm.nostr.event import Event
from dvm.nostr.keys import Keys
from dvm.nostr.nip13 import committed, difficulty, is_proof
from tests.standins.mining import mine

KEYS = Keys.generate()


def with_id(event_id: str, *nonces: list[str]) -> Event:
    return Event(id=event_id, pubkey="", created_at=0, kind=1, tags=list(nonces), content="", sig="")


def test_the_examples_of_the_nip() -> None:
    example = "000000000e9d97a1ab09fc381030b346cdd7a142ad57e6df0b46dc9bef6c7e2d"
    assert difficulty(example) == 36
    assert difficulty("002f" + "f" * 60) == 10
    assert difficulty("0" * 64) == 256
    assert difficulty("f" * 64) == 0


@given(st.integers(0, 256), st.integers(0, 300), st.integers(0, 300), st.randoms(use_true_random=False))
def test_both_the_id_and_the_commitment_must_reach_what_is_asked(
    bits: int, target: int, asked: int, random: object
) -> None:
    rest = 256 - bits
    number = 0 if rest == 0 else (1 << (rest - 1)) | random.getrandbits(rest - 1)  # type: ignore[attr-defined]
    event = with_id(f"{number:064x}", ["nonce", "1", str(target)])
    assert difficulty(event.id) == bits
    assert is_proof(event, asked) == (bits >= asked and target >= asked)


@given(st.lists(st.lists(st.one_of(st.just("nonce"), st.text(max_size=5)), max_size=4), max_size=4))
def test_strange_tags_commit_to_something_harmless_and_raise_nothing(tags: list[list[str]]) -> None:
    assert 0 <= committed(with_id("0" * 64, *tags)) <= 999


def test_only_one_clear_commitment_counts() -> None:
    zero = "0" * 64
    assert committed(with_id(zero, ["nonce", "7", "20"])) == 20
    assert committed(with_id(zero, ["nonce", "7", "20"], ["nonce", "7", "20"])) == 0
    for target in ("", "-1", "+20", " 20", "20.0", "1_0", "٢٠", "0x20", "9999"):
        assert committed(with_id(zero, ["nonce", "7", target])) == 0
    assert committed(with_id(zero, ["nonce", "7"])) == 0


def test_what_is_mined_proves_it() -> None:
    event = mine(KEYS, 5050, [["i", "hello", "text"]], 8, 1_700_000_000)
    assert event.verify()
    assert is_proof(event, 8)
    assert not is_proof(event, 9)
