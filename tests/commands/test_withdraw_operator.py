"""`dvm withdraw --to`: the operator's revenue, beside a daemon and without one, and never customers' money."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dvm.building import offered
from dvm.commands import withdraw_operator
from dvm.config import load_config, load_relays
from dvm.daemon import Daemon
from dvm.jobs.balances import payouts
from dvm.jobs.balances.payout_steps import QUIET_SECONDS
from dvm.ledger import PayoutState
from dvm.ledger.audit import audit
from dvm.ledger.sqlite import read
from dvm.secrets import load_secrets
from tests.commands.running import Runner
from tests.commands.till import Till, till
from tests.standins.loopback import Loopback
from tests.standins.waiting import until


@pytest.fixture
async def shop(here: Path, dvm: Runner, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Till]:
    monkeypatch.setattr(payouts, "PICK_UP_SECONDS", 0.05)
    async with till(here, dvm, monkeypatch) as each:
        yield each


@asynccontextmanager
async def daemon(here: Path) -> AsyncIterator[Daemon]:
    config = load_config(here / "dvm.toml", offered())
    secrets = load_secrets(config, os.environ)
    async with Daemon(config, load_relays(here / "relays.toml"), secrets, here / "data") as running:
        yield running


@asynccontextmanager
async def beside(here: Path, *, running: bool) -> AsyncIterator[None]:
    if not running:
        yield
        return
    async with daemon(here):
        yield


@pytest.mark.parametrize("running", [False, True], ids=["alone", "beside a daemon"])
async def test_revenue_is_paid_out(here: Path, shop: Till, running: bool) -> None:
    invoice = shop.payee(60_000)
    async with beside(here, running=running):
        ran = await shop.run("withdraw", "--to", invoice.bolt11, "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["state"], ran.json["msat"]) == ("paid", 60_000)
    assert shop.node.balance("payee") == 60_000
    accounts = await shop.accounts()
    assert (accounts["revenue"], accounts["customers"], accounts["leaving"]) == (40_000, 100_000, 0)
    assert read(shop.data, audit) == []


@pytest.mark.parametrize("running", [False, True], ids=["alone", "beside a daemon"])
async def test_no_more_than_the_revenue(here: Path, shop: Till, running: bool) -> None:
    async with beside(here, running=running):
        ran = await shop.run("withdraw", "--to", shop.payee(100_000).bolt11)
    assert ran.code == 1
    assert "the revenue is 100 sat" in ran.err
    assert shop.node.balance("payee") == 0


@pytest.mark.parametrize("running", [False, True], ids=["alone", "beside a daemon"])
async def test_never_what_customers_are_owed(here: Path, shop: Till, running: bool) -> None:
    shop.node.pay(shop.payee(80_000).bolt11, payer="shop")  # by hand, past the books
    async with beside(here, running=running):
        ran = await shop.run("withdraw", "--to", shop.payee(60_000).bolt11)
    assert ran.code == 1
    assert "owed" in ran.err
    assert shop.node.balance("payee") == 80_000
    assert (await shop.accounts())["revenue"] == 100_000


@asynccontextmanager
async def address(shop: Till) -> AsyncIterator[str]:
    """A Lightning address of the wallet `payee`."""

    async def offer(request: Request) -> Response:
        callback = str(request.url.replace(path="/callback"))
        metadata = '[["text/plain","me"]]'
        limits = {"minSendable": 1000, "maxSendable": 10**9}
        return JSONResponse({"tag": "payRequest", "callback": callback, "metadata": metadata, **limits})

    async def pay(request: Request) -> Response:
        return JSONResponse({"pr": shop.payee(int(request.query_params["amount"])).bolt11, "routes": []})

    routes = [Route("/.well-known/lnurlp/me", offer), Route("/callback", pay)]
    http = Loopback(Starlette(routes=routes))
    await http.start()
    try:
        yield f"me@{http.url.removeprefix('http://')}"
    finally:
        await http.stop()


async def test_to_a_lightning_address(here: Path, shop: Till) -> None:
    text = (here / "dvm.toml").read_text()
    (here / "dvm.toml").write_text(f"{text}\n[limits]\nallow_private_addresses = true\n")
    async with address(shop) as to:
        ran = await shop.run("withdraw", "--to", to, "--sats", 20, "--json")
    assert ran.code == 0, ran.err
    assert shop.node.balance("payee") == 20_000


async def test_an_address_needs_an_amount(shop: Till) -> None:
    ran = await shop.run("withdraw", "--to", "me@example.com")
    assert ran.code == 2
    assert "--sats" in ran.err


async def test_an_amount_that_is_not_the_invoices(shop: Till) -> None:
    ran = await shop.run("withdraw", "--to", shop.payee(60_000).bolt11, "--sats", 59)
    assert ran.code == 1
    assert "invalid-invoice" in ran.err


async def test_an_invoice_is_paid_once(shop: Till) -> None:
    invoice = shop.payee(10_000)
    assert (await shop.run("withdraw", "--to", f"lightning:{invoice.bolt11.upper()}")).code == 0
    ran = await shop.run("withdraw", "--to", invoice.bolt11)
    assert ran.code == 1
    assert "make a new one" in ran.err
    assert shop.node.balance("payee") == 10_000


@pytest.mark.parametrize(
    ("text", "code", "why"),
    [("nonsense", 2, "name@domain"), ("", 2, "name@domain"), ("lnbcrt1qqqq", 1, "invalid-invoice")],
)
async def test_what_is_no_destination(shop: Till, text: str, code: int, why: str) -> None:
    ran = await shop.run("withdraw", "--to", text)
    assert (ran.code, why in ran.err) == (code, True)


async def test_what_the_wallet_does_not_say_stays_reserved_and_the_daemon_finds_out(
    here: Path, shop: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdraw_operator, "WAIT_SECONDS", 0.5)
    invoice = shop.node.make("payee", 10_000, description="held", expiry=600, payment_hash="77" * 32)
    ran = await shop.run("withdraw", "--to", invoice.bolt11)
    assert ran.code == 1
    assert "stay reserved" in ran.err
    store = await shop.store()
    (row,) = await store.payouts((PayoutState.RESERVED,))
    await store.close()
    assert row.customer is None
    async with daemon(here) as running:
        assert [each.id for each in running.engine.payouts.unresolved()] == [row.id]
        shop.node.cancel("payee", invoice.payment_hash)
        monkeypatch.setattr(running.engine._shop, "clock", lambda: time.time() + QUIET_SECONDS)
        await until(lambda: not running.engine.payouts.unresolved())
    assert (await shop.accounts())["revenue"] == 100_000


async def test_without_a_database(here: Path, shop: Till) -> None:
    ran = await shop.run("withdraw", "--to", shop.payee(1000).bolt11, "--data", here / "nowhere")
    assert ran.code == 1
    assert "nothing has been earned" in ran.err
    assert not (here / "nowhere").exists()
