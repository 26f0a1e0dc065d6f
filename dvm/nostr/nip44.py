"""NIP-44, version 2: ChaCha20 and HMAC-SHA256 under a key that two people derive from their key pairs."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import struct
from functools import lru_cache

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from dvm.nostr.keys import InvalidKey, Keys

MAX_TEXT = 65_535
"""The most that one payload carries, in UTF-8 bytes."""

_VERSION = 2
_MIN_PAYLOAD, _MAX_PAYLOAD = 132, 87_472  # base64 characters
_SALT = b"nip44-v2"


class EncryptError(ValueError):
    """The text cannot be encrypted for that key; the message repeats neither."""


class DecryptError(ValueError):
    """The payload cannot be read; the message repeats neither it nor a key."""


def encrypt(keys: Keys, pubkey: str, text: str, *, nonce: bytes | None = None) -> str:
    """`text` for the owner of `pubkey`, as base64. Raises EncryptError.

    Only the published test vectors give a `nonce`: 32 bytes, never used twice.
    """
    try:
        plain = text.encode()
        key = conversation_key(keys, pubkey)
    except UnicodeEncodeError:
        raise EncryptError("the text holds a lone surrogate, which UTF-8 cannot carry") from None
    except InvalidKey as error:
        raise EncryptError(str(error)) from None
    return encrypt_with(key, plain, os.urandom(32) if nonce is None else nonce)


def decrypt(keys: Keys, pubkey: str, payload: str) -> str:
    """The text that the owner of `pubkey` encrypted for us. Raises DecryptError."""
    try:
        key = conversation_key(keys, pubkey)
    except InvalidKey as error:
        raise DecryptError(str(error)) from None
    return decrypt_with(key, payload)


def conversation_key(keys: Keys, pubkey: str) -> bytes:
    """The key that both sides share, the same in each direction. Raises InvalidKey."""
    return _extract(keys.shared_x(pubkey))


@lru_cache(maxsize=4096)
def _extract(shared_x: bytes) -> bytes:
    return hmac.digest(_SALT, shared_x, "sha256")


def encrypt_with(key: bytes, plain: bytes, nonce: bytes) -> str:
    """`encrypt`, given the conversation key. Raises EncryptError."""
    if not 1 <= len(plain) <= MAX_TEXT:
        raise EncryptError(f"NIP-44 carries 1 to {MAX_TEXT} bytes, not {len(plain)}")
    if len(nonce) != 32:
        raise EncryptError("a nonce is 32 bytes")
    chacha_key, chacha_nonce, hmac_key = message_keys(key, nonce)
    padded = struct.pack(">H", len(plain)) + plain.ljust(padded_length(len(plain)), b"\0")
    ciphertext = _chacha20(chacha_key, chacha_nonce, padded)
    mac = hmac.digest(hmac_key, nonce + ciphertext, "sha256")
    return base64.b64encode(bytes([_VERSION]) + nonce + ciphertext + mac).decode()


def decrypt_with(key: bytes, payload: str) -> str:
    """`decrypt`, given the conversation key. Raises DecryptError."""
    if payload.startswith("#"):
        raise DecryptError("an encryption version from the future")
    # Sizes are checked first: nothing is decoded that could not be right.
    if not _MIN_PAYLOAD <= len(payload) <= _MAX_PAYLOAD:
        raise DecryptError("not a NIP-44 payload: wrong length")
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise DecryptError("not a NIP-44 payload: not base64") from None
    if data[0] != _VERSION:
        raise DecryptError(f"NIP-44 version {data[0]} is not supported")
    if len(data) < 99:
        raise DecryptError("not a NIP-44 payload: wrong length")
    nonce, ciphertext, mac = data[1:33], data[33:-32], data[-32:]
    chacha_key, chacha_nonce, hmac_key = message_keys(key, nonce)
    if not hmac.compare_digest(hmac.digest(hmac_key, nonce + ciphertext, "sha256"), mac):
        raise DecryptError("wrong key, or the payload was changed")
    padded = _chacha20(chacha_key, chacha_nonce, ciphertext)
    length = int.from_bytes(padded[:2], "big")
    plain = padded[2 : 2 + length]
    if length == 0 or len(plain) != length or len(padded) != 2 + padded_length(length):
        raise DecryptError("wrong padding")
    try:
        return plain.decode()
    except UnicodeDecodeError:
        raise DecryptError("the text is not UTF-8") from None


def message_keys(key: bytes, nonce: bytes) -> tuple[bytes, bytes, bytes]:
    """ChaCha20 key (32 bytes), its nonce (12) and the HMAC key (32), by HKDF-expand with SHA-256."""
    # RFC 5869, section 2.3, by hand: three digests take a third of the time of the library's object.
    first = hmac.digest(key, nonce + b"\x01", "sha256")
    second = hmac.digest(key, first + nonce + b"\x02", "sha256")
    third = hmac.digest(key, second + nonce + b"\x03", "sha256")
    return first, second[:12], second[12:] + third[:12]


def padded_length(length: int) -> int:
    """The length, in bytes, that a text of that length is padded to."""
    if length <= 32:
        return 32
    next_power: int = 1 << (length - 1).bit_length()
    chunk = 32 if next_power <= 256 else next_power // 8
    return chunk * ((length - 1) // chunk + 1)


def _chacha20(key: bytes, nonce: bytes, data: bytes) -> bytes:
    # `cryptography` takes RFC 8439's counter (4 bytes, little-endian, from 0) and nonce as one.
    return Cipher(ChaCha20(key, bytes(4) + nonce), mode=None).encryptor().update(data)
