"""What client and relay say to each other (NIP-01, NIP-42), as text frames. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from dvm.nostr.event import Event

_MAX_REASON = 200


class InvalidFrame(ValueError):
    """A relay sent what is no message of the protocol; the text says what is wrong with it."""


def parse(data: str | bytes) -> list[Any]:
    """A relay's message: a list whose first item names it and whose further items have the right types.

    `["EVENT", subscription, object]`, `["OK", event id, accepted, reason]`, `["EOSE", subscription]`,
    `["CLOSED", subscription, reason]`, `["NOTICE", text]`, `["AUTH", challenge]`. The event's object is
    not looked into. Raises InvalidFrame.
    """
    try:
        frame = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise InvalidFrame("not JSON") from None
    if type(frame) is not list or not frame:
        raise InvalidFrame("a message is a JSON array")
    name = frame[0]
    check = _SHAPES.get(name) if type(name) is str else None
    if check is None:
        raise InvalidFrame("unknown message")
    if not check(frame):
        raise InvalidFrame(f"malformed {name}")
    return frame


def _is_ok(frame: list[Any]) -> bool:
    if len(frame) == 3:
        frame.append("")  # NIP-01 demands the reason, some relays leave it out
    return len(frame) >= 4 and type(frame[1]) is str and type(frame[2]) is bool and type(frame[3]) is str


def _is_closed(frame: list[Any]) -> bool:
    if len(frame) == 2:
        frame.append("")
    return len(frame) >= 3 and type(frame[1]) is str and type(frame[2]) is str


def _is_text(frame: list[Any]) -> bool:
    return len(frame) >= 2 and type(frame[1]) is str


_SHAPES: dict[str, Callable[[list[Any]], bool]] = {
    "EVENT": lambda frame: len(frame) >= 3 and type(frame[1]) is str and type(frame[2]) is dict,
    "OK": _is_ok,
    "EOSE": _is_text,
    "CLOSED": _is_closed,
    "NOTICE": _is_text,
    "AUTH": _is_text,
}


def event_frame(event: Event, name: str = "EVENT") -> str:
    """The frame that publishes an event, or with the name `AUTH` authenticates (NIP-42)."""
    return f'["{name}",{event.to_json()}]'


def request_frame(subscription: str, filters: Sequence[dict[str, Any]]) -> str:
    return orjson.dumps(["REQ", subscription, *filters]).decode()


def close_frame(subscription: str) -> str:
    return orjson.dumps(["CLOSE", subscription]).decode()


def prefix(reason: str) -> str:
    """The machine-readable part of a reason: `auth-required`, `rate-limited`, `duplicate` …, or empty."""
    head, colon, _ = reason.partition(":")
    return head.strip() if colon else ""


def clean(text: str) -> str:
    """A relay's words made fit for a log line: one line, printable, short."""
    head = text[:_MAX_REASON]
    return "".join(c if c.isprintable() else " " for c in head).strip()
