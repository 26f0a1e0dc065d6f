"""Zaps (NIP-57): requests (9734) and receipts (9735), read as if an enemy had written them. No I/O.

A valid receipt is not money. On a shared LNURL provider anyone can pay *their own* invoice with a zap request
that names us, and the provider signs it. What is checked here says whom a payment would credit; that our own
wallet has it is for the wallet to say.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256

from dvm.lightning.bolt11 import Bolt11, InvalidInvoice, decode
from dvm.lightning.lnurl_address import place
from dvm.nip90.wire import MAX_MSAT, has, is_hex64, natural, one_tag, one_value
from dvm.nostr.addresses import AddressRefused, check_relay_url
from dvm.nostr.event import Event, InvalidEvent
from dvm.nostr.keys import Keys

ZAP_REQUEST, ZAP_RECEIPT = 9734, 9735
MAX_REQUEST_BYTES = 16_384  # it stands in a URL, and escaped in the receipt, which relays take up to 64 KB of
MAX_RELAYS = 10
_MAX_TAGS = 100
_MAX_D_CHARS = 256


class InvalidZap(ValueError):
    """The request or receipt is not one to act upon; the text says which check it failed."""


@dataclass(frozen=True, slots=True)
class ZapRequest:
    """A zap request. `payer` (hex) signed it; an `anonymous` one's key is made up, and is nobody's.

    `event_id` and `address` are what is zapped (`e`, `a`), None for the profile. `relays` are where the
    receipt is wanted: hostile addresses, of which only the form was checked. `msat` None: not said.
    """

    event: Event
    payer: str
    anonymous: bool
    event_id: str | None
    address: str | None
    relays: tuple[str, ...]
    msat: int | None

    @property
    def comment(self) -> str:
        return self.event.content


@dataclass(frozen=True, slots=True)
class Zap:
    """A receipt that passed every check but the wallet's. `text` is the request as it was signed for; `msat`
    and the times (unix seconds) are the invoice's."""

    receipt: Event
    request: ZapRequest
    text: str
    bolt11: str
    payment_hash: str
    msat: int
    created_at: int
    expires_at: int
    hash_matches: bool


def parse_zap_request(
    text: str,
    *,
    recipient: str,
    provider: str,
    msat: int | None,
    lnurls: Collection[str],
) -> ZapRequest:
    """The zap request in `text`, checked as NIP-57, appendix D, demands. Raises InvalidZap, nothing else.

    `recipient` is who must be zapped and `provider` who signs the receipt, in hex; `msat` what is asked for
    or was invoiced; `lnurls` all the spellings of the recipient's own address.
    """
    if len(text) > MAX_REQUEST_BYTES or len(text.encode("utf-8", "replace")) > MAX_REQUEST_BYTES:
        raise InvalidZap(f"request: more than {MAX_REQUEST_BYTES} bytes")
    try:
        event = Event.from_json(text)
    except InvalidEvent as error:
        raise InvalidZap(f"request: {error}") from None
    if event.kind != ZAP_REQUEST:
        raise InvalidZap(f"request: kind {ZAP_REQUEST} expected")
    if len(event.tags) > _MAX_TAGS:
        raise InvalidZap(f"request: at most {_MAX_TAGS} tags are read")
    if not event.verify():
        raise InvalidZap("request: the signature is not valid")
    try:
        request = _request(event)
        named, signer, lnurl = one_value(event.tags, "p"), one_value(event.tags, "P"), one_value(event.tags, "lnurl")
    except ValueError as error:
        raise InvalidZap(f"request: {error}") from None
    if named != recipient:
        raise InvalidZap("request: p: it does not zap us")
    if signer not in (None, provider):
        raise InvalidZap("request: P: it expects another signer of the receipt")
    if request.msat is not None and msat is not None and request.msat != msat:
        raise InvalidZap(f"request: amount: {request.msat} msat, the invoice is over {msat}")
    if lnurl is not None and place(lnurl) not in {place(each) for each in lnurls}:
        raise InvalidZap("request: lnurl: it is not our address")
    return request


def check_receipt(
    event: Event,
    *,
    recipient: str,
    provider: str,
    lnurls: Collection[str],
    network: str,
    own_server: bool,
) -> Zap:
    """The zap in a receipt, after every check that needs no wallet. Raises InvalidZap, nothing else.

    `provider` is the `nostrPubkey` that our LNURL endpoint announces, `network` that of our wallet. The
    description's hash is required only of our `own_server`: some providers put a constant there. A `P` of
    the receipt is hearsay and not looked at: the payer is whoever signed the request.
    """
    if event.kind != ZAP_RECEIPT:
        raise InvalidZap(f"kind {ZAP_RECEIPT} expected")
    if event.pubkey != provider:
        raise InvalidZap("its author is not the provider of our Lightning address")
    if len(event.tags) > _MAX_TAGS:
        raise InvalidZap(f"at most {_MAX_TAGS} tags are read")
    if not event.verify():
        raise InvalidZap("the signature is not valid")
    try:
        named, about = one_value(event.tags, "p"), one_value(event.tags, "e")
        bolt11, text = one_value(event.tags, "bolt11"), one_value(event.tags, "description")
    except ValueError as error:
        raise InvalidZap(str(error)) from None
    if named != recipient:
        raise InvalidZap("p: it does not zap us")
    if bolt11 is None or text is None:
        raise InvalidZap("bolt11 and description: one of each expected")
    invoice, msat = _invoice(bolt11, network)
    request = parse_zap_request(text, recipient=recipient, provider=provider, msat=msat, lnurls=lnurls)
    if about != request.event_id:
        raise InvalidZap("e: the receipt names another event than the request")
    if (address := event.tag("a")) is not None and address != request.address:
        raise InvalidZap("a: the receipt names another address than the request")
    matches = invoice.description_hash == description_hash(text)
    if own_server and not matches:
        raise InvalidZap("the invoice does not commit to the request")
    return Zap(
        receipt=event,
        request=request,
        text=text,
        bolt11=bolt11,
        payment_hash=invoice.payment_hash,
        msat=msat,
        created_at=invoice.created_at,
        expires_at=invoice.expires_at,
        hash_matches=matches,
    )


def make_zap_receipt(keys: Keys, request: str, bolt11: str, paid_at: int) -> Event:
    """The receipt of our own LNURL server for a paid invoice (NIP-57, appendix E), without the preimage.

    `request` is the text that the invoice commits to, and was checked when the invoice was made; `paid_at`,
    in unix seconds, becomes the time of the receipt. Raises InvalidZap for a text that is no zap request.
    """
    try:
        event = Event.from_json(request)
        named = one_tag(event.tags, "p", 2)
        about = [one_tag(event.tags, name, 2) for name in ("e", "a")]
    except ValueError as error:
        raise InvalidZap(f"request: {error}") from None
    if named is None or event.kind != ZAP_REQUEST:
        raise InvalidZap(f"request: p and kind {ZAP_REQUEST} expected")
    # `k` is nothing that was checked: a payment must not go uncredited for what stands there.
    kinds = [tag for tag in event.all("k")[:1] if len(tag) > 1]
    tags = [tag[:2] for tag in (named, *about, *kinds) if tag is not None]
    tags += [["P", event.pubkey], ["bolt11", bolt11], ["description", request]]
    return keys.sign(ZAP_RECEIPT, tags, "", paid_at)


def relays_of(request: str) -> tuple[str, ...]:
    """Where a zap request wants its receipt, as `ZapRequest.relays`. Never raises: none if it cannot be read."""
    try:
        return _relays(one_tag(Event.from_json(request).tags, "relays", 1))
    except ValueError:
        return ()


def description_hash(text: str) -> str:
    """What an invoice commits to instead of a long description, in hex (BOLT 11, `h`)."""
    return sha256(text.encode("utf-8", "replace")).hexdigest()


def _request(event: Event) -> ZapRequest:
    """Raises ValueError."""
    tags = event.tags
    about, address, amount = one_value(tags, "e"), one_value(tags, "a"), one_value(tags, "amount")
    if about is not None and not is_hex64(about):
        raise ValueError("e: an event's id expected")
    if address is not None and not _is_address(address):
        raise ValueError("a: the address of an event expected")
    try:
        msat = None if amount is None else natural(amount, MAX_MSAT)
    except ValueError as error:
        raise ValueError(f"amount: {error}") from None
    return ZapRequest(
        event=event,
        payer=event.pubkey,
        anonymous=has(tags, "anon"),
        event_id=about,
        address=address,
        relays=_relays(one_tag(tags, "relays", 1)),
        msat=msat,
    )


def _relays(tag: list[str] | None) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for url in (tag or [])[1:]:
        try:
            found[check_relay_url(url)] = None
        except AddressRefused:
            continue
        if len(found) == MAX_RELAYS:
            break
    return tuple(found)


def _is_address(text: str) -> bool:
    kind, first, rest = text.partition(":")
    pubkey, second, d = rest.partition(":")
    try:
        natural(kind, 65_535)
    except ValueError:
        return False
    return bool(first and second) and is_hex64(pubkey) and len(d) <= _MAX_D_CHARS


def _invoice(bolt11: str, network: str) -> tuple[Bolt11, int]:
    try:
        invoice = decode(bolt11)
    except InvalidInvoice as error:
        raise InvalidZap(f"bolt11: {error}") from None
    if invoice.network != network:
        raise InvalidZap(f"bolt11: an invoice for {invoice.network}, our wallet is on {network}")
    if not invoice.msat:
        raise InvalidZap("bolt11: it names no amount")
    return invoice, invoice.msat
