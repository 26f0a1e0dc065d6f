"""NIP-59, gift wraps: an unsigned event (the rumor), sealed by its author, wrapped by a key used once.

Relays see only that somebody, at some time of the last days, has sent the recipient something.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import orjson

from dvm.nostr import nip44
from dvm.nostr.event import Event, InvalidEvent, event_id
from dvm.nostr.keys import Keys
from dvm.nostr.nip44 import DecryptError

SEAL, GIFT_WRAP = 13, 1059
PAST_SECONDS = 2 * 86_400
"""Seals and wraps are dated up to so long before they are made, so that their times tell nothing."""


class InvalidWrap(ValueError):
    """The event is no gift wrap for us, or not by whom it says; the text says why, and nothing private."""


@dataclass(frozen=True, slots=True)
class Rumor:
    """An event that nobody signed, so that whoever leaks it can prove nothing; `created_at` in seconds."""

    pubkey: str
    created_at: int
    kind: int
    tags: list[list[str]]
    content: str

    @property
    def id(self) -> str:
        return event_id(self.pubkey, self.created_at, self.kind, self.tags, self.content)


def gift_wrap(keys: Keys, recipient: str, rumor: Rumor, now: int) -> Event:
    """The wrap to publish, for the owner of `recipient` (hex); `keys` are the rumor's author's.

    Raises EncryptError for what is no public key and for a rumor of more than some 40,000 bytes, ValueError for
    another's rumor.
    """
    if rumor.pubkey != keys.pubkey:
        raise ValueError("only its author seals a rumor")
    fields = {
        "id": rumor.id,
        "pubkey": rumor.pubkey,
        "created_at": rumor.created_at,
        "kind": rumor.kind,
        "tags": rumor.tags,
        "content": rumor.content,
    }
    content = nip44.encrypt(keys, recipient, orjson.dumps(fields).decode())
    seal = keys.sign(SEAL, [], content, _past(now))
    once = Keys.generate()
    return once.sign(GIFT_WRAP, [["p", recipient]], nip44.encrypt(once, recipient, seal.to_json()), _past(now))


def unwrap(keys: Keys, event: Event) -> Rumor:
    """The rumor in a gift wrap for us, whose author is proved by the seal. Raises InvalidWrap, nothing else.

    The wrap's own signature proves nothing (its key is anybody's), and it is not looked at.
    """
    if event.kind != GIFT_WRAP:
        raise InvalidWrap(f"kind {GIFT_WRAP} expected")
    try:
        seal = Event.from_json(nip44.decrypt(keys, event.pubkey, event.content))
        if seal.kind != SEAL or seal.tags or not seal.verify():
            raise InvalidWrap("what is wrapped is no seal, or is not signed by its author")
        raw = orjson.loads(nip44.decrypt(keys, seal.pubkey, seal.content))
        if not isinstance(raw, dict):
            raise InvalidWrap("what is sealed is no event")
        # A rumor has no signature, and where it has one all the same it counts for nothing.
        inner = Event.parse({"id": "0" * 64, **raw, "sig": "0" * 128})
    except DecryptError as error:
        raise InvalidWrap(f"cannot be decrypted: {error}") from None
    except (InvalidEvent, orjson.JSONDecodeError):
        raise InvalidWrap("what is inside is no event") from None
    if inner.pubkey != seal.pubkey:
        # Anyone can seal a rumor in another's name: only the seal is signed.
        raise InvalidWrap("it is sealed by another than its author")
    rumor = Rumor(inner.pubkey, inner.created_at, inner.kind, inner.tags, inner.content)
    if "id" in raw and raw["id"] != rumor.id:
        raise InvalidWrap("its id is not its own")
    return rumor


def _past(now: int) -> int:
    return now - secrets.randbelow(PAST_SECONDS)
