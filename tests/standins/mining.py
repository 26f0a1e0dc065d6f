"""A customer who proves work (NIP-13)."""

from __future__ import annotations

from itertools import count

from dvm.nostr.event import Event, event_id
from dvm.nostr.keys import Keys
from dvm.nostr.nip13 import difficulty


def mine(keys: Keys, kind: int, tags: list[list[str]], bits: int, at: int, target: int | None = None) -> Event:
    """A signed event whose id begins with `bits` zero bits; it commits to `target`, or else to `bits`."""
    for nonce in count():
        mined = [*tags, ["nonce", str(nonce), str(bits if target is None else target)]]
        if difficulty(event_id(keys.pubkey, at, kind, mined, "")) >= bits:
            return keys.sign(kind, mined, "", at)
    raise AssertionError
