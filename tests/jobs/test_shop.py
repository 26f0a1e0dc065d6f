"""What the engine keeps in memory for strangers."""

from __future__ import annotations

from typing import Any, cast

from dvm.jobs import Shop, shop
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys

NONE = cast("Any", None)


def ask(customer: Keys, text: str) -> Event:
    return customer.sign(5050, [["i", text, "text"]], "", 1_700_000_000)


def test_large_requests_are_read_again_rather_than_kept() -> None:
    """A thousand quotes over the largest prompts would else be hundreds of megabytes, for nothing."""
    customer = Keys.generate()
    parts = Shop(Keys.generate(), NONE, NONE, NONE, {}, {})
    small, large = ask(customer, "a"), ask(customer, "a" * 200_000)
    assert parts.read(small).texts() == ("a",)
    assert parts.read(large).texts() == ("a" * 200_000,)
    assert list(parts._read) == [small.id]


def test_no_more_than_so_many_requests_are_kept(monkeypatch: Any) -> None:
    monkeypatch.setattr(shop, "REMEMBERED", 3)
    customer = Keys.generate()
    parts = Shop(Keys.generate(), NONE, NONE, NONE, {}, {})
    events = [ask(customer, f"{n}") for n in range(5)]
    for event in events:
        parts.read(event)
    assert list(parts._read) == [event.id for event in events[2:]]
