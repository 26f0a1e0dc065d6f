"""What `dvm doctor` says of wallets that are servers: what each can do, whether that is enough, usual mistakes."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import pytest

from dvm.contradictions import WalletType
from dvm.doctor.wallet_advice import advise
from dvm.ledger import SqliteStore
from dvm.lightning.base import WalletError, WalletErrorCode
from dvm.secrets import WALLET_SECRETS
from tests.commands.examined import Examined, doctor
from tests.commands.running import Runner
from tests.commands.shops import write_shop
from tests.ledger.books import NOW, receipt_for, withdrawal, zap
from tests.standins import cln, lnbits_api
from tests.standins.lnbits_api import ADMIN, INVOICE, LnbitsNode
from tests.standins.loopback import Loopback
from tests.standins.relay import local_relay
from tests.toml_text import to_toml


class Shop:
    """A shop whose wallet is the server at `url`."""

    def __init__(self, here: Path, dvm: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.here, self._dvm, self._monkeypatch = here, dvm, monkeypatch

    async def examine(
        self, kind: str, url: str, secret: str, wallet: dict[str, Any], lud16: str = "", **tables: Any
    ) -> Examined:
        (self.here / "data/nsec").unlink(missing_ok=True)
        async with local_relay() as relay:
            write_shop(self.here, [relay], wallet={"type": kind, "url": url, "timeout_seconds": 3, **wallet})
            config = self.here / "dvm.toml"
            written = tomllib.loads(config.read_text()) | tables
            written["identity"]["lud16"] = lud16
            config.write_text(to_toml(written))
            self._monkeypatch.setenv(WALLET_SECRETS[kind], secret)
            found = await doctor(self._dvm)
        assert secret not in found.ran.out
        return found


@pytest.fixture
def shop(here: Path, dvm: Runner, monkeypatch: pytest.MonkeyPatch) -> Shop:
    return Shop(here, dvm, monkeypatch)


@asynccontextmanager
async def served(server: Loopback) -> AsyncIterator[str]:
    await server.start()
    try:
        yield server.url
    finally:
        await server.stop()


REGTEST = {"network": "regtest"}


async def test_an_lnbits_wallet_that_does_all_it_must(shop: Shop) -> None:
    node = LnbitsNode()
    gateway = {"listen": "127.0.0.1:0", "url": "https://dvm.example.com"}
    async with served(lnbits_api.loopback(node)) as url:
        found = await shop.examine("lnbits", url, ADMIN, REGTEST)
        assert (found.code, found.failed) == (0, [])
        seen = found.one("wallet")["seen"]
        for ability in (
            "SHOP",
            "regtest",
            "balance 1,000 sat",
            "tells of payments at once",
            "can pay",
            "can be zapped",
        ):
            assert ability in seen
        assert "hold" not in seen
        assert not found.all("wallet zaps")
        found = await shop.examine("lnbits", url, ADMIN, REGTEST, gateway=gateway, lud16="zaps@dvm.example.com")
        assert found.one("wallet zaps")["state"] == "ok"
    assert all(each["amount"] == 1_000 for each in node.payments)
    assert not any(asked["out"] for asked in node.posted)


async def test_an_invoice_key_is_told_where_customers_may_withdraw(shop: Shop) -> None:
    node = LnbitsNode()
    async with served(lnbits_api.loopback(node)) as url:
        found = await shop.examine("lnbits", url, INVOICE, REGTEST)
        assert found.code == 0
        told = found.one("wallet payouts")
        assert (told["state"], "admin key" in told["advice"]) == ("warning", True)
        assert "can pay" not in found.one("wallet")["seen"]
        found = await shop.examine("lnbits", url, INVOICE, REGTEST, payouts={"enabled": False})
        assert not found.all("wallet payouts")


async def test_a_proxy_that_keeps_the_websocket_back(shop: Shop) -> None:
    async with served(lnbits_api.loopback(LnbitsNode(push="none"))) as url:
        found = await shop.examine("lnbits", url, ADMIN, REGTEST)
    assert "/api/v1/ws" in found.one("wallet push")["advice"]
    assert "asked about payments" in found.one("wallet")["seen"]


async def test_a_network_that_was_not_meant(shop: Shop) -> None:
    async with served(lnbits_api.loopback(LnbitsNode())) as url:
        found = await shop.examine("lnbits", url, ADMIN, {"network": "mainnet"})
    assert "wrong network" in found.one("wallet invoice")["advice"]
    async with served(cln.loopback(cln.ClnNode())) as url:
        found = await shop.examine("cln", url, cln.FULL, {"network": "signet"})
    assert found.one("wallet")["state"] == "failed"
    assert "signet is expected" in found.one("wallet")["seen"]


async def test_a_wallet_that_holds_less_than_customers_are_owed(shop: Shop) -> None:
    node = LnbitsNode(balance_msat=20_000)
    async with served(lnbits_api.loopback(node)) as url:
        found = await shop.examine("lnbits", url, ADMIN, REGTEST)
        assert not found.all("wallet balance"), "no ledger, nothing to compare"
        store = await SqliteStore.open(shop.here / "data")
        try:
            await store.expect(top_up := zap("a top-up", 21_000))
            await store.deposit(top_up.payment_hash, 21_000, NOW, receipt_for("alice"))
        finally:
            await store.close()
        found = await shop.examine("lnbits", url, ADMIN, REGTEST)
        short = found.one("wallet balance")
        assert (short["state"], short["seen"]) == ("warning", "it holds 20 sat, and customers are owed 21 sat")
        node.balance_msat = 21_000
        found = await shop.examine("lnbits", url, ADMIN, REGTEST)
        assert found.one("wallet balance")["state"] == "ok"


async def test_what_is_leaving_may_be_gone_from_the_wallet_already(shop: Shop) -> None:
    """As the watchdog sees it, which goes on selling."""
    store = await SqliteStore.open(shop.here / "data")
    try:
        await store.expect(top_up := zap("a top-up", 21_000))
        await store.deposit(top_up.payment_hash, 21_000, NOW, receipt_for("alice"))
        assert await store.reserve(withdrawal(1, 10_000, 1_000), day_limit=0)
    finally:
        await store.close()
    async with served(lnbits_api.loopback(LnbitsNode(balance_msat=11_000))) as url:
        found = await shop.examine("lnbits", url, ADMIN, REGTEST)
    told = found.one("wallet balance")
    assert (told["state"], told["seen"]) == ("ok", "it holds 11 sat, and customers are owed 10 sat")


@pytest.mark.parametrize(("receivable", "state"), [(0, "failed"), (5_000_000, "warning"), (50_000_000, "ok")])
async def test_how_much_a_node_can_still_receive(shop: Shop, receivable: int, state: str) -> None:
    async with served(cln.loopback(cln.ClnNode(receivable=receivable))) as url:
        found = await shop.examine("cln", url, cln.FULL, REGTEST)
    assert f"can receive {receivable // 1000:,} sat" in found.one("wallet")["seen"]
    told = found.all("wallet liquidity")
    assert [each["state"] for each in told] == ([] if state == "ok" else [state])
    assert all("inbound liquidity" in each["advice"] for each in told)


@pytest.mark.parametrize(
    ("kind", "secret", "fault", "advice"),
    [
        ("lnbits", "0" * 32, None, "Set DVM_LNBITS_KEY to a key of the wallet"),
        ("lnbits", ADMIN, "html", "Correct wallet.url: it must be the address of LNbits itself"),
        ("lnbits", ADMIN, "500", "Look into the wallet itself"),
        ("lnbits", ADMIN, "cut", "Make sure that it runs and that this machine reaches it"),
        ("cln", cln.READ_ONLY, None, "`lightning-cli createrune`"),
        ("cln", cln.FULL, "html", "Correct wallet.url: it must be the address of clnrest"),
        ("phoenixd", "5ec7e7" * 4, "html", "Correct wallet.url: it must be the address of phoenixd"),
        ("lnd", "0201036c6e64" + "00" * 20, "html", "Correct wallet.url: it must be the address of lnd's REST"),
        ("lnd", "nonsense", None, "How to go live with each wallet"),
        ("phoenixd", "5ec7e7" * 4, "down", "Make sure that it runs and that this machine reaches it"),
        ("cln", cln.FULL, "plain", "Correct wallet.url: it must be the address of clnrest, https://"),
        ("lnbits", "short", None, "How to go live with each wallet"),
    ],
)
async def test_a_usual_mistake_and_what_to_do(shop: Shop, kind: str, secret: str, fault: Any, advice: str) -> None:
    server = cln.loopback(cln.ClnNode()) if kind == "cln" else lnbits_api.loopback(LnbitsNode())
    if fault is not None:
        server.faults["*"] = fault
    async with served(server) as url:
        if fault == "down":
            await server.stop()
        elif fault == "plain":  # https:// in dvm.toml, and no TLS there
            url = url.replace("http://", "https://")
        found = await shop.examine(kind, url, secret, REGTEST)
    told = [
        each for each in found.ran.json["checks"] if each["name"].startswith("wallet") and each["state"] == "failed"
    ]
    assert any(advice in each["advice"] for each in told), found.ran.out


@pytest.mark.parametrize(
    ("holds", "told"), [(None, "No such file or directory"), ("no certificate", "is no certificate (PEM)")]
)
async def test_a_certificate_that_is_none(shop: Shop, holds: str | None, told: str) -> None:
    if holds is not None:
        (shop.here / "ca.pem").write_text(holds)
    found = await shop.examine("cln", "https://127.0.0.1:3010", cln.FULL, {"tls_cert_file": "ca.pem"})
    assert found.one("wallet")["seen"] == f"wallet.tls_cert_file: ca.pem: {told}"


@pytest.mark.parametrize("kind", get_args(WalletType))
@pytest.mark.parametrize("code", get_args(WalletErrorCode))
def test_there_is_advice_for_every_error_of_every_wallet(kind: str, code: WalletErrorCode) -> None:
    for text in (
        "x",
        "its certificate cannot be verified",
        "an answer that is no JSON",
        "lnd's wallet is locked",
        "307",
    ):
        advice = advise(kind, WalletError(code, text))
        assert advice.endswith(".")
        assert "{" not in advice
