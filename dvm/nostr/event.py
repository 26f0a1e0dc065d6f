"""NIP-01 events: parsed strictly, hashed once, verified at libsecp256k1's speed."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256
from typing import Any, cast

import orjson
import pynostr.event
from coincurve import PublicKeyXOnly

_HEX64 = re.compile(r"[0-9a-f]{64}").fullmatch
_HEX128 = re.compile(r"[0-9a-f]{128}").fullmatch
_MAX_SECONDS = 1 << 53
_MAX_KIND = 65_535


class InvalidEvent(ValueError):
    """What arrived is not a well-formed NIP-01 event; the text says which field."""


class Event(pynostr.event.Event):  # type: ignore[misc]
    """A signed event. Treat it as immutable: its id was computed from its fields.

    Equality and hash go by id. `tags` is a list of lists of strings, `created_at` is in seconds.
    """

    id: str
    pubkey: str
    created_at: int
    kind: int
    tags: list[list[str]]
    content: str
    sig: str

    _json: str | None = None

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - the NIP names it
        pubkey: str,
        created_at: int,
        kind: int,
        tags: list[list[str]],
        content: str,
        sig: str,
    ) -> None:
        self.id = id
        self.pubkey = pubkey
        self.created_at = created_at
        self.kind = kind
        self.tags = tags
        self.content = content
        self.sig = sig

    @classmethod
    def parse(cls, raw: object) -> Event:
        """An event from decoded JSON. Checks every field's shape, neither id nor signature: `verify` does.

        Raises InvalidEvent.
        """
        if not isinstance(raw, dict):
            raise InvalidEvent("an event is a JSON object")
        fields = cast("dict[str, Any]", raw)
        get = fields.get
        event_id, pubkey, sig = get("id"), get("pubkey"), get("sig")
        created_at, kind, tags, content = get("created_at"), get("kind"), get("tags"), get("content")
        if not (isinstance(event_id, str) and _HEX64(event_id)):
            raise InvalidEvent("id: 64 lowercase hex digits expected")
        if not (isinstance(pubkey, str) and _HEX64(pubkey)):
            raise InvalidEvent("pubkey: 64 lowercase hex digits expected")
        if not (isinstance(sig, str) and _HEX128(sig)):
            raise InvalidEvent("sig: 128 lowercase hex digits expected")
        if type(created_at) is not int or not 0 <= created_at < _MAX_SECONDS:
            raise InvalidEvent("created_at: seconds expected")
        if type(kind) is not int or not 0 <= kind <= _MAX_KIND:
            raise InvalidEvent("kind: an integer from 0 to 65535 expected")
        if not isinstance(content, str):
            raise InvalidEvent("content: a string expected")
        if not isinstance(tags, list):
            raise InvalidEvent("tags: a list expected")
        for tag in tags:
            if not isinstance(tag, list) or not all(type(item) is str for item in tag):
                raise InvalidEvent("tags: lists of strings expected")
        return cls(id=event_id, pubkey=pubkey, created_at=created_at, kind=kind, tags=tags, content=content, sig=sig)

    @classmethod
    def from_json(cls, text: str | bytes) -> Event:
        """An event from JSON text. Raises InvalidEvent."""
        try:
            return cls.parse(orjson.loads(text))
        except orjson.JSONDecodeError as error:
            raise InvalidEvent(f"not JSON: {error.msg}") from None

    def verify(self) -> bool:
        """Whether the id is the hash of the fields and the signature is the author's (BIP-340)."""
        try:
            if event_id(self.pubkey, self.created_at, self.kind, self.tags, self.content) != self.id:
                return False
            return bool(_public_key(self.pubkey).verify(bytes.fromhex(self.sig), bytes.fromhex(self.id)))
        except (ValueError, TypeError):  # a pubkey off the curve, a lone surrogate
            return False

    def tag(self, name: str) -> str | None:
        """The first value of the first tag of that name, or None."""
        for tag in self.tags:
            if len(tag) > 1 and tag[0] == name:
                return tag[1]
        return None

    def values(self, name: str) -> list[str]:
        """The first value of each tag of that name."""
        return [tag[1] for tag in self.tags if len(tag) > 1 and tag[0] == name]

    def all(self, name: str) -> list[list[str]]:
        """Each tag of that name, whole."""
        return [tag for tag in self.tags if tag and tag[0] == name]

    def to_json(self) -> str:
        """The event as compact JSON, the same text at each call."""
        if self._json is None:
            self._json = orjson.dumps(self.to_dict()).decode()
        return self._json

    def serialize(self) -> bytes:
        """The bytes that NIP-01 hashes into the id."""
        return _serialize(self.pubkey, self.created_at, self.kind, self.tags, self.content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)


@lru_cache(maxsize=4096)
def _public_key(pubkey: str) -> PublicKeyXOnly:
    """Parsed, which is a good part of verifying; authors come again. Raises ValueError."""
    return PublicKeyXOnly(bytes.fromhex(pubkey))


def event_id(pubkey: str, created_at: int, kind: int, tags: list[list[str]], content: str) -> str:
    """The NIP-01 id, in hex. Raises TypeError for text that UTF-8 cannot carry."""
    return sha256(_serialize(pubkey, created_at, kind, tags, content)).hexdigest()


def _serialize(pubkey: str, created_at: int, kind: int, tags: list[list[str]], content: str) -> bytes:
    return orjson.dumps([0, pubkey, created_at, kind, tags, content])
