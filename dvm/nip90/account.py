"""What a customer asks of their account, kind 7091: balance, statement, withdrawal.

This kind and that of the answer (7092, `dvm.nip90.account_answers`) are regular events and unregistered, like
the receipt's. Their content is an encrypted JSON array of tags: only the customer can ask, and only they can
read what they have. docs/events.md describes them. Nothing here knows Lightning: whether an invoice is one,
and over how much, is the callers' to check.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from dvm.nip90.feedback import MAX_INVOICE_CHARS
from dvm.nip90.requests import MAX_RELAYS, MAX_URL_CHARS, is_encrypted
from dvm.nip90.wire import (
    ACCOUNT_REQUEST,
    MAX_COUNT,
    MAX_MSAT,
    MAX_TAGS,
    MSAT,
    Draft,
    Unservable,
    is_hex64,
    natural,
    one_value,
    other_party,
    tags_from_json,
    tags_to_json,
)
from dvm.nostr.encryption import DecryptError, Scheme, decrypt, detect, encrypt
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys

Method = Literal["balance", "statement", "withdraw"]
METHODS = frozenset(get_args(Method))

LIFETIME_SECONDS = 600
"""A request expires (NIP-40) after this: it is not found and obeyed by somebody who comes back next week."""
DEFAULT_ENTRIES = 50
MAX_ENTRIES = 500

InvalidAccountRequestCode = Literal[
    "invalid-kind",  # no account request at all
    "invalid-tags",  # too many, or not exactly one `p`, which is the provider's
    "not-encrypted",
    "undecryptable",  # not for us, damaged, or no array of tags
    "invalid-method",  # none, an unknown one, or two
    "invalid-amount",  # not a whole number of msat (of sats, for an address), zero, or missing
    "invalid-destination",  # an invoice and an address, or what is neither
    "invalid-limit",  # `limit` or `before`
    "invalid-relays",
    "invalid-expiration",
]


class InvalidAccountRequest(Unservable[InvalidAccountRequestCode]):
    """The account request cannot be obeyed as it stands."""


@dataclass(frozen=True, slots=True)
class AccountRequest:
    """What a customer asks of their account; amounts in msat.

    `withdraw` goes to `bolt11` (then `amount_msat`, if it is there, must be the invoice's), or to the Lightning
    address `lud16`, or, without both, to the address in the customer's profile (kind 0): then `amount_msat` is
    there, in whole sats. Both destinations have the right shape and nothing more: the invoice may be anybody's,
    the address may point into our own network. A `statement` has the newest `limit` entries with numbers
    below `before`.
    """

    event: Event
    method: Method
    scheme: Scheme
    amount_msat: int | None = None
    bolt11: str | None = None
    lud16: str | None = None
    limit: int = DEFAULT_ENTRIES
    before: int | None = None
    relays: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.event.id

    @property
    def customer(self) -> str:
        """The customer's public key, in hex."""
        return self.event.pubkey


Addressee = tuple[str, str, Scheme]
"""Who is answered: the request's id, the customer's public key, the scheme of the request."""


def account_request_draft(
    keys: Keys,
    provider: str,
    method: Method,
    created_at: int,
    *,
    amount_msat: int | None = None,
    bolt11: str | None = None,
    lud16: str | None = None,
    limit: int | None = None,
    before: int | None = None,
    relays: Sequence[str] = (),
    scheme: Scheme = "nip44",
) -> Draft:
    """The customer's request, to be signed with the same `keys` and `created_at`; see `AccountRequest`.

    Raises EncryptError (a ValueError) if `provider` is no public key.
    """
    given = (("amount", amount_msat), ("bolt11", bolt11), ("lud16", lud16), ("limit", limit), ("before", before))
    private = [["method", method], *([name, str(value)] for name, value in given if value is not None)]
    if relays:
        private.append(["relays", *relays])
    tags = [["p", provider], ["encrypted"], ["expiration", str(created_at + LIFETIME_SECONDS)]]
    return Draft(ACCOUNT_REQUEST, tags, encrypt(scheme, keys, provider, tags_to_json(private)))


def parse_account_request(event: Event, keys: Keys) -> AccountRequest:
    """The request in an event, which must have been verified. Raises InvalidAccountRequest, nothing else.

    `keys` are the provider's (the customer's own open it as well). Whether it is timely is the question of
    `dvm.nip90.untimely`. Only what is encrypted is obeyed; unknown tags are skipped.
    """
    if event.kind != ACCOUNT_REQUEST:
        raise InvalidAccountRequest("invalid-kind", f"kind {ACCOUNT_REQUEST} expected")
    if len(event.tags) > MAX_TAGS:
        raise InvalidAccountRequest("invalid-tags", f"at most {MAX_TAGS} tags are read")
    named = event.values("p")
    if len(named) != 1 or not is_hex64(named[0]) or keys.pubkey not in (event.pubkey, named[0]):
        raise InvalidAccountRequest("invalid-tags", "exactly one p, the provider's public key, expected")
    for text in event.values("expiration"):
        _number("invalid-expiration", "unix seconds expected, in digits", text, 0, 1 << 53)
    if not is_encrypted(event):
        raise InvalidAccountRequest("not-encrypted", "an account is spoken of in encrypted content only")
    tags, scheme = _open(event, keys)
    method = _one(tags, "method", "invalid-method")
    if method not in METHODS:
        raise InvalidAccountRequest("invalid-method", "balance, statement or withdraw expected")
    relays = _relays(tags)
    if method == "withdraw":
        return AccountRequest(event, "withdraw", scheme, *_destination(tags), relays=relays)
    if method == "statement":
        limit, before = _one(tags, "limit", "invalid-limit"), _one(tags, "before", "invalid-limit")
        text = f"limit from 1 to {MAX_ENTRIES}, and before, the number of an entry, expected"
        return AccountRequest(
            event,
            "statement",
            scheme,
            limit=DEFAULT_ENTRIES if limit is None else _number("invalid-limit", text, limit, 1, MAX_ENTRIES),
            before=None if before is None else _number("invalid-limit", text, before, 1, MAX_COUNT),
            relays=relays,
        )
    return AccountRequest(event, "balance", scheme, relays=relays)


def is_lightning_address(text: str) -> bool:
    """Whether the text has the shape of one: name@domain, perhaps with a port (LUD-16)."""
    return _ADDRESS(text) is not None


def addressee(event: Event) -> Addressee:
    """Who is answered, and how, also where the request cannot be parsed: never in clear."""
    return event.id, event.pubkey, detect(event.content) if is_encrypted(event) else "nip44"


_ADDRESS = re.compile(r"[a-z0-9._+-]{1,64}@[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?").fullmatch
_INVOICE = re.compile(rf"(?:ln[a-z0-9]{{1,{MAX_INVOICE_CHARS - 2}}}|LN[A-Z0-9]{{1,{MAX_INVOICE_CHARS - 2}}})").fullmatch


def _decrypted(event: Event, keys: Keys) -> tuple[str, Scheme]:
    """Raises DecryptError."""
    return decrypt(keys, other_party(event, keys), event.content)


def _open(event: Event, keys: Keys) -> tuple[list[list[str]], Scheme]:
    """The encrypted tags and their scheme. Raises InvalidAccountRequest."""
    try:
        text, scheme = _decrypted(event, keys)
        return tags_from_json(text), scheme
    except DecryptError:
        text = "the content is not encrypted to this provider's key with NIP-44 or NIP-04"
        raise InvalidAccountRequest("undecryptable", text) from None
    except ValueError as error:
        raise InvalidAccountRequest("undecryptable", str(error)) from None


def _one(tags: list[list[str]], name: str, code: InvalidAccountRequestCode) -> str | None:
    """The value of the only tag of that name, if there is one. Raises InvalidAccountRequest."""
    try:
        return one_value(tags, name)
    except ValueError as error:
        raise InvalidAccountRequest(code, str(error)) from None


def _number(code: InvalidAccountRequestCode, expected: str, text: str, least: int, most: int) -> int:
    try:
        if (number := natural(text, most)) >= least:
            return number
    except ValueError:
        pass
    raise InvalidAccountRequest(code, expected)


def _relays(tags: list[list[str]]) -> tuple[str, ...]:
    found = [url for tag in tags if tag and tag[0] == "relays" for url in tag[1:]]
    if len(found) > MAX_RELAYS or any(len(url) > MAX_URL_CHARS for url in found):
        text = f"at most {MAX_RELAYS} relays, of {MAX_URL_CHARS} characters each, are read"
        raise InvalidAccountRequest("invalid-relays", text)
    return tuple(dict.fromkeys(url for url in found if url))


def _destination(tags: list[list[str]]) -> tuple[int | None, str | None, str | None]:
    """The amount in msat, the invoice, the address. Raises InvalidAccountRequest."""
    stated = _one(tags, "amount", "invalid-amount")
    bolt11 = _one(tags, "bolt11", "invalid-destination")
    lud16 = _one(tags, "lud16", "invalid-destination")
    if bolt11 is not None and lud16 is not None:
        raise InvalidAccountRequest("invalid-destination", "an invoice or an address expected, not both")
    if bolt11 is not None and not _INVOICE(bolt11):
        raise InvalidAccountRequest("invalid-destination", "bolt11: a BOLT 11 invoice expected")
    if lud16 is not None and not is_lightning_address(lud16):
        raise InvalidAccountRequest("invalid-destination", "lud16: name@domain expected, the name in lower case")
    amount = None
    if stated is not None:
        amount = _number("invalid-amount", "a whole number of msat above 0 expected, in digits", stated, 1, MAX_MSAT)
    if bolt11 is None and (amount is None or amount % MSAT):
        raise InvalidAccountRequest("invalid-amount", "an address is paid whole sats: the amount, in msat, expected")
    return amount, bolt11, lud16
