"""An LND macaroon, read for what it may do: LND writes the permissions into its identifier.

Only LND can tell whether it is genuine, and a caveat may narrow it further; what is read here spares an operator
the first customer's failure. The format: libmacaroons' binary version 2, whose identifier is go-macaroon-bakery's
version 3, a protobuf of a nonce, a storage id and the permitted operations (`entity`, `actions`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass

from dvm.lightning.base import WalletError

_MAX = 8_192  # bytes
_URI = "uri"  # an entity whose actions are calls by their full name


@dataclass(frozen=True)
class Macaroon:
    """`hex` is what LND's header takes. It shows itself nowhere."""

    hex: str

    def __repr__(self) -> str:
        return "Macaroon()"

    def may(self, entity: str, action: str, call: str) -> bool:
        """Whether it permits `entity:action`, or this very call. True where that cannot be read from it."""
        try:
            operations = set(_operations(bytes.fromhex(self.hex)))
        except (ValueError, IndexError):
            return True
        return not operations or (entity, action) in operations or (_URI, call) in operations


def parse(text: str | None) -> Macaroon:
    """A macaroon in hex, or in base64 with either alphabet. Raises WalletError, without repeating it."""
    stripped = "".join((text or "").split())
    for decode in (bytes.fromhex, _unbase64):
        try:
            raw = decode(stripped)
        except (ValueError, binascii.Error):
            continue
        if 16 <= len(raw) <= _MAX and raw[0] == 2:
            return Macaroon(raw.hex())
    raise WalletError(
        "unauthorized",
        "DVM_LND_MACAROON (or the file that wallet.secret_file names) is no macaroon: write the node's "
        "admin.macaroon as hex (xxd -p -c 9999 admin.macaroon) or base64 (base64 -w0 admin.macaroon)",
    )


def _unbase64(text: str) -> bytes:
    return base64.b64decode(text.translate({ord("-"): "+", ord("_"): "/"}) + "=" * (-len(text) % 4), validate=True)


def _operations(raw: bytes) -> Iterator[tuple[str, str]]:
    identifier = next(value for kind, value in _packets(raw[1:]) if kind == 2)
    if identifier[:1] != b"\x03":
        return
    for number, operation in _protobuf(identifier[1:]):
        if number == 3:
            fields = list(_protobuf(operation))
            entities = [value.decode() for kind, value in fields if kind == 1]
            for kind, action in fields:
                if kind == 2 and entities:
                    yield entities[0], action.decode()


def _packets(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of the first section: a type, a length and that many bytes each; type 0 ends it."""
    at = 0
    while raw[at]:
        kind, at = _varint(raw, at)
        length, at = _varint(raw, at)
        yield kind, _slice(raw, at, length)
        at += length
    raise ValueError("no identifier")


def _protobuf(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Fields with a length (wire type 2), which is all that a macaroon's identifier is made of."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        if key & 7 != 2:
            raise ValueError("not a macaroon's identifier")
        length, at = _varint(raw, at)
        yield key >> 3, _slice(raw, at, length)
        at += length


def _slice(raw: bytes, at: int, length: int) -> bytes:
    if at + length > len(raw):
        raise ValueError("cut off")
    return raw[at : at + length]


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 28:
            raise ValueError("a number that is too large")
