"""Gift wraps (NIP-59) and private messages (NIP-17): read by another program, and refused where forged."""

from __future__ import annotations

import nostr_sdk as sdk
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvm.nostr import Event, InvalidWrap, Keys, Rumor, message_relays, private_message, unwrap
from dvm.nostr.nip44 import EncryptError, encrypt
from dvm.nostr.nip59 import GIFT_WRAP, PAST_SECONDS, SEAL, gift_wrap

ALICE, BOB, MALLORY = (Keys(bytes([n]) * 32) for n in (11, 12, 13))
NOW = 1_750_000_000


def rumor(author: Keys = ALICE, text: str = "the wallet holds less than is owed") -> Rumor:
    return Rumor(author.pubkey, NOW, 14, [["p", BOB.pubkey]], text)


def fields(of: Rumor, **changed: object) -> dict[str, object]:
    return {
        "id": of.id,
        "pubkey": of.pubkey,
        "created_at": of.created_at,
        "kind": of.kind,
        "tags": of.tags,
        "content": of.content,
        **changed,
    }


def sealed(raw: object, by: Keys = ALICE, kind: int = SEAL, tags: list[list[str]] | None = None) -> Event:
    return by.sign(kind, tags or [], encrypt(by, BOB.pubkey, orjson.dumps(raw).decode()), NOW)


def wrapped(seal: str) -> Event:
    once = Keys.generate()
    return once.sign(GIFT_WRAP, [["p", BOB.pubkey]], encrypt(once, BOB.pubkey, seal), NOW)


def test_what_is_wrapped_is_unwrapped_by_its_recipient() -> None:
    wrap = private_message(ALICE, BOB.pubkey, "selling has stopped ⚡", NOW)
    read = unwrap(BOB, wrap)
    assert (read.pubkey, read.kind, read.content) == (ALICE.pubkey, 14, "selling has stopped ⚡")
    assert (read.created_at, read.tags) == (NOW, [["p", BOB.pubkey]])
    assert wrap.verify()


def test_another_program_reads_our_private_message() -> None:
    wrap = private_message(ALICE, BOB.pubkey, "selling has stopped", NOW)
    gift = sdk.UnwrappedGift.from_gift_wrap(sdk.Keys.parse("0c" * 32), sdk.Event.from_json(wrap.to_json()))
    assert gift.sender().to_hex() == ALICE.pubkey
    read = gift.rumor()
    assert (read.kind().as_u16(), read.content(), read.created_at().as_secs()) == (14, "selling has stopped", NOW)


def test_we_read_another_programs_private_message() -> None:
    wrap = sdk.nip17_make_private_msg(sdk.Keys.parse("0b" * 32), sdk.PublicKey.parse(BOB.pubkey), "hello")
    read = unwrap(BOB, Event.from_json(wrap.as_json()))
    assert (read.pubkey, read.kind, read.content) == (ALICE.pubkey, 14, "hello")


def test_a_wrap_shows_the_recipient_alone_and_neither_author_nor_time() -> None:
    wraps = [private_message(ALICE, BOB.pubkey, "hello", NOW) for _ in range(20)]
    assert len({wrap.pubkey for wrap in wraps}) == 20
    assert all(ALICE.pubkey not in wrap.to_json() and wrap.tags == [["p", BOB.pubkey]] for wrap in wraps)
    times = {wrap.created_at for wrap in wraps}
    assert len(times) > 1
    assert all(NOW - PAST_SECONDS < at <= NOW for at in times)


def test_nobody_else_unwraps_it() -> None:
    with pytest.raises(InvalidWrap, match="cannot be decrypted"):
        unwrap(MALLORY, private_message(ALICE, BOB.pubkey, "hello", NOW))


def test_a_rumor_in_anothers_name_is_refused() -> None:
    with pytest.raises(InvalidWrap, match="sealed by another"):
        unwrap(BOB, wrapped(sealed(fields(rumor(ALICE)), by=MALLORY).to_json()))
    with pytest.raises(ValueError, match="only its author"):
        gift_wrap(MALLORY, BOB.pubkey, rumor(ALICE), NOW)


def test_a_seal_must_be_signed_by_its_author() -> None:
    seal = sealed(fields(rumor()))
    forged = Event.parse({**seal.to_dict(), "sig": MALLORY.sign_digest(bytes.fromhex(seal.id)).hex()})
    with pytest.raises(InvalidWrap, match="not signed by its author"):
        unwrap(BOB, wrapped(forged.to_json()))


@pytest.mark.parametrize(
    ("seal", "why"),
    [
        (sealed(fields(rumor()), kind=14), "no seal"),
        (sealed(fields(rumor()), tags=[["p", BOB.pubkey]]), "no seal"),
        (sealed(["an array"]), "no event"),
        (sealed(fields(rumor(), tags="none")), "no event"),
        (sealed(fields(rumor(), id="ab" * 32)), "id is not its own"),
        (sealed(fields(rumor(), content="another text")), "id is not its own"),
        (ALICE.sign(SEAL, [], "not encrypted", NOW), "cannot be decrypted"),
    ],
)
def test_what_is_no_sealed_rumor_is_refused(seal: Event, why: str) -> None:
    with pytest.raises(InvalidWrap, match=why):
        unwrap(BOB, wrapped(seal.to_json()))


def test_a_signature_within_a_rumor_counts_for_nothing_and_a_missing_id_is_no_fault() -> None:
    raw = fields(rumor(), sig="ff")
    del raw["id"]
    assert unwrap(BOB, wrapped(sealed(raw).to_json())) == rumor()


@pytest.mark.parametrize("inside", ["", "nothing", "[]", "{}", '{"kind": 13}'])
def test_what_is_no_event_inside_is_refused(inside: str) -> None:
    with pytest.raises(InvalidWrap):
        unwrap(BOB, wrapped(inside or " "))


def test_other_kinds_are_no_wraps() -> None:
    with pytest.raises(InvalidWrap, match="kind 1059"):
        unwrap(BOB, ALICE.sign(1, [], "hello", NOW))


def test_what_cannot_be_encrypted_is_said() -> None:
    with pytest.raises(EncryptError):
        private_message(ALICE, "ff" * 32, "hello", NOW)
    with pytest.raises(EncryptError):
        private_message(ALICE, BOB.pubkey, "x" * 70_000, NOW)
    assert unwrap(BOB, private_message(ALICE, BOB.pubkey, "half a \ud83d", NOW)).content == "half a ?"


@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda kids: st.lists(kids) | st.dictionaries(st.text(), kids))
)
@settings(max_examples=50, deadline=None)
def test_whatever_is_sealed_only_the_documented_error_comes(inside: object) -> None:
    raw = orjson.dumps(inside, option=orjson.OPT_PASSTHROUGH_SUBCLASS) if not _huge(inside) else b"1"
    with pytest.raises(InvalidWrap):
        unwrap(BOB, wrapped(ALICE.sign(SEAL, [], encrypt(ALICE, BOB.pubkey, raw.decode()), NOW).to_json()))


def _huge(value: object) -> bool:
    """orjson writes 64 bits."""
    if isinstance(value, list):
        return any(map(_huge, value))
    if isinstance(value, dict):
        return any(map(_huge, value.values()))
    return isinstance(value, int) and abs(value) >= 1 << 63


def test_message_relays_are_few_short_and_of_the_right_kind() -> None:
    tags = [["relay", f"wss://{n}.example.com"] for n in range(20)]
    assert message_relays(ALICE.sign(10_050, [["relay", "x" * 600], ["relay"], *tags], "", NOW)) == tuple(
        f"wss://{n}.example.com" for n in range(8)
    )
    assert message_relays(ALICE.sign(10_002, tags, "", NOW)) == ()
