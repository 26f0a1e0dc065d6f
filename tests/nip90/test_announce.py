"""Announcements: exact shapes, round trips, and others' events, hostile or merely odd."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvm.nip90 import (
    Announcement,
    InvalidAnnouncement,
    Param,
    Profile,
    RelayUse,
    announcement_draft,
    parse_announcement,
    parse_relay_list,
    profile_draft,
    relay_list_draft,
)
from tests.nip90.samples import JSON, NOW, PRICES, PROVIDER, TAGS, unsigned

SHOP = Announcement(
    d="shop",
    kinds=(5050, 5001),
    name="Shop",
    about="Answers",
    picture="https://example.com/p.png",
    lud16="shop@example.com",
    topics=("ai",),
    amount="flexible",
    prices={"flash": PRICES, "local": {"request": 2000}},
    params={"model": Param("Which model answers", values=("flash", "local")), "max_tokens": Param("At most")},
    provider=PROVIDER.pubkey,
)


def test_an_announcement_has_exactly_these_tags_and_this_content():
    draft = announcement_draft(SHOP)
    assert draft.kind == 31990
    assert draft.tags == [
        ["d", "shop"],
        ["k", "5050"],
        ["k", "5001"],
        ["t", "ai"],
        ["price", "flash", "input", "300000"],
        ["price", "flash", "cached", "75000"],
        ["price", "flash", "output", "2500000"],
        ["price", "local", "request", "2000"],
        ["alt", "A data vending machine: Shop"],
    ]
    assert json.loads(draft.content) == {
        "name": "Shop",
        "about": "Answers",
        "picture": "https://example.com/p.png",
        "lud16": "shop@example.com",
        "amount": "flexible",
        "nip90Params": {
            "model": {"required": False, "values": ["flash", "local"], "description": "Which model answers"},
            "max_tokens": {"required": False, "values": [], "description": "At most"},
        },
        "encryptionSupported": True,
        "supportsEncryption": True,
    }
    assert announcement_draft(SHOP) == draft, "the same announcement gives the same bytes"


@pytest.mark.parametrize("amount", ["free", "flexible", 21])
def test_what_is_announced_is_what_the_customer_reads(amount):
    shop = Announcement(**{**{name: getattr(SHOP, name) for name in SHOP.__slots__}, "amount": amount})
    event = announcement_draft(shop).sign(PROVIDER, NOW)
    read = parse_announcement(event)
    assert read == shop
    assert read.address == f"31990:{PROVIDER.pubkey}:shop"


def test_a_profile_says_that_it_is_a_bot():
    draft = profile_draft(Profile("Shop", lud16="shop@example.com"))
    assert (draft.kind, draft.tags) == (0, [])
    assert json.loads(draft.content) == {"name": "Shop", "lud16": "shop@example.com", "bot": True}


def test_a_relay_list_marks_what_is_only_read_or_only_written():
    uses = (RelayUse("wss://a"), RelayUse("wss://b", write=False), RelayUse("wss://c", read=False))
    draft = relay_list_draft([*uses, RelayUse("wss://d", read=False, write=False)])
    assert draft.tags == [["r", "wss://a"], ["r", "wss://b", "read"], ["r", "wss://c", "write"]]
    assert parse_relay_list(draft.sign(PROVIDER, NOW)) == uses


def test_a_relay_list_is_bounded():
    tags = [["r", f"wss://{n}"] for n in range(1000)] + [["r", "x" * 10_000]]
    assert len(parse_relay_list(unsigned(10002, tags, ""))) == 32
    assert parse_relay_list(unsigned(1, tags, "")) == ()


def test_other_peoples_announcements_are_read_as_far_as_they_go():
    empty = parse_announcement(unsigned(31990, [["d", ""]], ""))
    assert (empty.name, empty.kinds, dict(empty.prices), empty.amount) == ("", (), {}, "flexible")
    odd = {"name": 5, "about": None, "amount": "100", "nip90Params": [1], "supportsEncryption": "yes"}
    read = parse_announcement(unsigned(31990, [["d", "x"], ["k", "5050"]], json.dumps(odd)))
    assert (read.name, read.amount, read.encryption, dict(read.params)) == ("", 100, False, {})
    for amount in (True, -5, 1.5, {}, "much"):
        assert parse_announcement(unsigned(31990, [["d", "x"]], json.dumps({"amount": amount}))).amount == "flexible"


@pytest.mark.parametrize(
    "tags",
    [
        [],
        [["d", "x" * 300]],
        [["d", "x"], ["k", "many"]],
        [["d", "x"], ["price", "m", "input"]],
        [["d", "x"], ["price", "m", "input", "cheap"]],
        [["d", "x"], ["price", "m", "input", "-1"]],
        [["d", "x"], ["price", "m", "input", "1"], ["price", "m", "input", "2"]],
        [["d", "x"], ["price", "m" * 300, "input", "1"]],
        [["d", "x"], *[["price", "m", f"c{n}", "1"] for n in range(17)]],
        [["d", "x"], *[["x"]] * 1000],
    ],
)
def test_prices_are_strict(tags):
    with pytest.raises(InvalidAnnouncement):
        parse_announcement(unsigned(31990, tags, ""))


@given(tags=TAGS, content=JSON.map(json.dumps) | st.text(max_size=50), kind=st.sampled_from([31990, 10002, 1]))
def test_any_event_gives_an_announcement_or_the_one_documented_error(tags, content, kind):
    event = unsigned(kind, [["d", "x"], *tags], content)
    assert len(parse_relay_list(event)) <= 32
    try:
        read = parse_announcement(event)
    except InvalidAnnouncement:
        return
    assert all(price >= 0 for prices in read.prices.values() for price in prices.values())


@given(content=JSON)
def test_any_params_are_read_or_left_out(content):
    shape = {"name": content, "amount": content, "nip90Params": {"a": content, "b": {"values": content}}}
    read = parse_announcement(unsigned(31990, [["d", "x"]], json.dumps(shape)))
    assert set(read.params) <= {"a", "b"}
