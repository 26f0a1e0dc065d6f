"""NIP-04: AES-256-CBC without authentication. Deprecated, but what NIP-90 names and older wallets speak."""

from __future__ import annotations

import base64
import binascii
import os

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

from dvm.nostr.keys import InvalidKey, Keys
from dvm.nostr.nip44 import DecryptError, EncryptError

MAX_TEXT = 1 << 20
"""The most that is encrypted or decrypted, in UTF-8 bytes. The NIP has no limit; relays have."""

_MAX_PAYLOAD = (MAX_TEXT + 16) * 4 // 3 + 64


def encrypt(keys: Keys, pubkey: str, text: str, *, iv: bytes | None = None) -> str:
    """`text` for the owner of `pubkey`, as `<base64>?iv=<base64>`. Raises EncryptError.

    `iv` is for tests: 16 bytes, never used twice.
    """
    try:
        plain = text.encode()
        key = keys.shared_x(pubkey)
    except UnicodeEncodeError:
        raise EncryptError("the text holds a lone surrogate, which UTF-8 cannot carry") from None
    except InvalidKey as error:
        raise EncryptError(str(error)) from None
    if len(plain) > MAX_TEXT:
        raise EncryptError(f"at most {MAX_TEXT} bytes are encrypted, not {len(plain)}")
    iv = os.urandom(16) if iv is None else iv
    if len(iv) != 16:
        raise EncryptError("an initialisation vector is 16 bytes")
    padder = PKCS7(128).padder()
    cipher = Cipher(AES(key), CBC(iv)).encryptor()
    data = cipher.update(padder.update(plain) + padder.finalize()) + cipher.finalize()
    return f"{base64.b64encode(data).decode()}?iv={base64.b64encode(iv).decode()}"


def decrypt(keys: Keys, pubkey: str, payload: str) -> str:
    """The text that the owner of `pubkey` encrypted for us. Raises DecryptError.

    Nothing authenticates it but the signature of the event that carries it. One message stands for every
    failure past the format, so that an answer is no padding oracle.
    """
    if len(payload) > _MAX_PAYLOAD:
        raise DecryptError("not a NIP-04 payload: too long")
    body, mark, vector = payload.partition("?iv=")
    if not mark:
        raise DecryptError("not a NIP-04 payload: no ?iv=")
    try:
        data = base64.b64decode(body, validate=True)
        iv = base64.b64decode(vector, validate=True)
    except (binascii.Error, ValueError):
        raise DecryptError("not a NIP-04 payload: not base64") from None
    if len(iv) != 16 or not data or len(data) % 16:
        raise DecryptError("not a NIP-04 payload: wrong length")
    try:
        key = keys.shared_x(pubkey)
    except InvalidKey as error:
        raise DecryptError(str(error)) from None
    cipher = Cipher(AES(key), CBC(iv)).decryptor()
    unpadder = PKCS7(128).unpadder()
    try:
        padded = cipher.update(data) + cipher.finalize()
        return (unpadder.update(padded) + unpadder.finalize()).decode()
    except ValueError:  # wrong padding, or not UTF-8
        raise DecryptError("wrong key, or the payload was changed") from None
