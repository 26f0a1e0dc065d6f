"""BOLT 11 invoices, decoded strictly and encoded.

Own code, and not the `bolt11` package, for one measured reason: that one takes 2 to 5 ms an invoice,
more than everything else that a paid job costs; this takes a fifteenth of it, nearly all of it
libsecp256k1. The package stays as the tests' oracle.
"""

from __future__ import annotations

import re
from base64 import b32hexencode
from dataclasses import dataclass
from hashlib import sha256

from coincurve import PrivateKey, PublicKey
from coincurve.ecdsa import cdata_to_der, deserialize_compact

from dvm.nostr.randomness import random_bytes

MAX_LENGTH = 7_089  # characters: the most that a QR code holds, and what LDK accepts
MAX_DESCRIPTION = 639  # bytes: what 1,023 symbols of 5 bits hold
MAX_MSAT = 21_000_000 * 100_000_000_000  # all bitcoin
DEFAULT_EXPIRY = 3_600  # seconds, where the invoice names none

_PREFIXES = {"mainnet": "bc", "testnet": "tb", "signet": "tbs", "regtest": "bcrt"}
_NETWORKS = {prefix: network for network, prefix in _PREFIXES.items()}
_HRP = re.compile(r"ln(bcrt|bc|tbs|tb)(?:([1-9][0-9]{0,19})([munp]?))?").fullmatch
_UNITS = {"": 100_000_000_000, "m": 100_000_000, "u": 100_000, "n": 100}  # msat; "p" is a tenth of one

_SIGNATURE, _CHECKSUM, _TIMESTAMP = 104, 6, 7  # symbols
_MAX_SECONDS = 1 << 53
_REQUIRED = "9qrsgq"  # BOLT 9: onions of variable length (8) and payment secrets (14)
_KNOWN_FEATURES = frozenset({8, 14, 16, 24, 36, 48, 50, 56})  # the even bits that BOLT 9 names


class InvalidInvoice(ValueError):
    """The text is not a BOLT 11 invoice; the message says why."""


@dataclass(frozen=True, slots=True)
class Bolt11:
    """What an invoice says; its signature is valid and is `payee`'s.

    `msat` is None where the payer chooses the amount. Hashes and keys are lowercase hex, times unix
    seconds. `description` or `description_hash` is there, never both. `features` holds the BOLT 9 bits.
    """

    network: str
    msat: int | None
    payment_hash: str
    payment_secret: str | None
    description: str | None
    description_hash: str | None
    payee: str
    created_at: int
    expiry: int
    features: int

    @property
    def expires_at(self) -> int:
        return self.created_at + self.expiry

    @property
    def unknown_required(self) -> tuple[int, ...]:
        """Even feature bits that this reader does not know: a payer must not pay (BOLT 11, `9`)."""
        return tuple(
            bit
            for bit in range(0, self.features.bit_length(), 2)
            if self.features >> bit & 1 and bit not in _KNOWN_FEATURES
        )


def decode(text: str) -> Bolt11:
    """Read an invoice. Raises InvalidInvoice, and nothing else, whatever the text.

    Stricter than a payer must be: one payment hash, one description or description hash, no amount of
    zero, none above all bitcoin.
    """
    hrp, values = _unbech32(text)
    network, msat = _amount(hrp)
    if len(values) < _TIMESTAMP + _SIGNATURE:
        raise InvalidInvoice("too short for a time and a signature")
    digits = values.translate(_TO_DIGITS)
    signed, signature = values[:-_SIGNATURE], int(digits[-_SIGNATURE:], 32).to_bytes(65, "big")
    fields = _fields(signed, digits)
    payee = _payee(hrp, digits[: len(signed)], signature, fields.get("n"))

    payment_hash, secret = fields.get("p"), fields.get("s")
    description, description_hash = fields.get("d"), fields.get("h")
    if payment_hash is None:
        raise InvalidInvoice("no payment hash")
    if (description is None) == (description_hash is None):
        raise InvalidInvoice("either a description or the hash of one expected")
    try:
        text_description = None if description is None else _bytes(description).decode()
    except UnicodeDecodeError:
        raise InvalidInvoice("the description is not UTF-8") from None
    return Bolt11(
        network=network,
        msat=msat,
        payment_hash=_bytes(payment_hash).hex(),
        payment_secret=None if secret is None else _bytes(secret).hex(),
        description=text_description,
        description_hash=None if description_hash is None else _bytes(description_hash).hex(),
        payee=payee,
        created_at=int(digits[:_TIMESTAMP], 32),
        expiry=_seconds(fields.get("x")),
        features=int(fields.get("9") or b"0", 32),
    )


def encode(
    key: PrivateKey,
    *,
    network: str,
    msat: int | None,
    payment_hash: bytes,
    description: str | None = None,
    description_hash: bytes | None = None,
    created_at: int,
    expiry: int,
    payment_secret: bytes | None = None,
    min_final_cltv: int = 18,
) -> str:
    """A signed invoice, in lower case; a random payment secret if none is given.

    `network` is mainnet, testnet, signet or regtest. Raises InvalidInvoice for what no invoice can say.
    """
    if network not in _PREFIXES:
        raise InvalidInvoice(f"no such network: {network}")
    if (description is None) == (description_hash is None):
        raise InvalidInvoice("either a description or the hash of one expected")
    if not 0 <= created_at < 1 << 35 or not 0 < expiry < _MAX_SECONDS or not 0 < min_final_cltv < 1 << 32:
        raise InvalidInvoice("a time, an expiry or a CLTV delta out of range")
    secret = random_bytes(32) if payment_secret is None else payment_secret
    if any(len(value) != 32 for value in (payment_hash, secret, description_hash or secret)):
        raise InvalidInvoice("a hash and a payment secret are 32 bytes")
    hrp = f"ln{_PREFIXES[network]}{_write_amount(msat)}"
    if description_hash is not None:
        about = _tagged("h", _symbols(description_hash))
    else:
        try:
            raw = (description or "").encode()
        except UnicodeEncodeError:
            raise InvalidInvoice("the description is not text that UTF-8 can carry") from None
        if len(raw) > MAX_DESCRIPTION:
            raise InvalidInvoice(f"the description has more than {MAX_DESCRIPTION} bytes")
        about = _tagged("d", _symbols(raw))
    data = (
        _number(created_at).rjust(_TIMESTAMP, "q")
        + _tagged("p", _symbols(payment_hash))
        + _tagged("s", _symbols(secret))
        + about
        + _tagged("x", _number(expiry))
        + _tagged("c", _number(min_final_cltv))
        + _REQUIRED
    )
    values = data.encode().translate(_TO_VALUES)
    data += _symbols(bytes(key.sign_recoverable(_signed_bytes(hrp, values.translate(_TO_DIGITS)))))
    return f"{hrp}1{data}{_checksum(hrp, data)}"


# --- the human-readable part ---------------------------------------------------------------------------


def _amount(hrp: str) -> tuple[str, int | None]:
    match = _HRP(hrp)
    if match is None:
        raise InvalidInvoice("an unknown network, or a malformed amount")
    prefix, number, unit = match.groups()
    if number is None:
        return _NETWORKS[prefix], None
    if unit == "p":
        msat, rest = divmod(int(number), 10)
        if rest:
            raise InvalidInvoice("the amount has a fraction of a millisatoshi")
    else:
        msat = int(number) * _UNITS[unit]
    if msat > MAX_MSAT:
        raise InvalidInvoice("the amount is more than there are bitcoin")
    return _NETWORKS[prefix], msat


def _write_amount(msat: int | None) -> str:
    if msat is None:
        return ""
    if not 0 < msat <= MAX_MSAT:
        raise InvalidInvoice("an amount is positive and at most all bitcoin")
    for unit, size in _UNITS.items():
        if msat % size == 0:
            return f"{msat // size}{unit}"
    return f"{msat * 10}p"


# --- the data part -------------------------------------------------------------------------------------


def _fields(values: bytes, digits: bytes) -> dict[str, bytes]:
    """The tagged fields that we read, by letter, as base-32 digits; all others are skipped (BOLT 11)."""
    fields: dict[str, bytes] = {}
    at, end = _TIMESTAMP, len(values)
    while at < end:
        if at + 3 > end:
            raise InvalidInvoice("a tagged field is cut off")
        letter = _CHARSET[values[at]]
        length = values[at + 1] << 5 | values[at + 2]
        at += 3
        if at + length > end:
            raise InvalidInvoice("a tagged field is cut off")
        expected = _LENGTHS.get(letter)
        if expected is not None and (length == expected or expected < 0):
            if letter in fields:  # two payment hashes would let an invoice mean two things
                raise InvalidInvoice(f"the field {letter!r} comes twice")
            fields[letter] = digits[at : at + length]
        at += length
    return fields


def _payee(hrp: str, signed: bytes, signature: bytes, named: bytes | None) -> str:
    """The key that signed: recovered, or the one that the invoice names, which then must have signed."""
    message = _signed_bytes(hrp, signed)
    try:
        if named is None:
            return str(PublicKey.from_signature_and_message(signature, message).format().hex())
        key = PublicKey(_bytes(named))
        valid = key.verify(cdata_to_der(deserialize_compact(signature[:64])), message)
    except ValueError:
        raise InvalidInvoice("the signature is not valid") from None
    if not valid:
        raise InvalidInvoice("the signature is not the payee's")
    return str(key.format().hex())


def _signed_bytes(hrp: str, digits: bytes) -> bytes:
    """What the signature covers: the human-readable part and the data, padded with zeros to bytes."""
    bits = len(digits) * 5
    return hrp.encode() + (int(digits, 32) << -bits % 8).to_bytes((bits + 7) // 8, "big")


def _bytes(digits: bytes) -> bytes:
    """A field as bytes; the bits that pad it to symbols are dropped."""
    bits = len(digits) * 5
    return (int(digits or b"0", 32) >> bits % 8).to_bytes(bits // 8, "big")


def _seconds(digits: bytes | None) -> int:
    if digits is None:
        return DEFAULT_EXPIRY
    seconds = int(digits or b"0", 32) if len(digits) <= 16 else _MAX_SECONDS
    if seconds >= _MAX_SECONDS:
        raise InvalidInvoice("the expiry is out of range")
    return seconds


def _tagged(letter: str, symbols: str) -> str:
    return f"{letter}{_CHARSET[len(symbols) >> 5]}{_CHARSET[len(symbols) & 31]}{symbols}"


def _symbols(raw: bytes) -> str:
    return b32hexencode(raw).rstrip(b"=").translate(_FROM_DIGITS).decode()


def _number(value: int) -> str:
    symbols = ""
    while value:
        symbols = _CHARSET[value & 31] + symbols
        value >>= 5
    return symbols


# --- bech32 (BIP-173, without its limit of 90 characters) ----------------------------------------------

_CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUV"  # int(…, 32) and base32hex
_NONE = 0xFF
_TO_VALUES = bytes(_CHARSET.index(chr(c)) if chr(c) in _CHARSET else _NONE for c in range(256))
_TO_DIGITS = bytes(ord(_DIGITS[v]) if v < 32 else _NONE for v in range(256))
_FROM_DIGITS = bytes(ord(_CHARSET[_DIGITS.index(chr(c))]) if chr(c) in _DIGITS else _NONE for c in range(256))
_LENGTHS = {"p": 52, "s": 52, "h": 52, "n": 53, "d": -1, "x": -1, "9": -1}  # symbols; -1 is any


def _polymod_table() -> tuple[int, ...]:
    generators = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
    table = []
    for top in range(32):
        value = 0
        for bit, generator in enumerate(generators):
            if top >> bit & 1:
                value ^= generator
        table.append(value)
    return tuple(table)


_POLYMOD = _polymod_table()


def _polymod(hrp: str, values: bytes) -> int:
    raw = hrp.encode()
    check = 1
    table = _POLYMOD
    for value in bytes(c >> 5 for c in raw) + b"\0" + bytes(c & 31 for c in raw) + values:
        check = (check & 0x1FFFFFF) << 5 ^ value ^ table[check >> 25]
    return check


def _checksum(hrp: str, data: str) -> str:
    check = _polymod(hrp, data.encode().translate(_TO_VALUES) + bytes(_CHECKSUM)) ^ 1
    return "".join(_CHARSET[check >> shift & 31] for shift in (25, 20, 15, 10, 5, 0))


def _unbech32(text: str) -> tuple[str, bytes]:
    """The human-readable part in lower case, and the values 0 to 31 of the data without the checksum."""
    if not text or len(text) > MAX_LENGTH:
        raise InvalidInvoice(f"an invoice has 1 to {MAX_LENGTH} characters")
    if not text.isascii():
        raise InvalidInvoice("an invoice is ASCII")
    lower = text.lower()
    if text not in (lower, text.upper()):
        raise InvalidInvoice("upper and lower case are mixed")
    hrp, separator, data = lower.rpartition("1")
    if not separator:
        raise InvalidInvoice("not bech32: no separator")
    if not hrp.startswith("ln"):
        raise InvalidInvoice("an invoice begins with ln")
    values = data.encode().translate(_TO_VALUES)
    if _NONE in values:
        raise InvalidInvoice("not bech32: a character outside its alphabet")
    if len(values) < _CHECKSUM or _polymod(hrp, values) != 1:
        raise InvalidInvoice("the checksum is wrong: a character is missing or changed")
    return hrp, values[:-_CHECKSUM]


def payment_hash(preimage: bytes) -> bytes:
    """The hash that a preimage of 32 bytes opens."""
    return sha256(preimage).digest()
