"""Events and keys: what is signed verifies, what was changed does not, and no secret is shown."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import orjson
import pynostr.event
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvm.nostr import Event, Filter, InvalidEvent, InvalidKey, Keys, npub, parse_pubkey
from dvm.nostr.event import event_id
from dvm.nostr.frames import InvalidFrame, clean, parse, prefix

KEYS = Keys(bytes(31) + b"\x05")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
HEX64 = st.binary(min_size=32, max_size=32).map(bytes.hex)
FIELDS: dict[str, Any] = {
    "id": HEX64,
    "pubkey": HEX64,
    "created_at": st.integers(0, 2**53 - 1),
    "kind": st.integers(0, 65535),
    "tags": st.lists(st.lists(TEXT, max_size=3), max_size=3),
    "content": TEXT,
    "sig": st.binary(min_size=64, max_size=64).map(bytes.hex),
}
NAMES = ["EVENT", "OK", "EOSE", "CLOSED", "NOTICE", "AUTH", "COUNT", ""]


@given(kind=FIELDS["kind"], tags=FIELDS["tags"], content=TEXT, at=FIELDS["created_at"])
def test_what_is_signed_verifies_here_and_in_pynostr(kind: int, tags: Any, content: str, at: int) -> None:
    event = KEYS.sign(kind, tags, content, created_at=at)
    back = Event.from_json(event.to_json())
    assert back == event
    assert back.verify()
    assert json.loads(back.to_json()) == back.to_dict()
    assert pynostr.event.Event.from_dict(json.loads(event.to_json())).verify()


@given(st.fixed_dictionaries(FIELDS))
def test_a_well_formed_event_of_nobody_does_not_verify(raw: dict[str, Any]) -> None:
    assert Event.parse(raw).verify() is False


@given(field=st.sampled_from(sorted(FIELDS)), data=st.data())
def test_a_changed_event_does_not_verify(field: str, data: st.DataObject) -> None:
    event = KEYS.sign(1, [["t", "x"]], "hello", created_at=1)
    raw = event.to_dict()
    raw[field] = data.draw(FIELDS[field].filter(lambda value: value != raw[field]))
    assert not Event.parse(raw).verify()


@given(JSON | st.fixed_dictionaries({name: st.one_of(good, JSON) for name, good in FIELDS.items()}))
def test_parsing_raises_nothing_but_the_one_error(raw: object) -> None:
    try:
        event = Event.parse(raw)
    except InvalidEvent:
        return
    assert event.verify() in (True, False)
    assert Filter(kinds=[1], tags={"p": ["x"]}).matches(event) in (True, False)


@given(st.binary(max_size=100) | st.text(max_size=100))
def test_any_text_is_an_event_or_the_one_error(text: str | bytes) -> None:
    with pytest.raises(InvalidEvent):
        Event.from_json(text)


def test_deep_nesting_and_surrogates_are_the_one_error() -> None:
    for text in ("[" * 100_000, '{"content":"\\ud800"}', "1" * 10_000):
        with pytest.raises(InvalidEvent):
            Event.from_json(text)
    raw = KEYS.sign(1).to_dict() | {"content": "\ud800"}
    assert not Event.parse(raw).verify()
    with pytest.raises(TypeError):
        event_id(KEYS.pubkey, 1, 1, [], "\ud800")


@given(st.binary(max_size=100) | st.lists(st.sampled_from(NAMES) | JSON, max_size=5).map(json.dumps))
def test_any_frame_is_well_formed_or_the_one_error(data: str | bytes) -> None:
    try:
        frame = parse(data)
    except InvalidFrame:
        return
    assert frame[0] in NAMES
    if frame[0] == "EVENT":
        assert isinstance(frame[1], str)
        assert isinstance(frame[2], dict)
    if frame[0] == "OK":
        assert isinstance(frame[2], bool)
        assert isinstance(frame[3], str)


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ('["OK","a",true]', ["OK", "a", True, ""]),
        ('["CLOSED","s"]', ["CLOSED", "s", ""]),
        ('["EOSE","s","more"]', ["EOSE", "s", "more"]),
        ('["EVENT","s",{"id":1}]', ["EVENT", "s", {"id": 1}]),
    ],
)
def test_frames_are_read(text: str, frame: list[Any]) -> None:
    assert parse(text) == frame


def test_reasons() -> None:
    assert prefix("rate-limited: slow") == "rate-limited"
    assert prefix("no colon here") == ""
    assert clean("a\x1b[31m\nb" + "x" * 1000).startswith("a [31m b")
    assert len(clean("x" * 10**6)) == 200


def test_a_filter_matches_as_nip_01_has_it() -> None:
    event = KEYS.sign(5050, [["p", "aa"], ["p", "bb"], ["t"], []], created_at=100)
    for good in (
        Filter(),
        Filter(kinds=[1, 5050], authors=[KEYS.pubkey], ids=[event.id]),
        Filter(tags={"p": ["bb", "cc"]}),
        Filter(since=100, until=100),
    ):
        assert good.matches(event)
    for bad in (
        Filter(kinds=[]),
        Filter(kinds=[1]),
        Filter(authors=["aa"]),
        Filter(ids=["aa"]),
        Filter(tags={"p": ["cc"]}),
        Filter(tags={"t": [""]}),
        Filter(tags={"p": ["aa"], "e": ["aa"]}),
        Filter(since=101),
        Filter(until=99),
    ):
        assert not bad.matches(event)


def test_a_filter_as_json() -> None:
    wanted = Filter(kinds=[2, 1], tags={"p": ["b", "a"]}, since=5, limit=3)
    assert wanted.to_dict() == {"kinds": [1, 2], "#p": ["a", "b"], "since": 5, "limit": 3}
    assert wanted.to_dict(since=3, until=9) == wanted.to_dict() | {"until": 9}
    assert wanted.to_dict(since=7)["since"] == 7


def test_a_key_is_never_shown() -> None:
    keys = Keys.generate()
    secret = parse_secret(keys)
    for shown in (repr(keys), str(keys), f"{keys}", f"{vars(keys)}"):
        assert secret.hex() not in shown
        assert keys.nsec() not in shown
    assert Keys.parse(keys.nsec()).pubkey == keys.pubkey
    assert Keys.parse(f" {secret.hex()}\n").pubkey == keys.pubkey


def parse_secret(keys: Keys) -> bytes:
    return Keys.parse(keys.nsec())._key.secret


@given(st.text(max_size=80) | st.text(max_size=60).map(lambda t: f"nsec1{t}") | st.binary(max_size=40).map(bytes.hex))
def test_what_is_no_secret_key_is_the_one_error_and_is_not_repeated(text: str) -> None:
    caught: InvalidKey | None = None
    try:
        Keys.parse(text)
    except InvalidKey as error:
        caught = error
    assert caught is None or caught.__cause__ is None
    assert len(text.strip()) < 8 or text.strip() not in str(caught)


@given(st.text(max_size=80) | st.text(max_size=60).map(lambda t: f"npub1{t}") | st.binary(max_size=40).map(bytes.hex))
def test_what_is_no_public_key_is_the_one_error(text: str) -> None:
    with contextlib.suppress(InvalidKey):
        assert len(parse_pubkey(text)) == 64


def test_public_keys_in_both_forms() -> None:
    assert parse_pubkey(npub(KEYS.pubkey)) == KEYS.pubkey == parse_pubkey(KEYS.pubkey.upper())
    with pytest.raises(InvalidKey):
        parse_pubkey(KEYS.nsec())
    with pytest.raises(InvalidKey):
        Keys.parse(KEYS.npub)


@pytest.mark.parametrize("secret", [b"", b"\x01" * 31, b"\x01" * 33, bytes(32), b"\xff" * 32])
def test_secrets_outside_the_curves_order_are_no_keys(secret: bytes) -> None:
    with pytest.raises(InvalidKey):
        Keys(secret)


def test_orjson_agrees_on_the_wire_form() -> None:
    event = KEYS.sign(1, [["t", "ü\n\u2028"]], 'quote " and \x07', created_at=1)
    assert orjson.loads(event.to_json()) == event.to_dict()
    assert event_id(event.pubkey, 1, 1, event.tags, event.content) == event.id
