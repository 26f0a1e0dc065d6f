"""NIP-17, private messages: a chat message (kind 14) in a gift wrap (NIP-59)."""

from __future__ import annotations

from dvm.nostr.event import Event
from dvm.nostr.keys import Keys
from dvm.nostr.nip59 import Rumor, gift_wrap

MESSAGE = 14
MESSAGE_RELAYS = 10_050
"""The kind of the list of relays at which somebody wants to be sent messages."""
MAX_RELAYS = 8


def private_message(keys: Keys, recipient: str, text: str, created_at: int) -> Event:
    """The wrap to publish so that `recipient` (hex) reads `text` from us; it is itself dated earlier.

    It belongs on the recipient's `message_relays`. Raises EncryptError for what is no public key, and for
    more than some 40,000 bytes of text.
    """
    text = text.encode("utf-8", "replace").decode()  # lone surrogates, which no event can carry
    return gift_wrap(keys, recipient, Rumor(keys.pubkey, created_at, MESSAGE, [["p", recipient]], text), created_at)


def message_relays(event: Event) -> tuple[str, ...]:
    """Where the author of a kind 10050 wants messages, at most 8 URLs: hostile input. Never raises: another
    kind has none."""
    if event.kind != MESSAGE_RELAYS:
        return ()
    urls = (url for url in event.values("relay") if 0 < len(url) <= 512)
    return tuple(dict.fromkeys(urls))[:MAX_RELAYS]
