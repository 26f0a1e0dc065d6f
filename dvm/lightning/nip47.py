"""NIP-47 as dataclasses: the connection's URI, what a wallet service announces, answers, transactions.

Pure: no I/O. What comes from a wallet service is hostile until it has gone through here, and nothing here
raises anything but InvalidConnection (a URI) or InvalidAnswer (the rest).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal, cast
from urllib.parse import parse_qsl, quote, urlsplit

import orjson
from pynostr.key import PrivateKey

from dvm.lightning.base import UNKNOWN, InvoiceState, Lookup, Payment, WalletErrorCode
from dvm.nostr.addresses import AddressRefused, check_relay_url
from dvm.nostr.encryption import Scheme
from dvm.nostr.event import Event
from dvm.nostr.keys import InvalidKey, Keys

INFO, REQUEST, RESPONSE = 13194, 23194, 23195
NOTIFICATIONS: dict[Scheme, int] = {"nip44": 23197, "nip04": 23196}
SCHEME_NAMES: dict[Scheme, str] = {"nip44": "nip44_v2", "nip04": "nip04"}

_MAX_URI = 8_192
_MAX_RELAYS = 8
_MAX_MSAT = 21_000_000 * 100_000_000_000
_MAX_SECONDS = 1 << 53
_MAX_HEIGHT = 1 << 32
_HEX32 = re.compile(r"[0-9a-fA-F]{64}").fullmatch
_SECRETIVE = re.compile(r"[0-9a-fA-F]{64,}|nsec1[a-z0-9]+|nostr\+?walletconnect\S*")

ERRORS: dict[str, WalletErrorCode] = {
    "RATE_LIMITED": "rate_limited",
    "NOT_IMPLEMENTED": "unsupported",
    "INSUFFICIENT_BALANCE": "insufficient",
    "QUOTA_EXCEEDED": "quota",
    "RESTRICTED": "restricted",
    "UNAUTHORIZED": "unauthorized",
    "INTERNAL": "failed",
    "UNSUPPORTED_ENCRYPTION": "unsupported",
    "PAYMENT_FAILED": "failed",
    "NOT_FOUND": "not_found",
    "OTHER": "failed",
}
"""NIP-47's error codes; one that is not here is `failed`."""


class InvalidConnection(ValueError):
    """Not a wallet connection's URI. The text says what is wrong and repeats nothing of it."""


class InvalidAnswer(ValueError):
    """What the wallet service sent makes no sense; the text says where."""


@dataclass(frozen=True, slots=True, repr=False)
class Connection:
    """A client's connection to a wallet service: whose key it is, on which relays, and the client's own keys.

    Its URI can spend: neither `repr` nor an error shows it, `uri()` is the only way out.
    """

    wallet: str
    relays: tuple[str, ...]
    keys: Keys
    lud16: str | None = None

    @classmethod
    def parse(cls, text: str) -> Connection:
        """From `nostr+walletconnect://<pubkey>?relay=…&secret=…`. Raises InvalidConnection."""
        text = text.strip()
        if len(text) > _MAX_URI:
            raise InvalidConnection("the wallet connection is longer than any is")
        try:
            parts = urlsplit(text)
            query = parse_qsl(parts.query, max_num_fields=64)
        except ValueError:
            raise InvalidConnection("the wallet connection is not a URI") from None
        if parts.scheme not in ("nostr+walletconnect", "nostrwalletconnect"):
            raise InvalidConnection("a wallet connection begins with nostr+walletconnect://")
        wallet = (parts.netloc or parts.path).strip("/").lower()
        if not _HEX32(wallet):
            raise InvalidConnection("the wallet connection names no wallet: 64 hex digits expected after ://")
        secrets = {value for name, value in query if name == "secret"}
        if len(secrets) != 1:
            raise InvalidConnection("the wallet connection has no secret, or more than one")
        relays: dict[str, None] = {}
        for name, value in query:
            if name == "relay":
                try:
                    relays[check_relay_url(value)] = None
                except AddressRefused as error:
                    raise InvalidConnection(f"a relay of the wallet connection: {error}") from None
        if not relays:
            raise InvalidConnection("the wallet connection names no relay")
        try:
            keys = Keys.parse(secrets.pop())
        except InvalidKey:
            raise InvalidConnection("the wallet connection's secret is not a key") from None
        try:
            keys.shared_x(wallet)
        except InvalidKey:
            raise InvalidConnection("the wallet connection's wallet is not a public key") from None
        lud16 = next((value for name, value in query if name == "lud16"), None)
        return cls(wallet, tuple(relays)[:_MAX_RELAYS], keys, lud16)

    def uri(self) -> str:
        """The URI, secret and all: for whoever is to use the wallet, nowhere else."""
        relays = "".join(f"relay={quote(url, safe='')}&" for url in self.relays)
        return f"nostr+walletconnect://{self.wallet}?{relays}secret={PrivateKey.from_nsec(self.keys.nsec()).hex()}"

    def __repr__(self) -> str:
        return f"Connection(wallet {self.wallet[:8]}…, relays {', '.join(self.relays)})"


@dataclass(frozen=True, slots=True)
class Service:
    """What a wallet service announces (kind 13194). Without an `encryption` tag it knows NIP-04 alone."""

    methods: frozenset[str]
    schemes: frozenset[Scheme]
    notifications: frozenset[str]

    @classmethod
    def parse(cls, event: Event) -> Service:
        """From its event, whose signature is the caller's to check. Raises nothing."""
        named = _words(event, "encryption")
        schemes: set[Scheme] = {scheme for scheme, name in SCHEME_NAMES.items() if name in named}
        return cls(
            methods=frozenset(event.content[:16_384].replace(",", " ").split()),
            schemes=frozenset(schemes if named else {"nip04"}),
            notifications=frozenset(_words(event, "notifications")),
        )


def _words(event: Event, name: str) -> list[str]:
    return [word for tag in event.all(name) for value in tag[1:] for word in value.replace(",", " ").split()]


@dataclass(frozen=True, slots=True)
class Answer:
    """A response's content: a result, or the error's code (NIP-47's own word) and text."""

    method: str
    result: dict[str, Any] = field(repr=False)  # the preimage of a payment, say
    error: str | None = None
    text: str = ""

    @classmethod
    def parse(cls, content: str) -> Answer:
        """From decrypted content; `error` and `result` may be null or missing. Raises InvalidAnswer."""
        body = _object(content)
        method, error, result = body.get("result_type"), body.get("error"), body.get("result")
        if method is not None and not isinstance(method, str):
            raise InvalidAnswer("result_type: a string expected")
        if error is not None:
            if not isinstance(error, dict):
                raise InvalidAnswer("error: an object expected")
            code, text = error.get("code"), error.get("message")
            if not isinstance(code, str):
                code = "OTHER"
            return cls(method or "", {}, clean(code)[:40].upper(), clean(text if isinstance(text, str) else ""))
        if not isinstance(result, dict):
            raise InvalidAnswer("neither a result nor an error")
        return cls(method or "", cast("dict[str, Any]", result))


def parse_notification(content: str) -> tuple[str, str] | None:
    """A notification's type and payment hash, from decrypted content; None if it names none.

    Raises InvalidAnswer.
    """
    body = _object(content)
    kind, about = body.get("notification_type"), body.get("notification")
    if not isinstance(kind, str) or not isinstance(about, dict):
        raise InvalidAnswer("not a notification")
    payment_hash = about.get("payment_hash")
    if not (isinstance(payment_hash, str) and _HEX32(payment_hash)):
        return None
    return clean(kind), payment_hash.lower()


@dataclass(frozen=True, slots=True, repr=False)
class Transaction:
    """An invoice or a payment as a wallet service tells it; a field that it omits or nulls is None."""

    direction: Literal["incoming", "outgoing"]
    state: str | None
    payment_hash: str
    preimage: str | None
    invoice: str | None
    msat: int | None
    fee_msat: int
    settled_at: int | None
    settle_deadline: int | None  # a block height: until then an accepted hold invoice must be settled

    @classmethod
    def parse(cls, raw: object) -> Transaction:
        """From a result or one of its transactions. Raises InvalidAnswer."""
        if not isinstance(raw, dict):
            raise InvalidAnswer("a transaction is an object")
        fields = cast("dict[str, Any]", raw)
        direction = fields.get("type")
        if direction not in ("incoming", "outgoing"):
            raise InvalidAnswer("type: incoming or outgoing expected")
        state, invoice = fields.get("state"), fields.get("invoice")
        if state is not None and not isinstance(state, str):
            raise InvalidAnswer("state: a string expected")
        if invoice is not None and not isinstance(invoice, str):
            raise InvalidAnswer("invoice: a string expected")
        payment_hash = _hex32(fields, "payment_hash")
        if payment_hash is None:
            raise InvalidAnswer("payment_hash: 64 hex digits expected")
        return cls(
            direction=cast("Literal['incoming', 'outgoing']", direction),
            state=None if state is None else state.lower(),
            payment_hash=payment_hash,
            preimage=_hex32(fields, "preimage"),
            invoice=invoice,
            msat=_integer(fields, "amount", _MAX_MSAT),
            fee_msat=_integer(fields, "fees_paid", _MAX_MSAT) or 0,
            settled_at=_integer(fields, "settled_at", _MAX_SECONDS),
            settle_deadline=_integer(fields, "settle_deadline", _MAX_HEIGHT),
        )

    @property
    def verdict(self) -> InvoiceState:
        """What it says, its proof not considered. `state` is optional: then `settled_at` says it, and of a
        hold invoice the deadline that it has once it is accepted."""
        if self.state is None:
            if self.settled_at:
                return InvoiceState.SETTLED
            return InvoiceState.HELD if self.settle_deadline else InvoiceState.PENDING
        if self.state == "pending":
            return InvoiceState.PENDING
        if self.state == "accepted":  # a hold invoice, paid but not settled
            return InvoiceState.HELD
        if self.state in ("failed", "expired"):
            return InvoiceState.FAILED
        return InvoiceState.SETTLED if self.state == "settled" else InvoiceState.UNKNOWN

    def received(self, payment_hash: str) -> Lookup:
        """What it says of our invoice with that hash. Raises InvalidAnswer where it contradicts itself:
        another's transaction, a payment instead of an invoice, a preimage that does not open the hash."""
        if self.payment_hash != payment_hash:
            raise InvalidAnswer("it is about another payment hash")
        if self.direction != "incoming":
            raise InvalidAnswer("it is about a payment, not about an invoice")
        verdict = self.verdict
        if verdict is InvoiceState.UNKNOWN:
            return UNKNOWN
        if verdict in (InvoiceState.PENDING, InvoiceState.FAILED):
            return Lookup(verdict)
        if not self.msat:
            raise InvalidAnswer(f"it is {verdict.value} without an amount")
        if verdict is InvoiceState.HELD:
            return Lookup(verdict, self.msat)
        if self.preimage is not None and not opens(self.preimage, payment_hash):
            raise InvalidAnswer("its preimage does not open the payment hash")
        return Lookup(InvoiceState.SETTLED, self.msat, self.settled_at or None)

    def sent(self, payment_hash: str) -> Payment | None:
        """What it says of our payment with that hash; None if it is about something else."""
        if self.direction != "outgoing" or self.payment_hash != payment_hash:
            return None
        verdict = self.verdict
        if verdict is not InvoiceState.SETTLED:
            # "accepted" is for invoices; of a payment it can only mean that it is under way.
            return Payment(InvoiceState.PENDING if verdict is InvoiceState.HELD else verdict)
        proof = self.preimage if opens(self.preimage, payment_hash) else None
        return Payment(InvoiceState.SETTLED, self.fee_msat, proof)

    def __repr__(self) -> str:  # without the preimage, which proves payment
        return f"Transaction({self.direction}, {self.payment_hash}, {self.state}, {self.msat} msat)"


def opens(preimage: object, payment_hash: str) -> bool:
    """Whether `preimage`, in hex, is the one that the hash was made of."""
    if not (isinstance(preimage, str) and _HEX32(preimage)):
        return False
    return sha256(bytes.fromhex(preimage)).hexdigest() == payment_hash


def is_hex32(text: str) -> bool:
    """Whether it is 32 bytes in lowercase hex."""
    return bool(_HEX32(text)) and text == text.lower()


def clean(text: str) -> str:
    """A wallet service's text for a log or an error: one printable line of at most 200 characters, without
    anything that might be a key, a preimage or a connection."""
    line = _SECRETIVE.sub("…", text[:2_000])
    return "".join(c if c.isprintable() else " " for c in line)[:200].strip()


def _object(content: str) -> dict[str, Any]:
    try:
        body = orjson.loads(content)
    except (orjson.JSONDecodeError, RecursionError):
        raise InvalidAnswer("not JSON") from None
    if not isinstance(body, dict):
        raise InvalidAnswer("not a JSON object")
    return cast("dict[str, Any]", body)


def _hex32(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is None or value == "":
        return None
    if not (isinstance(value, str) and _HEX32(value)):
        raise InvalidAnswer(f"{name}: 64 hex digits expected")
    return value.lower()


def _integer(fields: dict[str, Any], name: str, most: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= most:
        raise InvalidAnswer(f"{name}: a whole number expected")
    return value
