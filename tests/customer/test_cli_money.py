"""`dvm topup`, `dvm withdraw --at` and `dvm balance --at --ask`, with a real shop and a scripted one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dvm.jobs import Settings
from dvm.lightning.paper_node import PaperNode
from dvm.lightning.paper_service import PaperService
from dvm.nip90 import AccountRequest, StatedBalance, StatedEntry
from dvm.nostr import Keys
from dvm.pricing import PerToken
from tests.commands.running import Runner
from tests.customer.test_cli import Town, customer_keys, customers_directory, run, secrets_of, town
from tests.standins.desk import Desk, desk, zap_server
from tests.standins.relay import TestRelay

__all__ = ["customers_directory", "run"]

DEAR = PerToken(1_000_000, 1_000_000, 100_000_000)
"""So that a quote, which is for the longest answer, leaves some 100 sat of change."""
PATIENT = Settings(publish_seconds=3, shutdown_seconds=5, payout_min_msat=1_000, fee_msat=1_000)


async def with_change(here: Town) -> int:
    """Buy something; the change, in msat."""
    ran = await here.dvm("ask", "hello", "--provider", here.shop.keys.npub, "--max-sats", "200", "--json")
    assert ran.code == 0, ran.err
    left: int = json.loads(ran.out.splitlines()[-1])["receipt"]["after_msat"]
    assert left > 50_000
    return left


async def test_the_change_is_withdrawn_and_both_sides_agree(
    relay: TestRelay, run: Runner, monkeypatch: pytest.MonkeyPatch, customers_directory: Path
) -> None:
    async with town(relay, run, monkeypatch, price=DEAR, settings=PATIENT) as here:
        left, provider = await with_change(here), here.shop.keys.npub
        here.shop.node.open_wallet("mine")
        invoice = here.shop.node.make("mine", 40_000, description="mine", expiry=600)
        ran = await here.dvm("withdraw", "--at", provider, "--to", invoice.bolt11, "--json")
        assert ran.code == 0, ran.err
        told = ran.json
        assert (told["msat"], told["payment_hash"], told["problems"]) == (40_000, invoice.payment_hash, [])
        assert told["receipt"]["after_msat"] == left - 40_000 - told["fee_msat"]
        assert here.shop.node.balance("mine") == 40_000

        asked = await here.dvm("balance", "--at", provider, "--ask", "--json")
        assert asked.code == 0, asked.err
        assert (asked.json["receipts"], asked.json["verified"], asked.json["complete"]) == (2, True, True)
        assert asked.json["stated"] == {
            "available_msat": asked.json["balance_msat"],
            "held_msat": 0,
            "leaving_msat": 0,
            "newest": 2,
            "problems": [],
        }
        words = await here.dvm("balance", "--at", provider, "--ask")
        assert words.code == 0
        assert "the provider says: " in words.out
        assert "after receipt 2; 2 receipts verified" in words.out
        for each in (ran, asked, words):
            for secret in secrets_of(here.uri, customer_keys(customers_directory), here.shop.keys):
                assert secret not in each.out + each.err


async def test_a_withdrawal_says_what_was_paid_and_what_is_left(
    relay: TestRelay, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town(relay, run, monkeypatch, price=DEAR, settings=PATIENT) as here:
        await with_change(here)
        here.shop.node.open_wallet("mine")
        invoice = here.shop.node.make("mine", 40_000, description="mine", expiry=600)
        ran = await here.dvm("withdraw", "--at", here.shop.keys.npub, "--to", f"lightning:{invoice.bolt11}")
        assert ran.code == 0, ran.err
        assert "paid 40 sat" in ran.out
        assert "receipt 2 verified: your balance there is " in ran.out


async def test_a_refused_withdrawal_says_why_and_wrong_usage_is_told_apart(
    relay: TestRelay, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town(relay, run, monkeypatch, price=DEAR, settings=PATIENT) as here:
        left, provider = await with_change(here), here.shop.keys.npub
        here.shop.node.open_wallet("mine")
        invoice = here.shop.node.make("mine", (left // 1000 + 1) * 1000, description="mine", expiry=600)
        ran = await here.dvm("withdraw", "--at", provider, "--to", invoice.bolt11)
        assert (ran.code, ran.out) == (1, "")
        assert "insufficient: " in ran.err
        assert here.shop.node.balance("mine") == 0
        no_address = await here.dvm("withdraw", "--at", provider, "--sats", "5")
        assert no_address.code == 1
        assert "no-address: " in no_address.err
        for wrong in (["--to", "nonsense"], [], ["--to", "a@b.example"], ["--sats", "0"]):
            assert (await here.dvm("withdraw", "--at", provider, *wrong)).code == 2
        assert (await here.dvm("withdraw")).code == 2
        assert (await here.dvm("balance", "--ask")).code == 2


async def test_a_provider_that_contradicts_its_receipts_is_found_out(
    relay: TestRelay, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys.generate()
    monkeypatch.setenv("DVM_CUSTOMER_NSEC", keys.nsec())

    async def act(d: Desk, request: AccountRequest) -> None:
        newest = d.said[0]
        entries = [StatedEntry(1, newest.id, 1, 30_000, 0, 30_000, None)]
        await d.answer(request, balance=StatedBalance(20_000, 0, 0), entries=entries)

    async with desk(relay.url, act) as there, town(relay, run, monkeypatch) as here:
        await there.receipt(keys.pubkey, 30_000, "ab" * 32)
        ran = await here.dvm("balance", "--at", there.keys.npub, "--ask")
        assert ran.code == 1
        assert "the provider says: 20 sat available" in ran.out
        assert "wrong: its balances add up to 20000 msat, and its newest receipt leaves 30000 msat" in ran.err
        told = await here.dvm("balance", "--at", there.keys.npub, "--ask", "--json")
        assert (told.code, len(told.json["stated"]["problems"]), told.json["verified"]) == (1, 1, True)


async def test_a_top_up_is_zapped_and_receipted(
    relay: TestRelay, run: Runner, monkeypatch: pytest.MonkeyPatch, customers_directory: Path
) -> None:
    keys, node = Keys.generate(), PaperNode()
    node.open_wallet("customer", 10**9)
    service = PaperService(node, [relay.url])
    monkeypatch.setenv("DVM_CUSTOMER_NWC", service.connect("customer").connection.uri())
    await service.start()
    async with desk(relay.url, keys=keys, node=node) as there, zap_server(there.pool, keys, node) as zaps:

        def hear(settled: object) -> None:
            for zap, invoice in zaps.zaps:
                if invoice is settled:
                    there.do(there.receipt(zap.payer, invoice.msat, invoice.payment_hash, source="zap"))

        node.on_settled.append(hear)
        here = Town(None, "", run)  # type: ignore[arg-type]
        ran = await here.dvm("topup", keys.npub, "21", "--comment", "hi", "--allow-private", "--json")
        assert ran.code == 0, ran.err
        assert (ran.json["msat"], ran.json["problems"], ran.json["receipt"]["after_msat"]) == (21_000, [], 21_000)
        assert zaps.zaps[0][0].comment == "hi"
        again = await here.dvm("topup", keys.npub, "9", "--allow-private")
        assert (again.code, again.out) == (0, "paid 9 sat; receipt 2 verified: your balance is 30 sat\n")
        # Without leave, nothing on this machine is asked.
        refused = await here.dvm("topup", keys.npub, "9")
        assert refused.code == 1
        assert "unpayable: " in refused.err
    await service.close()
