"""What the whole room shares: kinds, strict numbers, tag arrays inside encrypted content, unsigned events."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import orjson

from dvm.nostr.event import Event
from dvm.nostr.keys import Keys

DELETION = 5
FEEDBACK = 7000
RECEIPT = 7090
ACCOUNT_REQUEST = 7091
ACCOUNT_ANSWER = 7092
ANNOUNCEMENT = 31990
PROFILE = 0
RELAY_LIST = 10002
FIRST_REQUEST, LAST_REQUEST = 5000, 5999
TO_RESULT = 1000
"""A result's kind is its request's kind plus this."""

MSAT = 1000
"""msat in a sat."""
MAX_MSAT = 21_000_000 * 100_000_000 * MSAT
"""All the bitcoin that there will ever be: no honest amount is larger, and SQLite's integers hold it."""
MAX_COUNT = 10**15
"""The largest count of tokens, or price of a million of them, that is believed."""
MAX_TAGS = 1000
"""The most tags, outer and encrypted ones together, that an event of this room may have."""

# The exact JSON around an event's fields, and around the event in a message to a relay (NIP-01). A relay
# that bounds messages (NIP-11, max_message_length) counts the latter, strfry the former: the larger counts.
_ENVELOPE = len('["EVENT",]') + len('{"id":"","pubkey":"","created_at":,"kind":,"tags":,"content":,"sig":""}')
_FIXED = _ENVELOPE + 64 + 64 + 128 + 10 + 5  # id, pubkey, sig, created_at, kind

_NATURAL = re.compile(r"0|[1-9][0-9]{0,18}").fullmatch
_HEX64 = re.compile(r"[0-9a-f]{64}").fullmatch


C = TypeVar("C", bound=str)


class Unservable(ValueError, Generic[C]):
    """What a customer asks for cannot be done as it stands: `code` says why for programs, `text` for the customer,
    quoting nothing private. `str()` is what an error answer says: "code: text".
    """

    def __init__(self, code: C, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code: C = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Draft:
    """An event that nobody has signed yet."""

    kind: int
    tags: list[list[str]]
    content: str = ""

    def sign(self, keys: Keys, created_at: int) -> Event:
        """The event, signed; `created_at` in unix seconds."""
        return keys.sign(self.kind, self.tags, self.content, created_at)

    def wire_bytes(self) -> int:
        """How many bytes the signed event takes in a message to a relay (an upper bound, by a few bytes).

        Raises TypeError for text that UTF-8 cannot carry.
        """
        return _FIXED + len(orjson.dumps(self.tags)) + len(orjson.dumps(self.content))


def natural(text: str, most: int) -> int:
    """A decimal from 0 to `most`: ASCII digits only, no sign, point, blank or leading zero.

    Raises ValueError. Python's own int() would also take "1_000", " 7 " and digits of other scripts.
    """
    if not _NATURAL(text) or (number := int(text)) > most:
        raise ValueError(f"a whole number from 0 to {most} expected")
    return number


def integer(text: str, most: int) -> int:
    """As `natural`, with an optional minus: from -`most` to `most`. Raises ValueError."""
    if text.startswith("-") and text != "-0":
        return -natural(text[1:], most)
    return natural(text, most)


def is_hex64(text: str) -> bool:
    """Whether this is an event id, a public key, a payment hash: 32 bytes in lowercase hex."""
    return _HEX64(text) is not None


def one_value(tags: Iterable[list[str]], name: str) -> str | None:
    """The value of the only tag of that name; None without one. Raises ValueError if there are two.

    Two readers of an event that states something twice may believe different things.
    """
    tag = one_tag(tags, name, 2)
    return None if tag is None else tag[1]


def one_tag(tags: Iterable[list[str]], name: str, length: int) -> list[str] | None:
    """The only tag of that name, of at least `length` items; None without one. Raises ValueError."""
    found = [tag for tag in tags if tag and tag[0] == name]
    if not found:
        return None
    if len(found) > 1:
        raise ValueError(f"{name}: stated twice")
    if len(found[0]) < length:
        raise ValueError(f"{name}: incomplete")
    return found[0]


def tags_from_json(text: str) -> list[list[str]]:
    """The tags in decrypted content. Raises ValueError unless it is a JSON array of arrays of strings."""
    try:
        raw = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise ValueError("the encrypted content is not JSON") from None
    if not isinstance(raw, list) or len(raw) > MAX_TAGS:
        raise ValueError(f"the encrypted content is not an array of at most {MAX_TAGS} tags")
    for tag in raw:
        if not isinstance(tag, list) or not all(type(item) is str for item in tag):
            raise ValueError("the encrypted content is not an array of arrays of strings")
    return cast("list[list[str]]", raw)


def tags_to_json(tags: list[list[str]]) -> str:
    """The inverse of `tags_from_json`. Raises TypeError for text that UTF-8 cannot carry."""
    return orjson.dumps(tags).decode()


def other_party(event: Event, keys: Keys) -> str:
    """Whose key, with ours, opens the event's content: its author's, or if that is us, the first `p`."""
    return event.pubkey if event.pubkey != keys.pubkey else event.tag("p") or keys.pubkey


def has(tags: Iterable[list[str]], name: str) -> bool:
    """Whether there is a tag of that name, such as `["encrypted"]` or `["-"]`."""
    return any(tag and tag[0] == name for tag in tags)
