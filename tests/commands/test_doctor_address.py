"""What `dvm doctor` says of the gateway and of the Lightning address."""

from __future__ import annotations

import json
import socket
import tomllib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dvm.config import load_config, warnings
from dvm.doctor import address
from dvm.doctor.findings import Finding
from dvm.jobs.shop import ZapSettings
from dvm.nostr.keys import Keys
from tests.commands.shops import write_shop
from tests.standins.loopback import Loopback, Receive, Scope, Send
from tests.toml_text import to_toml

US = Keys.generate().pubkey
METADATA = json.dumps([["text/plain", "zaps"]])
PARAMS: dict[str, Any] = {
    "tag": "payRequest",
    "callback": "https://pay.example.com/callback",
    "minSendable": 1_500,
    "maxSendable": 50_000_000,
    "metadata": METADATA,
    "allowsNostr": True,
    "nostrPubkey": US,
}


@asynccontextmanager
async def lightning_address(params: Mapping[str, Any]) -> AsyncIterator[str]:
    """Its server, and the address there."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found = scope["path"] == "/.well-known/lnurlp/shop"
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200 if found else 404, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(params).encode()})

    server = Loopback(app)
    await server.start()
    try:
        yield f"shop@{server.url.removeprefix('http://')}"
    finally:
        await server.stop()


async def asked(
    params: Mapping[str, Any] = PARAMS, *, name: str = "shop", own: bool = False, daemon: bool = True, **settings: Any
) -> Finding:
    """The one finding."""
    async with lightning_address(params) as where:
        zaps = ZapSettings(lud16=where.replace("shop", name), own=own, **settings)
        (found,) = [each async for each in address.served(zaps, US, daemon=daemon, allow_private=True)]
    assert (found.state == "ok") == (not found.advice)
    return found


@pytest.mark.parametrize("own", [False, True])
async def test_an_address_that_can_be_zapped(own: bool) -> None:
    found = await asked(own=own)
    assert (found.state, found.seen) == ("ok", "it can be zapped with 2 to 50,000 sat")


async def test_our_own_address_is_tried_while_the_daemon_serves_it() -> None:
    found = await asked({}, own=True, daemon=False)
    assert (found.state, found.seen[:9]) == ("ok", "not tried")


@pytest.mark.parametrize(("quote", "state"), [("invoice", "warning"), ("zap", "failed"), ("both", "failed")])
async def test_a_provider_that_makes_no_zap_receipts(quote: str, state: str) -> None:
    found = await asked({**PARAMS, "allowsNostr": False}, quote=quote)
    assert found.state == state
    assert "allows Nostr" in found.advice


@pytest.mark.parametrize(
    ("own", "state", "advice"), [(False, "warning", "Correct identity.lud16"), (True, "failed", "reverse proxy")]
)
async def test_an_address_that_nobody_serves(own: bool, state: str, advice: str) -> None:
    found = await asked(name="nobody", own=own, quote="invoice")
    assert found.state == state
    assert "404" in found.seen
    assert advice in found.advice


async def test_another_service_behind_our_address() -> None:
    found = await asked({**PARAMS, "nostrPubkey": Keys.generate().pubkey}, own=True)
    assert found.state == "failed"
    assert "another key" in found.seen


@pytest.mark.parametrize(
    ("lud16", "gateway", "place"),
    [
        ("me@example.com", None, ""),
        ("me@pay.example.com", {"url": "https://Pay.example.com/"}, ""),
        ("me@127.0.0.1:8402", {"url": "http://127.0.0.1:8402"}, ""),
        ("", {}, ""),
        ("me@example.com", {}, "gateway.url"),
        ("", {"url": "https://pay.example.com"}, "identity.lud16"),
        ("me@example.com", {"url": "https://pay.example.com"}, "identity.lud16"),
        ("me@pay.example.com", {"url": "http://pay.example.com"}, "gateway.url"),
    ],
)
def test_an_address_that_the_gateway_does_not_serve_is_a_warning(
    tmp_path: Path, lud16: str, gateway: dict[str, str] | None, place: str
) -> None:
    write_shop(tmp_path, ["wss://relay.example.com"])
    file = tmp_path / "dvm.toml"
    tables = tomllib.loads(file.read_text())
    tables["identity"]["lud16"] = lud16
    file.write_text(to_toml(tables if gateway is None else tables | {"gateway": gateway}))
    told = [text.split(":")[0] for text in warnings(load_config(file))]
    assert told == (["wallet.type", place] if place else ["wallet.type"])


async def test_a_port_that_is_taken_and_one_that_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        where = f"127.0.0.1:{other.getsockname()[1]}"
        (taken,) = [each async for each in address.listening(where)]
        assert (taken.state, "in use" in taken.seen, "gateway.listen" in taken.advice) == ("failed", True, True)
    (free,) = [each async for each in address.listening(where)]
    assert free.state == "ok"
