"""`dvm reconcile --decide` ends what the wallet never will, and nothing of which the wallet has an answer."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dvm.building import offered
from dvm.config import load_config, load_relays
from dvm.daemon import Daemon
from dvm.jobs.balances.payout_steps import FORGOTTEN_SECONDS, QUIET_SECONDS
from dvm.ledger import Payout, PayoutState
from dvm.ledger.audit import audit
from dvm.ledger.sqlite import read
from dvm.lightning.paper_node import PaperInvoice
from dvm.nip90 import AccountAnswer, parse_account_answer, parse_receipt
from dvm.nostr.event import Event
from dvm.secrets import load_secrets
from tests.commands.running import Runner
from tests.commands.till import Till, till
from tests.standins.waiting import until

PAYOUT = "ab" * 32
OVER = QUIET_SECONDS + 60  # so long ago its invoice has expired


@pytest.fixture
async def shop(here: Path, dvm: Runner, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Till]:
    async with till(here, dvm, monkeypatch) as each:
        yield each


async def reserved(shop: Till, *, expired: int = OVER, customer: bool = True) -> PaperInvoice:
    """A payout of 50 sat, and 1 for routing, whose invoice has expired so many seconds ago."""
    invoice, now = shop.payee(50_000), int(time.time())
    payout = Payout(
        PAYOUT,
        shop.customer.pubkey if customer else None,
        invoice.bolt11,
        invoice.payment_hash,
        invoice.msat,
        1_000,
        PayoutState.RESERVED,
        now - expired - 600,
        now - expired,
    )
    store = await shop.store()
    assert await store.reserve(payout, day_limit=0)
    await store.close()
    return invoice


async def said(shop: Till) -> list[Event]:
    """What waits for the relays."""
    store = await shop.store()
    try:
        return [Event.from_json(each.payload) for each in await store.outbox(10)]
    finally:
        await store.close()


def answer(events: list[Event], shop: Till) -> AccountAnswer:
    (event,) = [each for each in events if each.kind == 7092]
    return parse_account_answer(event, shop.customer)


@pytest.mark.parametrize("by", ["id", "hash"])
async def test_what_was_not_paid_returns(shop: Till, by: str) -> None:
    invoice = await reserved(shop)
    which = PAYOUT if by == "id" else invoice.payment_hash
    ran = await shop.run("reconcile", "--decide", f"{which}=failed", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["state"] == "failed"
    accounts = await shop.accounts()
    assert (accounts["customers"], accounts["leaving"]) == (100_000, 0)
    told = answer(await said(shop), shop)
    assert (told.status, told.code, told.request) == ("error", "failed", PAYOUT)
    assert told.provider == shop.keys.pubkey
    assert read(shop.data, audit) == []


async def test_what_was_paid_is_charged_and_receipted(shop: Till) -> None:
    await reserved(shop)
    ran = await shop.run("reconcile", "--decide", f"{PAYOUT}=paid", "--fee-msat", 300)
    assert ran.code == 0, ran.err
    assert "50 sat" in ran.out
    accounts = await shop.accounts()
    assert (accounts["customers"], accounts["leaving"]) == (49_700, 0)
    events = await said(shop)
    told = answer(events, shop)
    assert told.withdrawal is not None
    assert (told.status, told.withdrawal.state, told.withdrawal.fee_msat) == ("success", "paid", 300)
    receipt = parse_receipt(next(each for each in events if each.kind == 7090), shop.customer)
    assert [payment.msat for payment in receipt.payments] == [-50_300]
    assert receipt.after == 49_700
    assert read(shop.data, audit) == []


async def test_the_operators_own(shop: Till) -> None:
    await reserved(shop, customer=False)
    assert (await shop.run("reconcile", "--decide", f"{PAYOUT}=paid")).code == 0
    accounts = await shop.accounts()
    assert (accounts["revenue"], accounts["customers"], accounts["leaving"]) == (50_000, 100_000, 0)
    assert await said(shop) == []


@pytest.mark.parametrize("outcome", ["paid", "failed"])
async def test_what_the_wallet_knows_is_not_decided(shop: Till, outcome: str) -> None:
    invoice = await reserved(shop)
    shop.node.pay(invoice.bolt11, payer="shop")
    ran = await shop.run("reconcile", "--decide", f"{PAYOUT}={outcome}")
    assert ran.code == 1
    assert "settled" in ran.err
    assert (await shop.accounts())["leaving"] == 51_000


async def test_nothing_returns_that_can_still_be_paid(shop: Till) -> None:
    await reserved(shop, expired=QUIET_SECONDS - 60)
    ran = await shop.run("reconcile", "--decide", f"{PAYOUT}=failed")
    assert ran.code == 1
    assert "can still be paid" in ran.err
    assert (await shop.accounts())["leaving"] == 51_000


async def test_while_the_wallet_does_not_answer(shop: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    from dvm.lightning.base import WalletError
    from dvm.lightning.nwc import NwcWallet

    async def away(_: object) -> None:
        raise WalletError("unreachable", "nobody there")

    await reserved(shop)
    monkeypatch.setattr(NwcWallet, "info", away)
    ran = await shop.run("reconcile", "--decide", f"{PAYOUT}=failed")
    assert ran.code == 1
    assert "does not answer" in ran.err
    assert (await shop.accounts())["leaving"] == 51_000


async def test_beside_a_daemon_which_tells_the_customer(here: Path, shop: Till) -> None:
    await reserved(shop)
    config = load_config(here / "dvm.toml", offered())
    secrets = load_secrets(config, os.environ)
    async with Daemon(config, load_relays(here / "relays.toml"), secrets, here / "data") as daemon:
        ran = await shop.run("reconcile", "--decide", f"{PAYOUT}=paid", "--json")
        assert ran.code == 0, ran.err

        async def told() -> bool:
            return not await daemon.store.outbox(10)

        await until(told)
        again = await shop.run("reconcile", "--decide", f"{PAYOUT}=failed")
        assert again.code == 1
        assert "ended already" in again.err
    accounts = await shop.accounts()
    assert (accounts["customers"], accounts["leaving"]) == (50_000, 0)
    assert read(shop.data, audit) == []


@pytest.mark.parametrize("text", ["", "paid", f"{PAYOUT}=perhaps", "abc=paid", f"{PAYOUT.upper()}=paid"])
async def test_what_cannot_be_read_is_wrong_usage(shop: Till, text: str) -> None:
    assert (await shop.run("reconcile", "--decide", text)).code == 2


async def test_one_that_is_not_there(shop: Till) -> None:
    ran = await shop.run("reconcile", "--decide", f"{PAYOUT}=paid")
    assert ran.code == 1
    assert "no payout" in ran.err


async def test_what_waits_for_a_decision_is_a_difference_that_says_so(shop: Till) -> None:
    await reserved(shop, expired=FORGOTTEN_SECONDS + 60)
    ran = await shop.run("reconcile")
    assert ran.code == 1
    assert f"--decide {PAYOUT}=paid" in ran.out
