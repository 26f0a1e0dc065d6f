"""`dvm reconcile` finds each thing that can differ between ledger, wallet and relays, and nothing else."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dvm.commands import reconcile_checks
from dvm.datadir import DataDir
from dvm.ledger import Payout, PayoutState, Publication
from dvm.lightning.paper_node import PaperInvoice
from tests.commands.running import Ran, Runner
from tests.commands.shops import write_shop
from tests.commands.till import Till, till


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile_checks, "SETTLE_SECONDS", 0.0)


@pytest.fixture
async def shop(here: Path, dvm: Runner, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Till]:
    async with till(here, dvm, monkeypatch) as each:
        yield each


def differing(ran: Ran) -> dict[str, list[str]]:
    """What differs, by check; the exit code and `ok` must say the same."""
    found = {check["name"]: check["differences"] for check in ran.json["checks"] if check["state"] == "differs"}
    assert ran.code == (1 if found else 0)
    assert ran.json["ok"] is not bool(found)
    return found


def states(ran: Ran) -> dict[str, str]:
    return {check["name"]: check["state"] for check in ran.json["checks"]}


async def reserved(shop: Till, invoice: PaperInvoice, **ended: Any) -> None:
    """A payout in the books, and how it ended there."""
    store, now = await shop.store(), int(time.time())
    payout = Payout(
        "ab" * 32,
        shop.customer.pubkey,
        invoice.bolt11,
        invoice.payment_hash,
        invoice.msat,
        1000,
        PayoutState.RESERVED,
        now,
        invoice.expires_at,
    )
    assert await store.reserve(payout, day_limit=0)
    if "fee" in ended:
        await store.paid_out(payout.id, ended["fee"], shop.receipt, (), now)
    if "reason" in ended:
        await store.not_paid_out(payout.id, ended["reason"], (), now)
    await shop.publish(store)
    await store.close()


async def test_nothing_differs(shop: Till) -> None:
    ran = await shop.run("reconcile", "--json")
    assert differing(ran) == {}
    assert states(ran) == dict.fromkeys(["books", "balance", "payments in", "payments out", "outbox", "receipts"], "ok")
    ran = await shop.run("reconcile")
    assert ran.out.endswith("nothing differs\n")
    assert "2 receipts looked for" in ran.out


async def test_a_wallet_that_has_less_than_is_owed(shop: Till) -> None:
    shop.node.pay(shop.payee(150_000).bolt11, payer="shop")
    (text,) = differing(await shop.run("reconcile", "--json"))["balance"]
    assert "50 sat less" in text


async def test_a_payment_that_nobody_was_credited_with(shop: Till) -> None:
    invoice = shop.invoiced(7_000)
    store = await shop.store()
    await shop.expect(store, invoice)
    await store.close()
    assert differing(await shop.run("reconcile", "--json")) == {}, "unpaid is in order"
    shop.node.pay(invoice.bolt11)
    (text,) = differing(await shop.run("reconcile", "--json"))["payments in"]
    assert invoice.payment_hash in text
    assert "7 sat" in text


@pytest.mark.parametrize("wallet", ["never got it", "got less"])
async def test_a_payment_that_was_credited_and_not_received(shop: Till, wallet: str) -> None:
    invoice = shop.invoiced(7_000)
    store = await shop.store()
    await shop.expect(store, invoice)
    if wallet == "got less":
        shop.node.pay(invoice.bolt11)
    await shop.credit(store, invoice.payment_hash, 9_000)
    await shop.publish(store)
    await store.close()
    found = differing(await shop.run("reconcile", "--json"))
    assert invoice.payment_hash in found["payments in"][0]


async def test_withdrawals_in_order(shop: Till) -> None:
    invoice = shop.payee(50_000)
    await reserved(shop, invoice)
    assert differing(await shop.run("reconcile", "--json")) == {}, "under way is in order"


@pytest.mark.parametrize(
    ("paid", "ended", "says"),
    [
        (True, {}, "still reserved"),
        (True, {"fee": 0}, ""),
        (False, {"fee": 0}, "never heard of it"),
        (True, {"reason": "failed: no route"}, "the wallet has paid it"),
        (False, {"reason": "failed: no route"}, ""),
    ],
)
async def test_withdrawals_that_the_wallet_knows_otherwise(
    shop: Till, paid: bool, ended: dict[str, Any], says: str
) -> None:
    invoice = shop.payee(50_000)
    if paid:
        shop.node.pay(invoice.bolt11, payer="shop")
    await reserved(shop, invoice, **ended)
    found = differing(await shop.run("reconcile", "--json")).get("payments out", [""])
    assert says in found[0]
    assert bool(says) == bool(found[0])


async def test_books_that_do_not_add_up(shop: Till) -> None:
    db = sqlite3.connect(shop.data / "dvm.db", isolation_level=None)
    db.execute("UPDATE accounts SET msat = msat + 5 WHERE name = 'revenue'")
    db.close()
    assert differing(await shop.run("reconcile", "--json"))["books"]


async def test_events_that_no_relay_has_taken(shop: Till) -> None:
    invoice, store = shop.payee(5_000), await shop.store()
    now = int(time.time())
    said = Publication("cd" * 32, "error", "{}")
    payout = Payout(
        "ab" * 32, shop.customer.pubkey, invoice.bolt11, invoice.payment_hash, 5_000, 0, PayoutState.RESERVED,
        now - 600, now + 600,
    )  # fmt: skip
    assert await store.reserve(payout, day_limit=0, publications=(said,))
    await store.close()
    (text,) = differing(await shop.run("reconcile", "--json"))["outbox"]
    assert "1 event" in text
    assert "10 minutes" in text


async def test_receipts_that_the_relays_have_lost(shop: Till) -> None:
    store = await shop.store()
    invoice = shop.invoiced(7_000)
    await shop.expect(store, invoice)
    shop.node.pay(invoice.bolt11)
    await shop.credit(store, invoice.payment_hash, 7_000)
    lost = [each.id for each in await store.outbox(10)]
    await store.published(lost, int(time.time()))  # a relay said OK, and has it no more
    await store.close()
    (text,) = differing(await shop.run("reconcile", "--json"))["receipts"]
    assert lost[0] in text


async def test_a_wallet_that_does_not_answer_is_told_and_is_no_difference(
    here: Path, shop: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvm.lightning.base import WalletError
    from dvm.lightning.nwc import NwcWallet

    async def away(_: object) -> None:
        raise WalletError("unreachable", "nobody there")

    monkeypatch.setattr(NwcWallet, "info", away)
    ran = await shop.run("reconcile", "--json")
    assert differing(ran) == {}
    assert [states(ran)[name] for name in ("balance", "payments in", "payments out")] == ["not tried"] * 3
    assert (await shop.run("reconcile")).out.endswith("nothing differs; 3 checks could not be made\n")


async def test_beside_a_daemon_that_has_the_paper_wallet(here: Path, shop: Till) -> None:
    write_shop(here, [shop.url], key=False)
    with DataDir(here / "data").only_one():
        ran = await shop.run("reconcile", "--json")
    assert states(ran)["balance"] == "not tried"
    assert states(ran)["books"] == "ok"


async def test_without_relays(here: Path, shop: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dvm.commands.reconcile.CONNECT_SECONDS", 0.2)
    (here / "relays.toml").write_text('[[relay]]\nurl = "ws://127.0.0.1:9"\n')
    ran = await shop.run("reconcile", "--json")
    assert states(ran)["receipts"] == "not tried"
    assert differing(ran) == {}


async def test_without_a_database(here: Path, shop: Till) -> None:
    ran = await shop.run("reconcile", "--data", here / "nowhere")
    assert (ran.code, ran.out) == (1, "")
    assert "no database" in ran.err
