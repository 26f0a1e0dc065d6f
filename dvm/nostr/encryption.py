"""Both encryptions behind one name: an answer goes out in the scheme in which the question came."""

from __future__ import annotations

from typing import Literal

from dvm.nostr import nip04, nip44
from dvm.nostr.keys import Keys
from dvm.nostr.nip44 import DecryptError, EncryptError

Scheme = Literal["nip04", "nip44"]

__all__ = ["DecryptError", "EncryptError", "Scheme", "decrypt", "detect", "encrypt"]


def detect(payload: str) -> Scheme:
    """Which scheme a payload is in: only NIP-04 has `?iv=`, which is no base64."""
    return "nip04" if "?iv=" in payload else "nip44"


def encrypt(scheme: Scheme, keys: Keys, pubkey: str, text: str) -> str:
    """`text` for the owner of `pubkey` (hex). Raises EncryptError."""
    return nip04.encrypt(keys, pubkey, text) if scheme == "nip04" else nip44.encrypt(keys, pubkey, text)


def decrypt(keys: Keys, pubkey: str, payload: str) -> tuple[str, Scheme]:
    """The text, and the scheme to answer in. Raises DecryptError."""
    scheme = detect(payload)
    module = nip04 if scheme == "nip04" else nip44
    return module.decrypt(keys, pubkey, payload), scheme
