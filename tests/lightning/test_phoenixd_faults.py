"""A phoenixd that lies, hangs, is cut off and started again: nothing lost, nothing paid twice."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from dvm.lightning import phoenixd_received
from dvm.lightning.base import WalletError
from dvm.lightning.bolt11 import decode
from dvm.lightning.phoenixd import PhoenixdWallet
from tests.lightning.contract import FAILED, PENDING, SETTLED, UNKNOWN
from tests.lightning.serving import BROKEN, LOST, hashes, made, nested, patience, told
from tests.lightning.test_phoenixd import ENOUGH, QUICK, running
from tests.standins.loopback import Fault
from tests.standins.phoenixd import FULL, Phoenixd
from tests.standins.waiting import until

STUCK = replace(QUICK, pay_timeout=1.0)  # no answer to a payment will come
POLLING = replace(QUICK, poll=0.05)


async def nothing_more(wallet: PhoenixdWallet, hints: AsyncIterator[str]) -> bool:
    """Whether nothing is told until the wallet is closed."""
    await wallet.close()
    return await anext(hints, None) is None


# --- what comes in -------------------------------------------------------------------------------------------


async def test_what_came_while_the_connection_was_cut_is_told_once(tmp_path: Path) -> None:
    async with running(tmp_path) as (wallet, node, server):
        hints = wallet.settlements()
        await until(lambda: node.listeners)
        invoices = await made(wallet, 6)
        for invoice in invoices[:3]:
            server.cut()
            node.customer_pays(invoice)
        assert set(await told(hints, 3)) == set(hashes(invoices[:3]))
        await server.stop()
        for invoice in invoices[3:]:
            node.customer_pays(invoice)
        await server.start()
        assert set(await told(hints, 3)) == set(hashes(invoices[3:]))
        assert await nothing_more(wallet, hints)


async def test_what_came_while_we_were_away_is_told_once(tmp_path: Path) -> None:
    node = Phoenixd()
    now = time.time()
    async with running(tmp_path, node) as (wallet, _, _):
        hints = wallet.settlements()
        invoices = await made(wallet, 5)
        node.customer_pays(invoices[0], at=now - 500)
        node.customer_pays(invoices[1], at=now - 400)
        assert await told(hints, 2) == hashes(invoices[:2])
        await until((tmp_path / "wallet-phoenixd.json").exists)
        at = str(int((now - 400) * 1000))
        await until(lambda: at in (tmp_path / "wallet-phoenixd.json").read_text())
    node.customer_pays(invoices[2], at=now - 200)
    node.customer_pays(invoices[3], at=now - 100)
    async with running(tmp_path, node) as (wallet, _, _):
        found = await wallet.lookup_many(hashes(invoices), int(now) - 600)
        assert [found[each].state for each in hashes(invoices)] == [SETTLED] * 4 + [PENDING]
        hints = wallet.settlements()
        # The one at which it stopped comes again: one that was entered late beside it would come now.
        assert await told(hints, 3) == hashes(invoices[1:4])
        node.customer_pays(invoices[4])
        assert await told(hints, 1) == hashes(invoices[4:])
        assert await nothing_more(wallet, hints)


async def test_a_push_that_is_lost_is_found_by_listing(tmp_path: Path) -> None:
    async with running(tmp_path, Phoenixd(push="lost"), options=POLLING) as (wallet, node, _):
        hints = wallet.settlements()
        invoices = await made(wallet, 2)
        node.customer_pays(invoices[1])
        assert await told(hints, 1) == hashes(invoices[1:])
        found = await wallet.lookup_many(hashes(invoices), int(time.time()))
        assert [found[each].state for each in hashes(invoices)] == [PENDING, SETTLED]


async def test_without_its_websocket_it_is_asked(tmp_path: Path) -> None:
    async with running(tmp_path, Phoenixd(without=frozenset({"websocket"})), options=POLLING) as (wallet, node, _):
        hints = wallet.settlements()
        (invoice,) = await made(wallet, 1)
        node.customer_pays(invoice)
        assert await told(hints, 1) == hashes([invoice])


async def test_a_push_twice_is_told_once(tmp_path: Path) -> None:
    async with running(tmp_path, Phoenixd(push="twice")) as (wallet, node, _):
        hints = wallet.settlements()
        await until(lambda: node.listeners)
        invoices = await made(wallet, 2)
        node.customer_pays(invoices[0])
        node.customer_pays(invoices[1])
        assert set(await told(hints, 2)) == set(hashes(invoices))
        assert await nothing_more(wallet, hints)


async def test_a_false_push_is_no_news_and_hides_none(tmp_path: Path) -> None:
    async with running(tmp_path) as (wallet, node, server):
        hints = wallet.settlements()
        await until(lambda: node.listeners)
        (invoice,) = await made(wallet, 1)
        (payment_hash,) = hashes([invoice])
        for nonsense in ("", "[]", "{", '{"type":"payment_received"}', '{"type":7,"paymentHash":[]}', "\u0000" * 99):
            node.say(nonsense)
        node.say(json.dumps({"type": "payment_received", "paymentHash": "../getinfo"}))
        node.tell("ab" * 32)
        node.tell(payment_hash)
        await until(lambda: server.calls[f"/payments/incoming/{payment_hash}"])
        node.customer_pays(invoice)
        assert await told(hints, 1) == [payment_hash]


@pytest.mark.parametrize("wrong", [-7_200.0, 7_200.0])
async def test_a_clock_that_is_wrong_hides_nothing(tmp_path: Path, wrong: float) -> None:
    node = Phoenixd(now=lambda: time.time() + wrong)
    async with running(tmp_path, node) as (wallet, _, _):
        hints = wallet.settlements()
        await until(lambda: node.listeners)
        invoices = [(await wallet.create_invoice(21_000, description="a job", expiry=10_000)).bolt11 for _ in range(3)]
        node.customer_pays(invoices[0])
        assert await told(hints, 1) == hashes(invoices[:1])
        found = await wallet.lookup_many(hashes(invoices), int(time.time()))
        assert [found[each].state for each in hashes(invoices)] == [SETTLED, PENDING, PENDING]
        node.now = time.time  # and is put right
        node.customer_pays(invoices[1])
        assert await told(hints, 1) == hashes(invoices[1:2])
        found = await wallet.lookup_many(hashes(invoices), int(time.time()))
        assert [found[each].state for each in hashes(invoices)] == [SETTLED, SETTLED, PENDING]


async def test_what_was_entered_late_is_found(tmp_path: Path) -> None:
    async with running(tmp_path, Phoenixd(push="lost")) as (wallet, node, _):
        late, early = await made(wallet, 2)
        now = time.time()
        node.customer_pays(early, at=now)
        await wallet.lookup_many(hashes([early, late]), int(now))
        node.customer_pays(late, at=now - 5)
        assert (await wallet.lookup_many(hashes([late]), int(now)))[hashes([late])[0]].state is SETTLED


# --- look-ups ------------------------------------------------------------------------------------------------


async def test_many_open_invoices_cost_no_more_calls_than_few(tmp_path: Path) -> None:
    async with running(tmp_path) as (wallet, _, server):
        since = int(time.time())
        few, many = await made(wallet, 2), await made(wallet, 60)
        costs = []
        for asked in (few, few + many):
            server.calls.clear()
            found = await wallet.lookup_many(hashes(asked), since)
            assert {each.state for each in found.values()} == {PENDING}
            costs.append(sum(server.calls.values()))
        assert costs == [1, 1]


async def test_what_came_is_listed_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phoenixd_received, "PAGE", 7)
    async with running(tmp_path) as (wallet, node, _):
        invoices = await made(wallet, 24)
        for invoice in invoices[:22]:
            node.customer_pays(invoice)
        node.on_chain.add(hashes(invoices)[3])
        node.on_chain.add(hashes(invoices)[20])
        found = await wallet.lookup_many(hashes(invoices), int(time.time()))
        assert [n for n, each in enumerate(hashes(invoices)) if found[each].state is PENDING] == [3, 20, 22, 23]


async def test_forgotten_payments_are_listed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phoenixd_received, "_KEPT", 10)
    async with running(tmp_path) as (wallet, node, _):
        now = time.time()
        invoices = await made(wallet, 12)
        for age, invoice in enumerate(invoices):
            node.customer_pays(invoice, at=now - 1_000 + age)
            await wallet.lookup_many(hashes(invoices), int(now))
        found = await wallet.lookup_many(hashes(invoices), int(now))
        assert {each.state for each in found.values()} == {SETTLED}


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_phoenixd_that_cannot_be_asked_makes_nothing_unpaid(tmp_path: Path, fault: Fault) -> None:
    async with running(tmp_path, options=patience(QUICK, fault)) as (wallet, node, server):
        invoices = await made(wallet, 2)
        asked = hashes(invoices)
        node.customer_pays(invoices[0])
        server.faults["*"] = fault
        assert (await wallet.lookup(asked[0])).state is UNKNOWN
        assert {each.state for each in (await wallet.lookup_many(asked, 0)).values()} == {UNKNOWN}
        with pytest.raises(WalletError) as refused:
            await wallet.create_invoice(21_000, description="a job", expiry=600)
        assert refused.value.code in ("unreachable", "untrustworthy", "failed")
        server.faults.clear()
        assert (await wallet.lookup_many(asked, 0))[asked[0]].state is SETTLED
        server.faults["*"] = fault
        found = await wallet.lookup_many(asked, 0)
        assert [found[each].state for each in asked] == [SETTLED, UNKNOWN]


async def test_an_expired_invoice_has_failed_but_not_at_once(tmp_path: Path) -> None:
    ahead = 0.0
    async with running(tmp_path, Phoenixd(now=lambda: time.time() + ahead)) as (wallet, node, _):
        (invoice,) = await made(wallet, 1)
        ahead = 700.0
        assert (await wallet.lookup(hashes([invoice])[0])).state is PENDING  # what came in time may be arriving
        node.incoming[hashes([invoice])[0]]["expiresAt"] -= 800_000
        assert (await wallet.lookup(hashes([invoice])[0])).state is FAILED


@pytest.mark.parametrize(
    "nonsense",
    [
        {"receivedSat": "21"},
        {"receivedSat": True},
        {"fees": -1},
        {"fees": None},
        {"receivedSat": 1 << 80},
        {"isPaid": "yes"},
        {"isPaid": None},
    ],
)
async def test_a_payment_that_cannot_be_read_is_not_credited(tmp_path: Path, nonsense: dict[str, object]) -> None:
    async with running(tmp_path) as (wallet, node, _):
        (invoice,) = await made(wallet, 1)
        node.customer_pays(invoice)
        node.incoming[hashes([invoice])[0]] |= nonsense
        assert (await wallet.lookup(hashes([invoice])[0])).state is UNKNOWN
        if "isPaid" not in nonsense:
            found = await wallet.lookup_many(hashes([invoice]), int(time.time()))
            assert found[hashes([invoice])[0]].state is UNKNOWN


async def test_an_answer_about_another_invoice_is_not_believed(tmp_path: Path) -> None:
    async with running(tmp_path) as (wallet, node, _):
        paid, open_ = await made(wallet, 2)
        node.customer_pays(paid)
        node.incoming[hashes([open_])[0]] = node.incoming[hashes([paid])[0]]
        assert (await wallet.lookup(hashes([open_])[0])).state is UNKNOWN


# --- paying --------------------------------------------------------------------------------------------------


async def test_a_refused_payment_was_not_made(tmp_path: Path) -> None:
    async with running(tmp_path, Phoenixd(paying="refused")) as (wallet, node, _):
        with pytest.raises(WalletError, match="failed: payment request features not supported"):
            await wallet.pay(node.customer_invoice(5_000), fee_limit_msat=ENOUGH)
        assert node.outgoing == []


@pytest.mark.parametrize("poor", [False, True])
async def test_a_failed_payment_has_failed_and_may_be_made_again(tmp_path: Path, poor: bool) -> None:
    async with running(tmp_path, Phoenixd(paying="failed")) as (wallet, node, _):
        bolt11 = node.customer_invoice(5_000)
        if poor:
            node.balance = 5_000
        assert (await wallet.pay(bolt11, fee_limit_msat=ENOUGH)).state is FAILED
        assert (await wallet.payment(decode(bolt11).payment_hash)).state is FAILED
        node.paying, node.balance = "ok", 1_000_000
        assert (await wallet.pay(bolt11, fee_limit_msat=ENOUGH)).state is SETTLED


@pytest.mark.parametrize("success", [True, False])
async def test_what_is_under_way_is_pending_and_not_paid_again(tmp_path: Path, success: bool) -> None:
    async with running(tmp_path, Phoenixd(paying="stuck"), options=STUCK) as (wallet, node, server):
        bolt11 = node.customer_invoice(5_000)
        payment_hash = decode(bolt11).payment_hash
        for _ in range(2):
            assert (await wallet.pay(bolt11, fee_limit_msat=ENOUGH)).state is PENDING
        assert (await wallet.payment(payment_hash)).state is PENDING
        assert server.calls["/payinvoice"] == 1
        node.resolve(payment_hash, success=success)
        assert (await wallet.payment(payment_hash)).state is (SETTLED if success else FAILED)


@pytest.mark.parametrize("fault", LOST)
async def test_an_answer_that_is_lost_is_no_failure(tmp_path: Path, fault: Fault) -> None:
    async with running(tmp_path, options=patience(QUICK, fault)) as (wallet, node, server):
        bolt11 = node.customer_invoice(5_000)
        server.faults["/payinvoice"] = fault
        paid = await wallet.pay(bolt11, fee_limit_msat=ENOUGH)
        assert (paid.state, paid.fee_msat) == (SETTLED, 4_020)
        assert len(node.outgoing) == 1


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("before", [False, True])
async def test_a_request_that_may_be_lost_is_unknown_until_phoenixd_tells(
    tmp_path: Path, fault: Fault, before: bool
) -> None:
    async with running(tmp_path, Phoenixd(paying="failed"), options=patience(QUICK, fault)) as (wallet, node, server):
        bolt11 = node.customer_invoice(5_000)
        payment_hash = decode(bolt11).payment_hash
        if before:  # an earlier failure says nothing about this attempt
            assert (await wallet.pay(bolt11, fee_limit_msat=ENOUGH)).state is FAILED
        node.paying = "ok"
        server.faults["/payinvoice"] = fault
        assert (await wallet.pay(bolt11, fee_limit_msat=ENOUGH)).state is UNKNOWN
        assert (await wallet.payment(payment_hash)).state is UNKNOWN
        server.faults = {f"/payments/outgoingbyhash/{payment_hash}": fault}
        with pytest.raises(WalletError):  # whether it was paid before cannot be learned: nothing leaves
            await wallet.pay(bolt11, fee_limit_msat=ENOUGH)
        assert (await wallet.payment(payment_hash)).state is UNKNOWN
        server.faults.clear()
        assert (await wallet.pay(bolt11, fee_limit_msat=ENOUGH)).state is SETTLED


@pytest.mark.parametrize("field", ["paymentId", "isPaid", "completedAt", "fees", "preimage"])
async def test_what_nests_a_thousand_deep_is_no_failure(
    tmp_path: Path, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as (wallet, _, _):
        listed = {"paymentHash": "ab" * 32, "paymentId": "1", "isPaid": True, "fees": 7, field: nested()}

        async def get(path: str) -> object:
            return listed

        monkeypatch.setattr(wallet._rest, "get", get)
        assert (await wallet.payment("ab" * 32)).state in (SETTLED, PENDING)


@pytest.mark.parametrize("sats", [(1 << 63) // 1000 + 1, -1, 2.5, None, "7"])
async def test_a_fee_that_no_book_could_hold_is_none(
    tmp_path: Path, sats: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as (wallet, node, server):
        bolt11 = node.customer_invoice(5_000)
        answer = node._pay

        async def lying(asked: dict[str, str]) -> dict[str, object]:
            server.faults[f"/payments/outgoingbyhash/{decode(bolt11).payment_hash}"] = "500"
            return await answer(asked) | {"routingFeeSat": sats}

        monkeypatch.setattr(node, "_pay", lying)
        paid = await wallet.pay(bolt11, fee_limit_msat=ENOUGH)
        assert (paid.state, paid.fee_msat) == (SETTLED, 0)


async def test_two_who_pay_the_same_invoice_at_once_pay_it_once(tmp_path: Path) -> None:
    async with running(tmp_path) as (wallet, node, server):
        bolt11 = node.customer_invoice(5_000)
        paid = await asyncio.gather(*(wallet.pay(bolt11, fee_limit_msat=ENOUGH) for _ in range(5)))
        assert {each.state for each in paid} == {SETTLED}
        assert (len(node.outgoing), server.calls["/payinvoice"]) == (1, 1)


async def test_the_password_is_in_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with running(tmp_path) as (wallet, node, server):
            hints = wallet.settlements()
            await until(lambda: node.listeners)
            (invoice,) = await made(wallet, 1)
            node.customer_pays(invoice)
            await told(hints, 1)
            server.faults["*"] = "500"
            server.cut()
            await wallet.lookup("ab" * 32)
    assert FULL not in caplog.text
    assert "OjAxMjM0NTY3ODlhYmNkZWY" not in caplog.text  # as it stands in the header
