"""Each check of a zap receipt, broken one at a time, and what honest ones look like."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvm.lightning.lnurl_address import encode_lnurl
from dvm.lightning.zaps import (
    MAX_REQUEST_BYTES,
    InvalidZap,
    Zap,
    ZapRequest,
    check_receipt,
    make_zap_receipt,
    parse_zap_request,
    relays_of,
)
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys
from tests.nip90.samples import JSON, TAGS
from tests.standins.zaps import NETWORK, broken, invoice, zap_receipt, zap_request

US, PAYER, PROVIDER, STRANGER = (Keys(bytes([n]) * 32) for n in (11, 12, 13, 14))
LUD16 = "shop@example.com"
LNURL = encode_lnurl("https://example.com/.well-known/lnurlp/shop")
QUOTE, OTHER = "aa" * 32, "bb" * 32
MSAT = 21_000


def check(receipt: Event, **changes: Any) -> Zap:
    terms: dict[str, Any] = {
        "recipient": US.pubkey,
        "provider": PROVIDER.pubkey,
        "lnurls": (LUD16,),
        "network": NETWORK,
        "own_server": True,
    }
    return check_receipt(receipt, **{**terms, **changes})


def honest(**changes: Any) -> tuple[Event, str]:
    fields: dict[str, Any] = {"event": QUOTE, "msat": MSAT, "lnurl": LNURL, **changes}
    request = zap_request(fields.pop("payer", PAYER), fields.pop("recipient", US.pubkey), **fields)
    return request, invoice(MSAT, request.to_json())


def parse(text: str, **changes: Any) -> ZapRequest:
    terms: dict[str, Any] = {"recipient": US.pubkey, "provider": PROVIDER.pubkey, "msat": MSAT, "lnurls": (LUD16,)}
    return parse_zap_request(text, **{**terms, **changes})


def test_an_honest_receipt_tells_the_payer_the_target_and_the_payment() -> None:
    request, bolt11 = honest(comment="thanks", relays=["wss://one.example", "nonsense", "WSS://ONE.example/"])
    zap = check(zap_receipt(PROVIDER, request, bolt11))
    assert (zap.request.payer, zap.request.event_id, zap.request.anonymous) == (PAYER.pubkey, QUOTE, False)
    assert (zap.msat, zap.bolt11, zap.text, zap.hash_matches) == (MSAT, bolt11, request.to_json(), True)
    assert (zap.request.comment, zap.request.relays) == ("thanks", ("wss://one.example",))


def test_what_is_optional_may_be_missing() -> None:
    request = zap_request(PAYER, US.pubkey)
    zap = check(zap_receipt(PROVIDER, request, invoice(MSAT, request.to_json())))
    assert (zap.request.event_id, zap.request.address, zap.request.msat) == (None, None, None)


def test_the_payer_is_who_signed_the_request_whatever_the_receipt_calls_them() -> None:
    request, bolt11 = honest()
    for swap in ([["P", STRANGER.pubkey]], [["P", "nobody"]]):
        assert check(zap_receipt(PROVIDER, request, bolt11, swap=swap)).request.payer == PAYER.pubkey
    twice = zap_receipt(PROVIDER, request, bolt11, extra=[["P", STRANGER.pubkey]])
    assert check(twice).request.payer == PAYER.pubkey


@pytest.mark.parametrize("anon", [["anon"], ["anon", ""], ["anon", "pzap1secret"]])
def test_an_anonymous_zap_is_known_as_such(anon: list[str]) -> None:
    request, bolt11 = honest(extra=[anon])
    assert check(zap_receipt(PROVIDER, request, bolt11)).request.anonymous


def test_on_anothers_server_the_description_hash_is_advice() -> None:
    request, _ = honest()
    receipt = zap_receipt(PROVIDER, request, invoice(MSAT, "a constant"))
    assert not check(receipt, own_server=False).hash_matches
    with pytest.raises(InvalidZap, match="does not commit to the request"):
        check(receipt)


def wrong_signature(request: Event, bolt11: str) -> Event:
    return broken(zap_receipt(PROVIDER, request, bolt11), sig="0" * 128)


def inner(**changes: Any) -> Callable[[Event, str], Event]:
    """The receipt, in order, of a request that is not."""

    def forge(_request: Event, _bolt11: str) -> Event:
        fields: dict[str, Any] = {"event": QUOTE, "msat": MSAT, "lnurl": LNURL, "recipient": US.pubkey, **changes}
        return described(zap_request(PAYER, fields.pop("recipient"), **fields).to_json())

    return forge


def outer(**changes: Any) -> Callable[[Event, str], Event]:
    return lambda request, bolt11: zap_receipt(PROVIDER, request, bolt11, **changes)


def unsigned(request: Event, _bolt11: str) -> Event:
    return described(broken(request, sig="0" * 128).to_json())


def altered(request: Event, _bolt11: str) -> Event:
    return described(broken(request, content="changed").to_json())


def described(text: str) -> Event:
    tags = [["p", US.pubkey], ["e", QUOTE], ["bolt11", invoice(MSAT, text)], ["description", text]]
    return PROVIDER.sign(9735, tags, "", int(time.time()))


def over(msat: int | None, **changes: Any) -> Callable[[Event, str], Event]:
    return lambda request, _: zap_receipt(PROVIDER, request, invoice(msat, request.to_json(), **changes))


FORGERIES: dict[str, tuple[Callable[[Event, str], Event], str]] = {
    "another kind": (outer(kind=9736), "kind 9735 expected"),
    "another signer": (lambda r, b: zap_receipt(STRANGER, r, b), "not the provider"),
    "the recipient as signer": (lambda r, b: zap_receipt(US, r, b), "not the provider"),
    "the receipt's signature": (wrong_signature, "^the signature is not valid"),
    "the receipt's id": (lambda r, b: broken(zap_receipt(PROVIDER, r, b), id="0" * 64), "^the signature is not"),
    "too many tags": (outer(extra=[["t", "x"]] * 101), "^at most 100 tags"),
    "no p": (outer(drop=["p"]), "^p: it does not zap us"),
    "another's p": (outer(swap=[["p", STRANGER.pubkey]]), "^p: it does not zap us"),
    "two p": (outer(extra=[["p", STRANGER.pubkey]]), "^p: stated twice"),
    "no invoice": (outer(drop=["bolt11"]), "bolt11 and description"),
    "two invoices": (outer(extra=[["bolt11", "lnbc1"]]), "^bolt11: stated twice"),
    "no description": (outer(drop=["description"]), "bolt11 and description"),
    "two descriptions": (outer(extra=[["description", "{}"]]), "^description: stated twice"),
    "an invoice with a wrong checksum": (
        lambda r, b: zap_receipt(PROVIDER, r, b[:-1] + ("p" if b[-1] == "q" else "q")),
        "bolt11: the checksum",
    ),
    "an invoice that is none": (lambda r, _: zap_receipt(PROVIDER, r, "lnbcnothing"), "^bolt11: "),
    "an invoice for another network": (over(MSAT, network="mainnet"), "an invoice for mainnet"),
    "an invoice without an amount": (over(None), "names no amount"),
    "an amount that is not the request's": (over(MSAT + 1000), "amount: 21000 msat, the invoice is over 22000"),
    "no request": (lambda _r, _b: described("hello"), "request: not JSON"),
    "another event as request": (inner(kind=1), "request: kind 9734"),
    "an unsigned request": (unsigned, "request: the signature is not valid"),
    "an altered request": (altered, "request: the signature is not valid"),
    "a request for another": (inner(recipient=STRANGER.pubkey), "request: p: it does not zap us"),
    "a request with two p": (inner(extra=[["p", STRANGER.pubkey]]), "request: p: stated twice"),
    "a request with two e": (inner(extra=[["e", OTHER]]), "request: e: stated twice"),
    "a request with an e that is none": (inner(event="nothing"), "request: e: an event's id"),
    "another's e": (outer(swap=[["e", OTHER]]), "^e: the receipt names another event"),
    "no e beside the request's": (outer(drop=["e"]), "^e: the receipt names another event"),
    "another's a": (outer(extra=[["a", f"31990:{STRANGER.pubkey}:dvm"]]), "^a: the receipt names another"),
    "an a that is none": (inner(address="31990:nobody:dvm"), "request: a: the address"),
    "two amounts": (inner(extra=[["amount", "1"]]), "request: amount: stated twice"),
    "an amount that is none": (inner(msat=None, extra=[["amount", "21_000"]]), "request: amount: a whole number"),
    "another's lnurl": (inner(lnurl=encode_lnurl("https://evil.example/pay")), "request: lnurl: it is not our address"),
    "an lnurl that is none": (inner(lnurl="lnurl1damaged"), "request: lnurl: it is not our address"),
    "a request for another signer": (inner(extra=[["P", STRANGER.pubkey]]), "request: P: it expects another"),
    "a description that is not the invoice's": (
        lambda r, _: zap_receipt(PROVIDER, r, invoice(MSAT, "another text")),
        "does not commit",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_receipt_is_refused_for_its_own_reason(name: str) -> None:
    forge, reason = FORGERIES[name]
    with pytest.raises(InvalidZap, match=reason):
        check(forge(*honest()))


def test_a_receipt_that_adds_an_event_to_the_request_is_refused() -> None:
    request = zap_request(PAYER, US.pubkey, msat=MSAT)
    receipt = zap_receipt(PROVIDER, request, invoice(MSAT, request.to_json()), extra=[["e", QUOTE]])
    with pytest.raises(InvalidZap, match=r"^e: the receipt names another event"):
        check(receipt)


@pytest.mark.parametrize("lnurl", [LUD16, LUD16.upper(), LNURL.upper(), "lnurlp://example.com/.well-known/lnurlp/shop"])
def test_our_address_is_ours_however_it_is_written(lnurl: str) -> None:
    request, bolt11 = honest(lnurl=lnurl)
    assert check(zap_receipt(PROVIDER, request, bolt11)).request.payer == PAYER.pubkey


def test_a_request_is_bounded() -> None:
    long, _ = honest(comment="é" * (MAX_REQUEST_BYTES // 2))
    with pytest.raises(InvalidZap, match="more than"):
        parse(long.to_json())
    many, _ = honest(extra=[["t", str(n)] for n in range(200)])
    with pytest.raises(InvalidZap, match="tags"):
        parse(many.to_json())
    request, _ = honest(relays=[f"wss://{n}.example" for n in range(50)])
    assert len(parse(request.to_json()).relays) == 10


def test_our_own_receipt_is_one_that_we_would_believe_and_holds_no_preimage() -> None:
    request, bolt11 = honest(relays=["wss://one.example"], extra=[["k", "7000"], ["k"]])
    receipt = make_zap_receipt(PROVIDER, request.to_json(), bolt11, 1_750_000_000)
    assert check(receipt).request.payer == PAYER.pubkey
    assert receipt.created_at == 1_750_000_000
    assert [tag[0] for tag in receipt.tags] == ["p", "e", "k", "P", "bolt11", "description"]
    assert receipt.content == ""
    assert relays_of(request.to_json()) == ("wss://one.example",)
    assert receipt.id == make_zap_receipt(PROVIDER, request.to_json(), bolt11, 1_750_000_000).id


@pytest.mark.parametrize("text", ["", "{}", PAYER.sign(1, [["p", US.pubkey]]).to_json(), PAYER.sign(9734).to_json()])
def test_what_is_no_zap_request_has_no_receipt(text: str) -> None:
    with pytest.raises(InvalidZap):
        make_zap_receipt(PROVIDER, text, "lnbcrt1", 1)


@given(tags=TAGS, kind=st.sampled_from([9734, 9734, 9734, 1]), content=st.text(max_size=20))
def test_whatever_is_signed_is_read_or_refused_and_what_is_read_can_be_receipted(
    tags: list[list[str]], kind: int, content: str
) -> None:
    try:
        request = PAYER.sign(kind, [*tags, ["p", US.pubkey]], content, 1_750_000_000).to_json()
    except TypeError:  # a lone surrogate, which no event can hold
        return
    assert isinstance(relays_of(request), tuple)
    try:
        parsed = parse(request, msat=None)
    except InvalidZap:
        return
    assert parsed.payer == PAYER.pubkey
    receipt = make_zap_receipt(PROVIDER, request, invoice(MSAT, "any"), 1)
    assert receipt.verify()


@given(value=JSON | st.text())
def test_no_text_makes_the_parser_fail_in_another_way(value: Any) -> None:
    for text in (json.dumps(value), value if isinstance(value, str) else ""):
        with pytest.raises(InvalidZap):
            parse(text)


@given(tags=TAGS, description=st.text(max_size=60) | st.just(honest()[0].to_json()), bolt11=st.text(max_size=60))
def test_no_receipt_makes_the_check_fail_in_another_way(tags: list[list[str]], description: str, bolt11: str) -> None:
    ours = [["p", US.pubkey], ["e", QUOTE], ["description", description], ["bolt11", bolt11]]
    try:
        receipt = PROVIDER.sign(9735, [*tags, *ours], "", 1)
    except TypeError:
        return
    with pytest.raises(InvalidZap):
        check(receipt)
