"""The wire: events and keys, encryption, one relay, many relays as one."""

from dvm.nostr.addresses import AddressRefused, check_relay_url, check_url, is_public, resolve_public
from dvm.nostr.encryption import DecryptError, EncryptError, Scheme, decrypt, detect, encrypt
from dvm.nostr.event import Event, InvalidEvent
from dvm.nostr.filters import Filter
from dvm.nostr.keys import InvalidKey, Keys, npub, parse_pubkey
from dvm.nostr.nip11 import Limitation, RelayInfo, RelayInfoUnavailable, fetch_relay_info
from dvm.nostr.nip17 import message_relays, private_message
from dvm.nostr.nip59 import InvalidWrap, Rumor, unwrap
from dvm.nostr.options import PoolOptions, RelayOptions
from dvm.nostr.pool import Published, RelayPool
from dvm.nostr.relay import NotPublished, Relay
from dvm.nostr.status import RelayStatus
from dvm.nostr.subscription import Subscription

__all__ = [
    "AddressRefused",
    "DecryptError",
    "EncryptError",
    "Event",
    "Filter",
    "InvalidEvent",
    "InvalidKey",
    "InvalidWrap",
    "Keys",
    "Limitation",
    "NotPublished",
    "PoolOptions",
    "Published",
    "Relay",
    "RelayInfo",
    "RelayInfoUnavailable",
    "RelayOptions",
    "RelayPool",
    "RelayStatus",
    "Rumor",
    "Scheme",
    "Subscription",
    "check_relay_url",
    "check_url",
    "decrypt",
    "detect",
    "encrypt",
    "fetch_relay_info",
    "is_public",
    "message_relays",
    "npub",
    "parse_pubkey",
    "private_message",
    "resolve_public",
    "unwrap",
]
