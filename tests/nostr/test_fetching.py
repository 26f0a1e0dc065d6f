"""HTTP to addresses that strangers name."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.responses import RedirectResponse, Response

from dvm.nostr import addresses
from dvm.nostr.fetching import BodyTooLarge, Fetcher, FetchError
from tests.standins.lnurl_server import StrangersServer, strangers_server
from tests.standins.relay import free_port


@pytest.fixture
async def server() -> AsyncIterator[StrangersServer]:
    async with strangers_server() as each:
        yield each


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    made = Fetcher(allow_private=True, timeout=5, max_bytes=1000)
    yield made
    await made.close()


async def test_a_page_is_had_with_its_type_and_status(server: StrangersServer, fetcher: Fetcher) -> None:
    server.pages["/a"] = Response("hello", 404, media_type="Text/Plain; charset=utf-8")
    got = await fetcher.get(f"{server.url}/a?x=1", params={"y": "ä&"})
    assert (got.status, got.type, got.charset, got.body) == (404, "text/plain", "utf-8", b"hello")
    assert server.asked == ["/a?x=1&y=%C3%A4%26"]
    with pytest.raises(FetchError, match="no JSON"):
        got.json()


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://example.com/", "file:///etc/passwd", "", "https://", "https://user:pw@example.com/", "gopher://x"),
        *("https://exa mple.com/", "https://[::1", "https://example.com:0/", "https://" + "x" * 40_000, "javascript:1"),
        *("https://example.com:99999/", "https://\u0000/", "//example.com/x"),
    ],
)
async def test_what_is_no_address_is_refused(fetcher: Fetcher, url: str) -> None:
    with pytest.raises(FetchError):
        await fetcher.get(url)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254", "[::ffff:10.0.0.1]"]
)
async def test_strangers_do_not_lead_us_into_our_own_network(host: str) -> None:
    fetcher = Fetcher()
    with pytest.raises(FetchError, match="not a public address"):
        await fetcher.get(f"https://{host}/")
    await fetcher.close()


async def test_plain_http_is_for_ones_own_machine() -> None:
    fetcher = Fetcher()
    with pytest.raises(FetchError, match="must begin with https"):
        await fetcher.get("http://example.com/")
    await fetcher.close()


async def test_plain_http_can_be_allowed_and_then_to_public_addresses_only() -> None:
    fetcher = Fetcher(plain=True)
    with pytest.raises(FetchError, match="not a public address"):
        await fetcher.get("http://127.0.0.1/")
    await fetcher.close()


@settings(max_examples=60)
@given(url=st.text().map(lambda text: f"https://{text}") | st.text(), value=st.text(st.characters()))
def test_no_address_makes_it_fail_in_another_way(url: str, value: str) -> None:
    async def fetch() -> None:
        fetcher = Fetcher(timeout=1)
        with pytest.raises(FetchError):
            await fetcher.get(url, params={"comment": value})
        await fetcher.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(addresses, "_look_up", lambda _host, _port: [])
        asyncio.run(fetch())


async def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to(
    server: StrangersServer, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [[ipaddress.ip_address("127.0.0.1")]]
    monkeypatch.setattr(addresses, "_look_up", lambda _host, _port: answers.pop())
    server.pages["/"] = Response("here")
    port = server.authority.partition(":")[2]
    got = await fetcher.get(f"http://rebinding.example:{port}/")
    assert got.body == b"here"
    assert server.headers[0]["host"] == f"rebinding.example:{port}"
    assert answers == []


async def test_a_redirect_is_followed_and_checked_like_the_first_address(
    server: StrangersServer, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pages["/from"] = RedirectResponse("/to")
    server.pages["/to"] = Response("there")
    got = await fetcher.get(f"{server.url}/from")
    assert (got.body, got.url) == (b"there", f"{server.url}/to")

    looked: list[str] = []

    async def resolve(endpoint: Any, **_: Any) -> list[str]:
        looked.append(endpoint.host)
        if endpoint.host != "127.0.0.1":
            raise addresses.AddressRefused("not a public address")
        return ["127.0.0.1"]

    monkeypatch.setattr("dvm.nostr.fetching.resolve_public", resolve)
    server.pages["/from"] = RedirectResponse("http://inside.example/secret")
    with pytest.raises(FetchError, match="not a public address"):
        await fetcher.get(f"{server.url}/from")
    assert looked == ["127.0.0.1", "inside.example"]


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://example.com/", "https://user:pw@example.com/"])
async def test_a_redirect_leads_to_no_other_scheme(server: StrangersServer, fetcher: Fetcher, to: str) -> None:
    server.pages["/from"] = RedirectResponse(to)
    with pytest.raises(FetchError):
        await fetcher.get(f"{server.url}/from")


async def test_redirects_in_a_circle_end(server: StrangersServer, fetcher: Fetcher) -> None:
    server.pages["/round"] = RedirectResponse("/round")
    with pytest.raises(FetchError, match="TooManyRedirects"):
        await fetcher.get(f"{server.url}/round")
    assert len(server.asked) == 4


async def test_what_is_too_large_is_left(server: StrangersServer, fetcher: Fetcher) -> None:
    server.pages["/a"] = Response(b"x" * 1001)
    with pytest.raises(BodyTooLarge, match="larger than 1000 bytes"):
        await fetcher.get(f"{server.url}/a")
    assert len((await fetcher.get(f"{server.url}/a", max_bytes=1001)).body) == 1001


async def test_what_is_compressed_unasked_is_left(server: StrangersServer, fetcher: Fetcher) -> None:
    bomb = gzip.compress(b"0" * 100_000)
    server.pages["/a"] = Response(bomb, headers={"Content-Encoding": "gzip"})
    with pytest.raises(FetchError, match="compressed"):
        await fetcher.get(f"{server.url}/a")


async def test_a_page_that_never_comes_is_not_waited_for(server: StrangersServer) -> None:
    fetcher = Fetcher(allow_private=True, timeout=0.1)
    server.pages["/a"] = server.hang
    with pytest.raises(FetchError, match=r"no answer within 0.1 s") as caught:
        await fetcher.get(f"{server.url}/a")
    assert caught.value.sent
    await fetcher.close()


async def test_nobody_listening_is_told_as_nothing_sent(fetcher: Fetcher) -> None:
    with pytest.raises(FetchError, match="no connection") as caught:
        await fetcher.get(f"http://127.0.0.1:{free_port()}/")
    assert not caught.value.sent


async def test_we_are_not_recognised_again(server: StrangersServer, fetcher: Fetcher) -> None:
    server.pages["/a"] = Response("x", headers={"Set-Cookie": "id=7"})
    await fetcher.get(f"{server.url}/a")
    await fetcher.get(f"{server.url}/a")
    assert "cookie" not in server.headers[1]
    assert server.headers[1]["accept-encoding"] == "identity"
