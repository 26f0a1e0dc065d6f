"""A key pair that signs, kept ready: building it is most of the cost of a signature."""

from __future__ import annotations

import hmac
import time
from functools import lru_cache

import pynostr.key
from coincurve import PrivateKey
from coincurve._libsecp256k1 import ffi, lib

from dvm.nostr.event import Event, event_id
from dvm.nostr.randomness import random_bytes


class InvalidKey(ValueError):
    """Not a key; the text never repeats what was given."""


class Keys:
    """A Nostr key pair. Neither `repr` nor an error shows the secret; `nsec()` is the only way out."""

    def __init__(self, secret: bytes) -> None:
        try:
            self._key = PrivateKey(secret)
        except (ValueError, TypeError):
            raise InvalidKey("a secret key is 32 bytes within the curve's order") from None
        self._context = self._key.context.ctx
        self._keypair = ffi.new("secp256k1_keypair *")
        if len(secret) != 32 or not lib.secp256k1_keypair_create(self._context, self._keypair, secret):
            raise InvalidKey("a secret key is 32 bytes within the curve's order")
        self.pubkey: str = self._key.public_key_xonly.format().hex()
        self._ecdh = lru_cache(maxsize=4096)(self._shared_x)

    @classmethod
    def generate(cls) -> Keys:
        """A new random key pair."""
        return cls(pynostr.key.PrivateKey().raw_secret)

    @classmethod
    def parse(cls, text: str) -> Keys:
        """From `nsec1…` (NIP-19) or 64 hex digits. Raises InvalidKey."""
        text = text.strip()
        try:
            if text.startswith("nsec1"):
                return cls(pynostr.key.PrivateKey.from_nsec(text).raw_secret)
            return cls(bytes.fromhex(text))
        except InvalidKey:
            raise
        except Exception:  # noqa: BLE001 - pynostr raises whatever its bech32 decoder meets
            raise InvalidKey("not a secret key: nsec1… or 64 hex digits expected") from None

    @property
    def npub(self) -> str:
        return npub(self.pubkey)

    def nsec(self) -> str:
        """The secret, in NIP-19 form. For writing it to the key file, nowhere else."""
        return str(pynostr.key.PrivateKey(self._key.secret).nsec)

    def sign(
        self, kind: int, tags: list[list[str]] | None = None, content: str = "", created_at: int | None = None
    ) -> Event:
        """A signed event; `created_at` in seconds, now if not given."""
        tags = [] if tags is None else tags
        at = int(time.time()) if created_at is None else created_at
        digest = event_id(self.pubkey, at, kind, tags, content)
        sig = self.sign_digest(bytes.fromhex(digest)).hex()
        return Event(id=digest, pubkey=self.pubkey, created_at=at, kind=kind, tags=tags, content=content, sig=sig)

    def sign_digest(self, digest: bytes) -> bytes:
        """A BIP-340 signature, 64 bytes, of a 32-byte digest."""
        if len(digest) != 32:
            raise ValueError("a digest is 32 bytes")
        signature = ffi.new("unsigned char[64]")
        if not lib.secp256k1_schnorrsig_sign32(self._context, signature, digest, self._keypair, random_bytes(32)):
            raise RuntimeError("signing failed")
        return bytes(ffi.buffer(signature, 64))

    def derive(self, label: str) -> bytes:
        """32 bytes that only this key can make, and make again, for each label: HMAC-SHA256.

        What must be secret and must survive a crash need not be stored then.
        """
        return hmac.digest(self._key.secret, label.encode(), "sha256")

    def shared_x(self, pubkey: str) -> bytes:
        """The x coordinate of the ECDH point with that public key (hex), unhashed; cached.

        NIP-04 uses it as its key, NIP-44 derives the conversation key from it. Raises InvalidKey.
        """
        return self._ecdh(pubkey)

    def _shared_x(self, pubkey: str) -> bytes:
        try:
            return bytes(pynostr.key.PrivateKey(self._key.secret).ecdh(pubkey))
        except Exception:  # noqa: BLE001 - pynostr raises bare Exception
            raise InvalidKey("not a public key: 64 hex digits of a point on the curve expected") from None

    def __repr__(self) -> str:
        return f"Keys({self.npub})"


def npub(pubkey: str) -> str:
    """The NIP-19 form of a public key in hex."""
    return str(pynostr.key.PublicKey.from_hex(pubkey).npub)


def parse_pubkey(text: str) -> str:
    """A public key in hex, from `npub1…` or hex. Raises InvalidKey."""
    text = text.strip()
    try:
        raw = pynostr.key.PublicKey.from_npub(text).raw_bytes if text.startswith("npub1") else bytes.fromhex(text)
    except Exception:  # noqa: BLE001 - pynostr raises whatever its bech32 decoder meets
        raise InvalidKey("not a public key: npub1… or 64 hex digits expected") from None
    if len(raw) != 32:
        raise InvalidKey("not a public key: npub1… or 64 hex digits expected")
    return raw.hex()
