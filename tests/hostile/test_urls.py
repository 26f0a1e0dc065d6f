"""Addresses that a customer names, through a whole job: none leads into our network, none costs out of proportion.

The relay and the wallet are on this machine, so the shop's own connections may be private; what is fetched for
customers goes through a fetcher as strangers meet it, unless a test says otherwise.
"""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from dvm.models import Blob
from dvm.nostr import addresses
from dvm.nostr.fetching import Fetcher
from tests.standins.customer import Customer, customer
from tests.standins.lnurl_server import StrangersServer, strangers_server
from tests.standins.waiting import until
from tests.standins.workshop import Workshop, workshop

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 40
MAX_BYTES = 100_000
UNAVAILABLE = "input-unavailable: nothing could be had from an address that the request names"


@pytest.fixture
async def server() -> AsyncIterator[StrangersServer]:
    async with strangers_server() as each:
        yield each


@pytest.fixture
async def strict(relay: str, tmp_path: Path) -> AsyncIterator[Workshop]:
    """A shop that fetches from public addresses only, as any shop does."""
    async with workshop(relay, data=tmp_path, opened=False) as each:
        each.fetcher = Fetcher(plain=True, timeout=5)
        each.sources |= {"max_bytes": MAX_BYTES}
        each.model.takes = ("image/",)
        await each.open()
        yield each


@pytest.fixture
async def open_shop(relay: str, tmp_path: Path) -> AsyncIterator[Workshop]:
    """A shop to which the loopback address is as good as any: what is served there is what is tested."""
    async with workshop(relay, data=tmp_path, opened=False) as each:
        each.fetcher = Fetcher(plain=True, allow_private=True, timeout=5)
        each.sources |= {"max_bytes": MAX_BYTES}
        each.model.takes = ("image/",)
        await each.open()
        yield each


@pytest.fixture
async def buyer(relay: str) -> AsyncIterator[Customer]:
    async with customer(relay) as each:
        yield each


async def ask_about(buyer: Customer, shop: Workshop, *urls: str) -> str:
    tags = [*(["i", url, "url"] for url in urls), ["p", shop.keys.pubkey], ["nonce", token_hex(8)]]
    return await buyer.send(buyer.keys.sign(5050, tags, "", int(shop.clock())))


async def refusal(buyer: Customer, shop: Workshop, *urls: str) -> str:
    return (await buyer.feedback(await ask_about(buyer, shop, *urls), "error")).text


# Where it leads


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "LOCALHOST.", "0.0.0.0", "10.0.0.1", "169.254.169.254", "100.64.0.1"),
        *(
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "[fe80::1]",
        ),
        *(
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "0x7f.1",
            "127.1",
            "017700000001",
            "127.0.0.1.",
            "[fe80::1]",
            "127。0。0。1",
        ),
    ],
)
async def test_no_spelling_of_an_address_of_ours_is_fetched(
    strict: Workshop, buyer: Customer, server: StrangersServer, host: str
) -> None:
    port = server.authority.rpartition(":")[2]
    for scheme in ("http", "https"):
        assert await refusal(buyer, strict, f"{scheme}://{host}:{port}/secret") == UNAVAILABLE
    assert server.asked == []


async def test_a_name_that_leads_to_us_is_not_followed(
    strict: Workshop, buyer: Customer, server: StrangersServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = server.authority.rpartition(":")[2]
    for found in (["127.0.0.1"], ["127.0.0.1", "93.184.216.34"], ["::ffff:10.0.0.1"], ["fd00::1"]):
        answers = [ipaddress.ip_address(ip) for ip in found]
        monkeypatch.setattr(addresses, "_look_up", lambda _host, _port, answers=answers: answers)
        assert await refusal(buyer, strict, f"http://inside.example:{port}/") == UNAVAILABLE
    assert server.asked == []


async def test_a_name_that_changes_its_answer_is_asked_once_for_each_connection(
    open_shop: Workshop, buyer: Customer, server: StrangersServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checked as public, connected to as private: there is no second look-up in which it could differ."""
    port = server.authority.rpartition(":")[2]
    checked: list[str] = []

    def look_up(host: str, _port: int) -> list[Any]:
        checked.append(host)
        return [ipaddress.ip_address("127.0.0.1" if len(checked) == 1 else "127.0.0.2")]

    monkeypatch.setattr(addresses, "_look_up", look_up)
    server.pages["/"] = Response("here", media_type="text/plain")
    await buyer.quote(await ask_about(buyer, open_shop, f"http://rebinding.example:{port}/"))
    assert checked == ["rebinding.example"]
    assert server.asked == ["/"]


async def test_each_redirect_is_checked_again(
    strict: Workshop, buyer: Customer, server: StrangersServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first place counts as public here; where it sends us does not."""
    real = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda ip: str(ip) == "127.0.0.1" or real(ip))
    looked: list[str] = []
    look_up = addresses._look_up

    def noted(host: str, port: int) -> list[Any]:
        looked.append(host)
        return look_up(host, port)

    monkeypatch.setattr(addresses, "_look_up", noted)
    port = server.authority.rpartition(":")[2]
    targets = [f"http://{host}:{port}/secret" for host in ("127.0.0.2", "[::1]", "0x7f000002")]
    for target in [*targets, "file:///etc/passwd", "gopher://127.0.0.1/"]:
        server.pages["/from"] = RedirectResponse(target)
        assert await refusal(buyer, strict, f"{server.url}/from") == UNAVAILABLE
    assert set(server.asked) == {"/from"}
    assert {"127.0.0.2", "::1", "0x7f000002"} <= set(looked)


async def test_redirects_in_a_circle_end(open_shop: Workshop, buyer: Customer, server: StrangersServer) -> None:
    server.pages["/round"] = RedirectResponse("/round")
    assert await refusal(buyer, open_shop, f"{server.url}/round") == UNAVAILABLE
    assert len(server.asked) == 4


async def test_nothing_tells_the_refused_from_the_silent(
    open_shop: Workshop, strict: Workshop, buyer: Customer, server: StrangersServer
) -> None:
    """Else anyone could map our network by asking for quotes."""
    open_shop.fetcher._timeout = 0.2
    server.pages["/slow"] = server.hang
    said = {
        await refusal(buyer, strict, "http://127.0.0.1:1/"),
        await refusal(buyer, open_shop, "http://127.0.0.1:1/"),
        await refusal(buyer, open_shop, f"{server.url}/slow"),
        await refusal(buyer, open_shop, f"{server.url}/nothing"),
        await refusal(buyer, strict, "http://no-such-host.invalid/"),
    }
    assert said == {UNAVAILABLE}


async def test_no_credentials_are_sent_and_none_are_taken_from_the_address(
    open_shop: Workshop, buyer: Customer, server: StrangersServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:password@127.0.0.1:1")
    server.pages["/a"] = Response("a", media_type="text/plain", headers={"Set-Cookie": "id=7"})
    await buyer.quote(await ask_about(buyer, open_shop, f"{server.url}/a", f"{server.url}/a?again"))
    assert not {"authorization", "cookie", "proxy-authorization", "referer"} & set(server.headers[1])
    name = server.url.replace("http://", "http://user:password@")
    assert await refusal(buyer, open_shop, f"{name}/a") == UNAVAILABLE
    assert len(server.asked) == 2


# What is there


async def test_a_body_without_end_is_left(open_shop: Workshop, buyer: Customer, server: StrangersServer) -> None:
    sent = 0

    async def endless(_request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            nonlocal sent
            while not server.closing.is_set():
                sent += 10_000
                yield b"x" * 10_000
                await asyncio.sleep(0)

        return StreamingResponse(body(), media_type="text/plain")

    server.pages["/endless"] = endless
    said = await refusal(buyer, open_shop, f"{server.url}/endless")
    assert said.startswith("input-too-large: ")


async def test_a_body_that_says_it_is_too_large_is_not_read(
    open_shop: Workshop, buyer: Customer, server: StrangersServer
) -> None:
    server.pages["/large"] = Response(b"x" * (MAX_BYTES + 1), media_type="text/plain")
    assert (await refusal(buyer, open_shop, f"{server.url}/large")).startswith("input-too-large: ")


async def test_many_inputs_share_one_allowance(open_shop: Workshop, buyer: Customer, server: StrangersServer) -> None:
    server.pages["/half"] = Response(b"x" * (MAX_BYTES // 2), media_type="text/plain")
    urls = [f"{server.url}/half?{n}" for n in range(3)]
    await buyer.quote(await ask_about(buyer, open_shop, *urls[:2]))
    assert (await refusal(buyer, open_shop, *urls)).startswith("input-too-large: ")
    assert await refusal(buyer, open_shop, *(f"{server.url}/{n}" for n in range(17))) == (
        "invalid-input: at most 16 inputs may be named, beside those of type text"
    )


async def test_a_slow_body_is_not_waited_for(open_shop: Workshop, buyer: Customer, server: StrangersServer) -> None:
    async def dripping(_request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            while not server.closing.is_set():
                yield b"x"
                await asyncio.sleep(0.01)

        return StreamingResponse(body(), media_type="text/plain")

    server.pages["/slow"] = dripping
    open_shop.fetcher._timeout = 0.3
    assert await refusal(buyer, open_shop, f"{server.url}/slow") == UNAVAILABLE


async def test_slow_addresses_do_not_keep_others_waiting_for_ever(
    relay: str, tmp_path: Path, buyer: Customer, server: StrangersServer
) -> None:
    """Sixteen slow ones in one job have, together, the time of one job."""

    async def slow(_request: Request) -> Response:
        await asyncio.sleep(0.2)
        return Response("at last", media_type="text/plain")

    async with workshop(relay, data=tmp_path, opened=False) as shop:
        shop.sources |= {"seconds": 0.5}
        await shop.open()
        server.pages["/slow"] = slow
        urls = [f"{server.url}/slow?{n}" for n in range(16)]
        assert await refusal(buyer, shop, *urls) == UNAVAILABLE
        assert len(server.asked) < 16


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
async def test_a_compression_bomb_is_not_unpacked(
    open_shop: Workshop, buyer: Customer, server: StrangersServer, encoding: str
) -> None:
    bomb = gzip.compress(b"0" * 5_000_000)
    assert len(bomb) < MAX_BYTES
    server.pages["/a"] = Response(bomb, media_type="text/plain", headers={"Content-Encoding": encoding})
    assert await refusal(buyer, open_shop, f"{server.url}/a") == UNAVAILABLE


@pytest.mark.parametrize(
    ("declared", "body"),
    [
        *(("image/png", b"<html>no picture</html>"), ("image/png", b"%PDF-1.7 ..."), ("text/plain", PNG)),
        *(("text/html", gzip.compress(b"a", mtime=0) + b"\0"), ("application/pdf", PNG), ("audio/mpeg", PNG)),
        *(("application/zip", b"PK\x03\x04"), ("application/x-executable", b"\x7fELF"), ("", b"who knows")),
        *(("application/octet-stream", b"MZ\x90"), ("text/plain", b"a\0b"), ("image/svg+xml\0", b"<svg/>")),
        *(("text/html", b"<script>alert(1)</script>"), ("text/plain", b"  \n"), ("image/png", b"\xff\xd8\xff")),
    ],
)
async def test_what_is_not_what_it_says_is_refused(
    open_shop: Workshop, buyer: Customer, server: StrangersServer, declared: str, body: bytes
) -> None:
    server.pages["/a"] = Response(body, headers={"Content-Type": declared} if declared.isprintable() else {})
    if (declared, body[:3]) == ("image/png", b"\xff\xd8\xff"):  # a picture all the same: told by its bytes
        await buyer.quote(await ask_about(buyer, open_shop, f"{server.url}/a"))
        return
    assert (await refusal(buyer, open_shop, f"{server.url}/a")).startswith("input-type: ")


async def test_a_page_and_a_picture_come_to_the_model_as_what_they_are(
    open_shop: Workshop, buyer: Customer, server: StrangersServer
) -> None:
    page = "<html><head><title>T</title><script>x()</script></head><body><p>Grüße &amp; so<p>on</body></html>"
    server.pages["/page"] = Response(page.encode("cp1252"), headers={"Content-Type": "text/html; charset=windows-1252"})
    server.pages["/picture"] = Response(PNG, media_type="image/jpg")
    job = await ask_about(buyer, open_shop, f"{server.url}/page", f"{server.url}/picture")
    await open_shop.pay(buyer, job)
    await buyer.result(job)
    assert open_shop.model.prompts[0].turns[0].parts == ("T\nGrüße & so\non", Blob("image/png", PNG))
    assert len(server.asked) == 2  # once, not once for the price and once for the run


async def test_what_was_counted_is_what_runs(open_shop: Workshop, buyer: Customer, server: StrangersServer) -> None:
    """A page that has grown since its price was made would be read at the provider's cost."""
    server.pages["/a"] = Response("short", media_type="text/plain")
    grown, same = [await ask_about(buyer, open_shop, f"{server.url}/a?{n}") for n in range(2)]
    for job in (grown, same):
        await buyer.quote(job)
    await open_shop.reopen()
    await open_shop.pay(buyer, same)
    await buyer.result(same)
    server.pages["/a"] = Response("long " * 1000, media_type="text/plain")
    await open_shop.reopen()
    await open_shop.pay(buyer, grown)
    await buyer.feedback(grown, "error")
    await until(lambda: open_shop.store.balance(buyer.keys.pubkey))
    receipt = await buyer.receipt(grown)
    assert receipt.cost == 0
    assert len(open_shop.model.prompts) == 1
