"""The gateway over real HTTP: what it answers, to whom, and how much of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dvm.gateway import Gateway, GatewayError, Site, make_app, server
from dvm.gateway.limits import Limit
from dvm.jobs.payments.zaps import NoInvoice

PUBKEY = "ab" * 32
BASE = "https://shop.example"


class Desk:
    """Who makes the invoices, in the hands of a test."""

    pubkey = PUBKEY
    min_msat = 1_500
    max_msat = 100_000
    comment_chars = 10
    metadata = '[["text/plain", "A payment"]]'

    def __init__(self) -> None:
        self.asked: list[tuple[int, str | None, str]] = []
        self.error: Exception | None = None

    async def invoice(self, msat: int, zap_request: str | None = None, comment: str = "") -> str:
        self.asked.append((msat, zap_request, comment))
        if self.error is not None:
            raise self.error
        return "lnbc1invoice"


@asynccontextmanager
async def gateway(site: Site | None = None, **parts: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway that runs as long as the block."""
    site = site or Site(BASE, PUBKEY, "shop", ("wss://one.example",))
    served = Gateway(make_app(site, **parts), "127.0.0.1:0", shutdown_seconds=1)
    await served.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as client:
            yield client
    finally:
        await served.close()


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def client(desk: Desk) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(desk=desk) as each:
        yield each


async def test_the_lightning_address_tells_how_it_is_paid(client: httpx.AsyncClient) -> None:
    answer = await client.get("/.well-known/lnurlp/shop")
    assert answer.status_code == 200
    assert answer.json() == {
        "tag": "payRequest",
        "callback": f"{BASE}/lnurlp/shop/callback",
        "minSendable": 2_000,
        "maxSendable": 100_000,
        "metadata": Desk.metadata,
        "commentAllowed": 10,
        "allowsNostr": True,
        "nostrPubkey": PUBKEY,
    }
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "public, max-age=60"
    assert "server" not in answer.headers


async def test_an_invoice_is_given_out(client: httpx.AsyncClient, desk: Desk) -> None:
    query = {"amount": "21000", "nostr": '{"content":"ä + & ="}', "comment": "hello", "lnurl": "lnurl1x"}
    answer = await client.get("/lnurlp/shop/callback", params=query)
    assert answer.json() == {"pr": "lnbc1invoice", "routes": []}
    assert desk.asked == [(21_000, '{"content":"ä + & ="}', "hello")]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("", "amount"),
        ("amount=", "amount"),
        ("amount=0", "amount"),
        ("amount=-1000", "amount"),
        ("amount=1e5", "amount"),
        ("amount=1_000", "amount"),
        ("amount=+1000", "amount"),
        ("amount=%D9%A3000", "amount"),
        (f"amount={'9' * 400}", "amount"),
        ("amount=1000&amount=2000", "twice"),
        ("amount=1000&nostr={}&nostr={}", "twice"),
        ("amount=1000&comment=more+than+ten", "comment: at most 10"),
    ],
)
async def test_what_is_asked_wrongly_is_told_as_wallets_read_it(
    client: httpx.AsyncClient, desk: Desk, query: str, why: str
) -> None:
    answer = await client.get(f"/lnurlp/shop/callback?{query}")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ERROR"
    assert why in answer.json()["reason"]
    assert desk.asked == []


async def test_a_refusal_is_told_and_a_failure_is_not(
    client: httpx.AsyncClient, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.error = NoInvoice("not today")
    answer = await client.get("/lnurlp/shop/callback?amount=2000")
    assert (answer.status_code, answer.json()) == (200, {"status": "ERROR", "reason": "not today"})
    desk.error = RuntimeError("the macaroon is 0201036c6e64")
    answer = await client.get("/lnurlp/shop/callback?amount=2000")
    assert (answer.status_code, answer.json()) == (500, {"error": "internal"})
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == ["a request failed"]


@pytest.mark.parametrize("path", ["/.well-known/lnurlp/other", "/lnurlp/other/callback?amount=2000"])
async def test_nobody_else_is_paid_here(client: httpx.AsyncClient, desk: Desk, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["status"]) == (404, "ERROR")
    assert desk.asked == []


async def test_without_a_desk_there_is_no_lightning_address() -> None:
    async with gateway() as client:
        assert (await client.get("/.well-known/lnurlp/shop")).status_code == 404
        assert (await client.get("/.well-known/nostr.json")).status_code == 200


@pytest.mark.parametrize(
    ("query", "names"),
    [("", ["shop", "_"]), ("?name=shop", ["shop"]), ("?name=_", ["_"]), ("?name=other", []), ("?name=", [])],
)
async def test_who_we_are_is_told_by_name(client: httpx.AsyncClient, query: str, names: list[str]) -> None:
    answer = await client.get(f"/.well-known/nostr.json{query}")
    assert answer.status_code == 200
    assert answer.json() == {
        "names": dict.fromkeys(names, PUBKEY),
        "relays": {PUBKEY: ["wss://one.example"]} if names else {},
    }
    assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/redoc", "/openapi.json", "/.well-known/lnurlp/", "/%2e%2e/etc/passwd", "/health/"]
)
async def test_there_is_nothing_else(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.json()) == (404, {"error": "not found"})


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_nothing_is_written_here(client: httpx.AsyncClient, method: str) -> None:
    answer = await client.request(method, "/lnurlp/shop/callback?amount=2000", content=b"x" * 100_000)
    assert answer.status_code == 405


async def test_what_is_too_long_is_not_read(client: httpx.AsyncClient, desk: Desk) -> None:
    for path in (f"/lnurlp/shop/callback?amount=2000&nostr={'x' * 50_000}", f"/{'x' * 2_000}"):
        assert (await client.get(path)).status_code == 414
    headers = {f"x-{n}": "y" * 8_000 for n in range(20)}
    with contextlib.suppress(httpx.TransportError):  # it hangs up on us while we are still sending
        assert (await client.get("/.well-known/nostr.json", headers=headers)).status_code == 400
    assert (await client.get("/.well-known/nostr.json")).status_code == 200
    assert desk.asked == []


async def test_who_asks_too_often_waits_and_others_do_not(desk: Desk) -> None:
    async with gateway(desk=desk, invoices=Limit(3, 100), requests=Limit(10, 100)) as client:
        path = "/lnurlp/shop/callback?amount=2000"
        one, other = {"X-Forwarded-For": "1.2.3.4"}, {"X-Forwarded-For": "1.2.3.5"}
        codes = [(await client.get(path, headers=one)).status_code for _ in range(5)]
        assert codes == [200, 200, 200, 429, 429]
        assert (await client.get(path, headers=one)).json()["status"] == "ERROR"
        assert (await client.get(path, headers=other)).status_code == 200
        codes = [(await client.get("/.well-known/nostr.json", headers=one)).status_code for _ in range(6)]
        assert codes == [200, 200, 200, 200, 429, 429]
        assert len(desk.asked) == 4


async def test_one_network_is_one_client_and_all_together_have_a_limit(desk: Desk) -> None:
    async with gateway(desk=desk, invoices=Limit(3, 5)) as client:
        path = "/lnurlp/shop/callback?amount=2000"

        async def ask(address: str) -> int:
            return (await client.get(path, headers={"X-Forwarded-For": address})).status_code

        assert [await ask(f"2001:db8::{n}") for n in range(1, 6)] == [200, 200, 200, 429, 429]
        assert [await ask(f"1.2.3.{n}") for n in range(1, 5)] == [200, 200, 429, 429]


async def test_health_and_metrics_are_for_the_operators_own_machines(desk: Desk) -> None:
    wrong: list[str | None] = [None]
    async with gateway(desk=desk, healthy=lambda: wrong[0], facts=lambda: {"relays_connected": 2.0}) as client:
        answer = await client.get("/health")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        wrong[0] = "no relay"
        answer = await client.get("/health")
        assert (answer.status_code, answer.json()) == (503, {"status": "failing", "reason": "no relay"})
        await client.get("/.well-known/lnurlp/shop")
        await client.get("/nothing")
        text = (await client.get("/metrics")).text
        found = {
            (sample.name, sample.labels.get("route"), sample.labels.get("status")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert found["dvm_relays_connected", None, None] == 2
        assert found["dvm_http_requests_total", "lnurlp", "200"] == 1
        assert found["dvm_http_requests_total", "health", "503"] == 1
        assert found["dvm_http_requests_total", "none", "404"] == 1
        for path in ("/health", "/metrics"):
            assert "access-control-allow-origin" not in (await client.get(path)).headers
            for headers in ({"X-Forwarded-For": "1.2.3.4"}, {"Forwarded": "for=1.2.3.4"}, {"Host": "shop.example"}):
                assert (await client.get(path, headers=headers)).status_code == 404


async def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(GatewayError, match=f"gateway.listen: {listen}"):
            await Gateway(make_app(Site(BASE, PUBKEY)), listen).start()
    for nonsense in ("no.such.host.invalid:1", "127.0.0.1:99999"):
        with pytest.raises(GatewayError):
            await Gateway(make_app(Site(BASE, PUBKEY)), nonsense).start()


async def test_it_ends_and_its_port_is_free_again(desk: Desk) -> None:
    served = Gateway(make_app(Site(BASE, PUBKEY, "shop"), desk=desk), "127.0.0.1:0", shutdown_seconds=1)
    await served.start()
    port = served.port
    await served.close()
    await served.close()
    again = Gateway(make_app(Site(BASE, PUBKEY)), f"127.0.0.1:{port}", shutdown_seconds=1)
    await again.start()
    await again.close()


async def test_listening_to_the_world_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    served = Gateway(make_app(Site(BASE, PUBKEY)), "0.0.0.0:0", shutdown_seconds=1)
    await served.start()
    await served.close()
    assert any("beyond this machine" in record.getMessage() for record in caplog.records)


async def test_the_offer_is_json_that_any_wallet_reads(client: httpx.AsyncClient) -> None:
    offer = (await client.get("/.well-known/lnurlp/shop")).json()
    assert json.loads(offer["metadata"])[0][0] == "text/plain"


@pytest.mark.parametrize(
    "first", [b"", b"GET /.well-known/nostr.json HTTP/1.1\r\nHost: a\r\n\r\n"], ids=["at once", "later"]
)
@pytest.mark.parametrize("trickle", [b"", b"G"], ids=["silent", "byte by byte"])
async def test_whoever_asks_nothing_keeps_no_place(
    monkeypatch: pytest.MonkeyPatch, first: bytes, trickle: bytes
) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.05)
    served = Gateway(make_app(Site(BASE, PUBKEY, "shop")), "127.0.0.1:0", shutdown_seconds=1)
    await served.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)

    async def talk() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(trickle)
                await writer.drain()
                await asyncio.sleep(0.01)

    writer.write(first)
    talking = asyncio.create_task(talk())
    try:
        async with asyncio.timeout(10):  # for ever, otherwise
            with contextlib.suppress(ConnectionError):
                answer = await reader.read()
                assert answer.startswith(b"HTTP/1.1 200") is bool(first)
    finally:
        talking.cancel()
        writer.close()
        await served.close()
