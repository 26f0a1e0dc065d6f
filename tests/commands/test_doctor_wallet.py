"""Each usual mistake with a wallet, behind a real NIP-47 connection, as `dvm doctor` shows it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import pytest

from dvm.doctor import wallet
from dvm.lightning.base import WalletError, WalletErrorCode
from dvm.lightning.paper_journal import Journal
from dvm.lightning.paper_node import JOURNAL, PaperNode
from dvm.lightning.paper_service import PaperService, Served
from dvm.nostr.keys import Keys
from tests.commands.examined import Examined, doctor
from tests.commands.running import Runner
from tests.commands.shops import write_shop
from tests.standins.relay import free_port, local_relay

NWC = {"type": "nwc", "timeout_seconds": 5}
RECEIVING = ("get_info", "make_invoice", "lookup_invoice", "list_transactions")


@asynccontextmanager
async def served(methods: Iterable[str] | None = None) -> AsyncIterator[tuple[str, Served]]:
    """A relay, and a wallet service on it."""
    async with local_relay() as url:
        service = PaperService(PaperNode(), [url])
        shop = service.connect("shop") if methods is None else service.connect("shop", methods=methods)
        await service.start()
        try:
            yield url, shop
        finally:
            await service.close()


class Shop:
    """A shop whose wallet is that connection."""

    def __init__(self, here: Path, dvm: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        self._here, self._dvm, self._monkeypatch = here, dvm, monkeypatch

    async def examine(self, url: str, uri: str, **table: Any) -> Examined:
        write_shop(self._here, [url], wallet={**NWC, **table})
        self._monkeypatch.setenv("DVM_NWC_URI", uri)
        found = await doctor(self._dvm)
        assert uri not in found.ran.out
        return found


@pytest.fixture
def shop(here: Path, dvm: Runner, monkeypatch: pytest.MonkeyPatch) -> Shop:
    return Shop(here, dvm, monkeypatch)


async def test_a_wallet_that_does_all_it_must(shop: Shop) -> None:
    async with served() as (url, connection):
        found = await shop.examine(url, connection.connection.uri())
        assert connection.counters.by_method["make_invoice"] == 1
        assert "pay_invoice" not in connection.counters.by_method
    assert (found.code, found.failed) == (0, [])
    assert found.one("wallet invoice")["state"] == "ok"
    known = found.one("wallet")
    assert (known["state"], "wrong network? " in known["seen"], "regtest" in known["seen"]) == ("warning", True, True)
    assert "mainnet" in known["advice"]
    assert "can pay" in known["seen"]


async def test_a_connection_that_can_only_receive_is_enough(shop: Shop) -> None:
    async with served(RECEIVING) as (url, connection):
        found = await shop.examine(url, connection.connection.uri())
    assert (found.code, found.one("wallet invoice")["state"]) == (0, "ok")
    assert "can pay" not in found.one("wallet")["seen"]
    assert "may pay" in found.one("wallet payouts")["advice"]


async def test_jobs_on_hold_invoices_need_a_wallet_that_can_hold(shop: Shop) -> None:
    async with served(RECEIVING) as (url, connection):
        found = await shop.examine(url, connection.connection.uri(), hold=True)
    assert (found.code, found.failed) == (1, ["wallet hold"])
    assert "wallet.hold" in found.one("wallet hold")["advice"]


async def test_a_connection_that_is_read_only(shop: Shop) -> None:
    async with served(("get_info", "lookup_invoice", "list_transactions")) as (url, connection):
        found = await shop.examine(url, connection.connection.uri())
    assert (found.code, found.failed) == (1, ["wallet invoice"])
    failed = found.one("wallet invoice")
    assert "restricted" in failed["seen"]
    assert "read-only" in failed["advice"]
    assert "DVM_NWC_URI" in failed["advice"]


async def test_a_connection_that_does_not_say_who_it_is(shop: Shop) -> None:
    async with served() as (url, connection):
        connection.faults.errors["get_info"] = "INTERNAL"
        found = await shop.examine(url, connection.connection.uri())
    assert found.one("wallet")["state"] == "warning"
    assert "network" in found.one("wallet")["advice"]
    # Without a word about the network it is taken for mainnet, and regtest's invoice for a wrong one.
    assert "wrong network" in found.one("wallet invoice")["advice"]


async def test_a_connection_that_was_removed(shop: Shop) -> None:
    async with served() as (url, connection):
        connection.faults.errors["*"] = "UNAUTHORIZED"
        found = await shop.examine(url, connection.connection.uri())
    assert (found.code, found.failed) == (1, ["wallet"])
    assert "Make a new connection" in found.one("wallet")["advice"]


async def test_a_wallet_that_is_not_online(shop: Shop) -> None:
    async with local_relay() as url:
        uri = f"nostr+walletconnect://{Keys.generate().pubkey}?relay={url}&secret={'5' * 64}"
        found = await shop.examine(url, uri, timeout_seconds=0.4)
    assert found.failed == ["wallet"]
    assert "running and online" in found.one("wallet")["advice"]


async def test_a_wallet_whose_relay_is_gone(shop: Shop) -> None:
    uri = f"nostr+walletconnect://{Keys.generate().pubkey}?relay=ws://127.0.0.1:{free_port()}&secret={'5' * 64}"
    async with local_relay() as url:
        found = await shop.examine(url, uri, timeout_seconds=0.4)
    assert found.failed == ["wallet"]
    assert "its relay" in found.one("wallet")["advice"]


async def test_a_wallet_of_another_network_than_it_says(shop: Shop) -> None:
    def claims_mainnet(method: str, body: dict[str, Any]) -> object:
        if method == "get_info":
            body["result"]["network"] = "mainnet"
        return body

    async with served() as (url, connection):
        connection.faults.tamper = claims_mainnet
        found = await shop.examine(url, connection.connection.uri())
    assert found.failed == ["wallet invoice"]
    assert "wrong network" in found.one("wallet invoice")["advice"]


async def test_a_wallet_that_asks_for_more_than_it_was_asked_for(shop: Shop) -> None:
    node = PaperNode()
    node.open_wallet("thief")

    def another_invoice(method: str, body: dict[str, Any]) -> object:
        if method == "make_invoice":
            body["result"]["invoice"] = node.make("thief", 21_000, description="x", expiry=600).bolt11
        return body

    async with served() as (url, connection):
        connection.faults.tamper = another_invoice
        found = await shop.examine(url, connection.connection.uri())
    assert found.failed == ["wallet invoice"]
    assert "untrustworthy" in found.one("wallet invoice")["seen"]


async def test_invoices_that_cannot_be_looked_up(shop: Shop) -> None:
    async with served() as (url, connection):
        connection.faults.errors |= {"lookup_invoice": "RESTRICTED", "list_transactions": "RESTRICTED"}
        found = await shop.examine(url, connection.connection.uri(), timeout_seconds=1)
    assert found.failed == ["wallet invoice"]
    assert "no payment is ever noticed" in found.one("wallet invoice")["advice"]


async def test_no_inbound_liquidity(shop: Shop) -> None:
    def no_channel(method: str, body: dict[str, Any]) -> object:
        if method == "make_invoice":
            return {"result_type": method, "error": {"code": "INTERNAL", "message": "no inbound liquidity"}}
        return body

    async with served() as (url, connection):
        connection.faults.tamper = no_channel
        found = await shop.examine(url, connection.connection.uri())
    assert found.failed == ["wallet invoice"]
    assert "buy inbound liquidity" in found.one("wallet invoice")["advice"]


@pytest.mark.parametrize("code", get_args(WalletErrorCode))
def test_there_is_advice_for_every_error(code: WalletErrorCode) -> None:
    advice = wallet.advise("nwc", WalletError(code, "x"))
    assert advice.endswith(".")
    assert "{" not in advice


async def test_a_paper_wallet_that_another_process_has(here: Path, dvm: Runner) -> None:
    async with local_relay() as url:
        write_shop(here, [url])
        journal = Journal(here / "data" / JOURNAL)
        list(journal.open())
        try:
            found = await doctor(dvm)
        finally:
            journal.close()
    assert found.failed == ["wallet"]
    assert "another process" in found.one("wallet")["seen"]
    assert "End the process" in found.one("wallet")["advice"]


async def test_a_paper_wallet_makes_no_directory(here: Path, dvm: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    async with local_relay() as url:
        keys = write_shop(here, [url], key=False)
        monkeypatch.setenv("DVM_NSEC", keys.nsec())
        found = await doctor(dvm)
    assert found.failed == ["wallet"]
    assert "dvm init" in found.one("wallet")["advice"]
    assert not (here / "data").exists()
