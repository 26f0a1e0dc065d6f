"""Addresses in every spelling, and servers that are a stranger's."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from dvm.lightning import bolt11
from dvm.lightning.lnurl import LnurlClient, LnurlError
from dvm.lightning.lnurl_address import InvalidLnurl, encode_lnurl, is_at, pay_url, place
from dvm.nostr.fetching import Fetched, Fetcher
from tests.standins.lnurl_server import StrangersServer, strangers_server
from tests.standins.zaps import NETWORK, invoice

SHOP = "https://example.com/.well-known/lnurlp/shop"
# LUD-01's own example.
LUD01 = (
    "LNURL1DP68GURN8GHJ7UM9WFMXJCM99E3K7MF0V9CXJ0M385EKVCENXC6R2C35XVUKXEFCV5MKVV34X5"
    "EKZD3EV56NYD3HXQURZEPEXEJXXEPNXSCRVWFNV9NXZCN9XQ6XYEFHVGCXXCMYXYMNSERXFQ5FNS"
)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("shop@example.com", SHOP),
        (" Shop@Example.COM ", SHOP),
        ("a.b-c_d+e@example.com", "https://example.com/.well-known/lnurlp/a.b-c_d+e"),
        ("shop@example.com:8443", "https://example.com:8443/.well-known/lnurlp/shop"),
        ("shop@hidden.onion", "http://hidden.onion/.well-known/lnurlp/shop"),
        ("lnurlp://example.com/pay?id=1", "https://example.com/pay?id=1"),
        ("lnurlp:example.com/pay", "https://example.com/pay"),
        ("https://example.com/pay", "https://example.com/pay"),
        (encode_lnurl(SHOP), SHOP),
        ("lightning:" + encode_lnurl(SHOP).upper(), SHOP),
        (
            LUD01,
            "https://service.com/api?q=3fc3645b439ce8e7f2553a69e5267081d96dcd340693afabe04be7b0ccd178df",
        ),
    ],
)
def test_where_one_is_paid_is_read_in_every_spelling(text: str, url: str) -> None:
    assert pay_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        *("", "shop", "@example.com", "shop@", "a b@example.com", "shop@exam ple.com", "shöp@example.com"),
        *("http://example.com/pay", "lnurl1damaged", LUD01[:-1] + "Q", "ftp://example.com", "lnurlp://"),
        *(
            "https://user:secret@example.com/",
            "shop@example.com:99999",
            "https://example.com/" + "x" * 3000,
            encode_lnurl("http://example.com"),
        ),
        "lnbc1notanaddress",
    ],
)
def test_what_leads_nowhere_is_refused(text: str) -> None:
    with pytest.raises(InvalidLnurl):
        pay_url(text)


def test_only_where_it_is_allowed_is_http_spoken_and_then_to_this_network_alone() -> None:
    assert pay_url("shop@127.0.0.1:8402", insecure=True) == "http://127.0.0.1:8402/.well-known/lnurlp/shop"
    assert pay_url("shop@localhost", insecure=True) == "http://localhost/.well-known/lnurlp/shop"
    assert pay_url("shop@example.com", insecure=True) == SHOP
    assert pay_url("shop@127.0.0.1:8402").startswith("https://")


@given(st.text() | st.text().map(lambda t: f"lnurl1{t}") | st.text().map(lambda t: f"lnurlp://{t}"))
def test_no_text_is_read_in_another_way(text: str) -> None:
    assert place(text) is None or place(text) == place(text)
    try:
        assert pay_url(text).startswith(("https://", "http://"))
    except InvalidLnurl:
        return


@given(st.text(st.characters(codec="ascii", exclude_categories=("Cc",)), min_size=1, max_size=80))
def test_an_lnurl_holds_what_was_put_in(path: str) -> None:
    url = f"https://example.com/{path}"
    assert place(encode_lnurl(url)) == place(url)


@pytest.mark.parametrize(
    ("address", "url", "ours"),
    [
        ("shop@example.com", "https://example.com", True),
        ("shop@example.com", "https://Example.com/", True),
        ("shop@example.com:443", "https://example.com", True),
        ("shop@example.com", "https://example.com:443", True),
        ("shop@example.com:8443", "https://example.com", False),
        ("shop@example.com", "https://example.com:8443", False),
        ("shop@example.com", "https://other.example", False),
        ("shop@example.com.evil.example", "https://example.com", False),
        ("shop@127.0.0.1:8402", "http://127.0.0.1:8402", True),
        ("shop@[::1]:8402", "http://[::1]:8402", True),
        ("shop@", "https://", False),
    ],
)
def test_an_address_is_ours_if_it_is_at_our_gateway(address: str, url: str, ours: bool) -> None:
    assert is_at(address, url) is ours


@pytest.fixture
async def server() -> AsyncIterator[StrangersServer]:
    async with strangers_server() as each:
        yield each


@pytest.fixture
async def client() -> AsyncIterator[LnurlClient]:
    made = LnurlClient(allow_private=True, timeout=5)
    yield made
    await made.close()


def pays(server: StrangersServer, msat: int = 5_000, text: str = '[["text/plain", "Pay shop"]]', **more: Any) -> None:
    server.pages["/pay/shop"] = {"pr": invoice(msat, text, **more), "routes": []}


async def test_an_address_is_asked_and_gives_an_invoice(server: StrangersServer, client: LnurlClient) -> None:
    params = await client.fetch(server.pays("shop", commentAllowed=5, allowsNostr=True, nostrPubkey="ab" * 32))
    assert (params.min_msat, params.max_msat, params.nostr_pubkey) == (1_000, 100_000_000, "ab" * 32)
    pays(server)
    assert (await client.invoice(params, 5_000, "a long comment", network=NETWORK)).startswith("lnbcrt")
    assert server.asked[-1] == "/pay/shop?amount=5000&comment=a%20lon"


async def test_a_callback_keeps_its_own_query(server: StrangersServer, client: LnurlClient) -> None:
    params = await client.fetch(server.pays("shop", callback=f"{server.url}/pay/shop?user=7&amount=1"))
    pays(server)
    await client.invoice(params, 5_000, network=NETWORK)
    assert server.asked[-1] == "/pay/shop?user=7&amount=5000"


async def test_a_zap_request_travels_whole(server: StrangersServer, client: LnurlClient) -> None:
    params = await client.fetch(server.pays("shop", allowsNostr=True, nostrPubkey="ab" * 32))
    text = '{"content":"ä & = ? #","tags":[]}' + " " * 3000
    heard: list[str] = []

    async def pay(request: Request) -> Response:
        heard.append(request.query_params["nostr"])
        return Response('{"pr": "' + invoice(5_000, text) + '"}')

    server.pages["/pay/shop"] = pay
    await client.invoice(params, 5_000, network=NETWORK, zap_request=text)
    assert heard == [text]


@pytest.mark.parametrize("signs", [{"allowsNostr": False}, {"allowsNostr": 1}, {"nostrPubkey": "AB" * 32}])
async def test_who_signs_no_receipts_cannot_be_zapped(
    server: StrangersServer, client: LnurlClient, signs: dict[str, Any]
) -> None:
    params = await client.fetch(server.pays("shop", **{"allowsNostr": True, "nostrPubkey": "ab" * 32, **signs}))
    assert params.nostr_pubkey is None
    with pytest.raises(LnurlError, match="no zap receipts"):
        await client.invoice(params, 5_000, network=NETWORK, zap_request="{}")


@pytest.mark.parametrize(
    "change",
    [
        {"tag": "withdrawRequest"},
        {"tag": None},
        {"callback": None},
        {"callback": "file:///etc/passwd"},
        {"callback": "https://user:password@example.com/"},
        {"metadata": None},
        {"metadata": "x" * 70_000},
        {"minSendable": 0},
        {"minSendable": -1},
        {"minSendable": "1000"},
        {"minSendable": True},
        {"maxSendable": 999},
        {"maxSendable": 1e6},
        {"status": "ERROR", "reason": "closed"},
    ],
)
async def test_an_offer_that_cannot_be_relied_upon_is_refused(
    server: StrangersServer, client: LnurlClient, change: dict[str, Any]
) -> None:
    with pytest.raises(LnurlError) as caught:
        await client.fetch(server.pays("shop", **change))
    assert caught.value.refused


@pytest.mark.parametrize(
    ("page", "refused"),
    [
        (Response("not here", 404), True),
        (Response("oops", 500), False),
        (Response("<html>", 200), False),
        (Response("[]", 200), False),
        (Response('{"status": "ERROR", "reason": "no\\nsuch\\u0007user"}', 404), True),
        (Response('{"status": "error", "reason": 7}', 200), True),
    ],
)
async def test_an_answer_is_told_as_final_or_as_passing(
    server: StrangersServer, client: LnurlClient, page: Response, refused: bool
) -> None:
    address = server.pays("shop")
    server.pages["/.well-known/lnurlp/shop"] = page
    with pytest.raises(LnurlError) as caught:
        await client.fetch(address)
    assert caught.value.refused is refused
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"pr": invoice(6_000, "x")}, "over 6000"),
        ({"pr": invoice(None, "x")}, "over None"),
        ({"pr": invoice(5_000, "x", network="mainnet")}, "for mainnet"),
        ({"pr": invoice(5_000, "x", created_at=int(time.time()) - 7200)}, "expired"),
        ({"pr": invoice(5_000, "x")[:-3]}, "no valid invoice"),
        ({"pr": 7}, "no valid invoice"),
        ({}, "no valid invoice"),
        ({"status": "ERROR", "reason": "no route"}, "no route"),
    ],
)
async def test_an_invoice_that_was_not_asked_for_is_refused(
    server: StrangersServer, client: LnurlClient, answer: dict[str, Any], why: str
) -> None:
    params = await client.fetch(server.pays("shop"))
    server.pages["/pay/shop"] = answer
    with pytest.raises(LnurlError, match=why):
        await client.invoice(params, 5_000, network=NETWORK)


@pytest.mark.parametrize("msat", [999, 100_000_001])
async def test_an_amount_that_is_not_taken_is_not_asked_for(
    server: StrangersServer, client: LnurlClient, msat: int
) -> None:
    params = await client.fetch(server.pays("shop"))
    asked = len(server.asked)
    with pytest.raises(LnurlError, match="it takes 1000 to 100000000"):
        await client.invoice(params, msat, network=NETWORK)
    assert len(server.asked) == asked


async def test_strangers_lead_nobody_into_our_own_network(server: StrangersServer) -> None:
    client = LnurlClient()
    try:
        for address in (f"shop@{server.authority}", "shop@localhost", f"https://{server.authority}/x"):
            with pytest.raises(LnurlError, match="not a public address"):
                await client.fetch(address)
    finally:
        await client.close()
    assert server.asked == []


async def test_a_callback_in_clear_is_refused_and_an_onion_service_is_not(server: StrangersServer) -> None:
    class Offers(Fetcher):
        async def get(self, url: str, **_: Any) -> Fetched:
            callback = "http://hidden.onion/pay" if ".onion/" in url else "http://example.com/pay"
            offer = {"tag": "payRequest", "callback": callback, "minSendable": 1, "maxSendable": 9, "metadata": "[]"}
            return Fetched(url, 200, "application/json", json.dumps(offer).encode())

    client = LnurlClient(fetcher=Offers())
    assert (await client.fetch("shop@hidden.onion")).callback == "http://hidden.onion/pay"
    with pytest.raises(LnurlError, match="callback: http:// is not secure"):
        await client.fetch("shop@example.com")


async def test_an_invoice_that_no_wallet_here_can_pay_is_refused(
    server: StrangersServer, client: LnurlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = await client.fetch(server.pays("shop"))
    monkeypatch.setattr(bolt11, "_KNOWN_FEATURES", frozenset())
    pays(server)
    with pytest.raises(LnurlError, match="demands what no wallet here knows"):
        await client.invoice(params, 5_000, network=NETWORK)


async def test_the_hash_of_the_description_is_advice(server: StrangersServer, client: LnurlClient) -> None:
    params = await client.fetch(server.pays("shop"))
    pays(server, description_hash=sha256(b"something else").digest())
    assert await client.invoice(params, 5_000, network=NETWORK)
