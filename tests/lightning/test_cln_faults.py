"""Core Lightning that lies, hangs, is cut off and started again: nothing lost, nothing paid twice."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dvm.lightning import cln_pay, cln_sweep
from dvm.lightning.base import WalletError
from dvm.lightning.bolt11 import decode
from tests.lightning.contract import FAILED, PENDING, SETTLED, UNKNOWN
from tests.lightning.serving import BROKEN, LOST, hashes, made, nested, patience, told
from tests.lightning.test_cln import QUICK, running
from tests.standins.cln import FULL, ClnNode
from tests.standins.loopback import Fault
from tests.standins.waiting import until

STUCK = replace(QUICK, pay_timeout=1.0)  # no answer to a payment will come


# --- the stream of payments -------------------------------------------------------------------------------


async def test_what_was_paid_while_the_stream_was_cut_is_told_once_and_in_order(tmp_path: Path) -> None:
    async with running(tmp_path) as (wallet, node, server):
        hints = wallet.settlements()
        invoices = await made(wallet, 6)
        await until(lambda: wallet._early is None)
        heard: list[str] = []

        async def hear() -> None:
            async for each in hints:
                heard.append(each)  # noqa: PERF401 - looked at while it grows

        hearing = asyncio.create_task(hear())
        for invoice in invoices[:3]:
            server.cut()
            node.customer_pays(invoice)
        await until(lambda: len(heard) >= 3)
        await server.stop()
        for invoice in invoices[3:]:
            node.customer_pays(invoice)
        await server.start()
        await until(lambda: len(heard) >= 6)
        await wallet.close()
        await hearing
        assert heard == hashes(invoices)


async def test_what_was_paid_while_we_were_away_is_told_once(tmp_path: Path) -> None:
    node = ClnNode()
    async with running(tmp_path, node) as (wallet, _, _):
        hints = wallet.settlements()
        invoices = await made(wallet, 4)
        await until(lambda: wallet._early is None)
        node.customer_pays(invoices[0])
        async with asyncio.timeout(60):
            assert await anext(hints) == hashes(invoices)[0]
        await until(lambda: '"pay": 1' in (tmp_path / "wallet-cln.json").read_text())
    for invoice in invoices[1:3]:
        node.customer_pays(invoice)
    async with running(tmp_path, node) as (wallet, _, _):
        hints = wallet.settlements()
        assert await told(hints, 2) == hashes(invoices[1:3])
        node.customer_pays(invoices[3])
        assert await told(hints, 1) == hashes(invoices[3:])


async def test_a_new_shop_does_not_hear_of_all_that_a_node_ever_received(tmp_path: Path) -> None:
    node = ClnNode()
    async with running(tmp_path / "old", node) as (wallet, _, _):
        for invoice in await made(wallet, 37):
            node.customer_pays(invoice)
    (tmp_path / "new").mkdir()
    async with running(tmp_path / "new", node) as (wallet, _, server):
        hints = wallet.settlements()
        await until(lambda: wallet._early is None)
        assert server.calls["/v1/waitanyinvoice"] < 20
        (invoice,) = await made(wallet, 1)
        node.customer_pays(invoice)
        assert await told(hints, 1) == hashes([invoice])


async def test_the_place_in_another_nodes_stream_means_nothing(tmp_path: Path) -> None:
    node = ClnNode()
    async with running(tmp_path, node) as (wallet, _, _):
        for invoice in await made(wallet, 5):
            node.customer_pays(invoice)
        wallet.settlements()
        await until(lambda: wallet._early is None)
    other = ClnNode(id="03" + "cd" * 32)
    async with running(tmp_path, other) as (wallet, _, _):
        hints = wallet.settlements()
        (invoice,) = await made(wallet, 1)
        await until(lambda: wallet._early is None)
        other.customer_pays(invoice)
        assert await told(hints, 1) == hashes([invoice])


async def test_an_invoice_paid_before_the_stream_began_is_told_all_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as (wallet, node, _):
        (invoice,) = await made(wallet, 1)
        node.customer_pays(invoice)
        assert await told(wallet.settlements(), 1) == hashes([invoice])


@pytest.mark.parametrize(
    "lie",
    [
        {"payment_hash": "ab" * 32, "status": "paid", "pay_index": 1},  # told before
        {"payment_hash": "ab" * 32, "status": "paid", "pay_index": True},
        {"payment_hash": "ab" * 32, "status": "paid"},
        {"payment_hash": ["ab"], "status": "paid", "pay_index": 7},
        {"payment_hash": "ab" * 32, "status": "paid", "pay_index": 1 << 80},
        {},
    ],
)
async def test_nonsense_in_the_stream_ends_nothing(tmp_path: Path, lie: dict[str, object]) -> None:
    async with running(tmp_path) as (wallet, node, _):
        hints = wallet.settlements()
        await until(lambda: wallet._early is None)
        first, second = await made(wallet, 2)
        node.customer_pays(first)
        assert await told(hints, 1) == hashes([first])
        node.lie = lie
        node.wake()
        await until(lambda: node.lie is None)
        node.customer_pays(second)
        assert await told(hints, 1) == hashes([second])


async def test_a_false_push_is_a_hint_and_no_money(tmp_path: Path) -> None:
    async with running(tmp_path) as (wallet, node, _):
        hints = wallet.settlements()
        await until(lambda: wallet._early is None)
        (invoice,) = await made(wallet, 1)
        node.lie = {"payment_hash": hashes([invoice])[0], "status": "paid", "pay_index": 1}
        node.wake()
        assert await told(hints, 1) == hashes([invoice])
        assert (await wallet.lookup(hashes([invoice])[0])).state is PENDING


async def test_a_push_that_is_lost_is_found_by_the_sweep(tmp_path: Path) -> None:
    async with running(tmp_path, ClnNode(deaf=True)) as (wallet, node, _):
        wallet.settlements()
        invoices = await made(wallet, 3)
        node.customer_pays(invoices[1])
        found = await wallet.lookup_many(hashes(invoices), int(time.time()))
        assert [found[each].state for each in hashes(invoices)] == [PENDING, SETTLED, PENDING]


# --- look-ups -----------------------------------------------------------------------------------------------


async def test_many_open_invoices_cost_no_more_calls_than_few(tmp_path: Path) -> None:
    async with running(tmp_path) as (wallet, node, server):
        since = int(time.time())
        few = await made(wallet, 2)
        await wallet.lookup_many(hashes(few), since)
        many = await made(wallet, 60)
        costs = []
        for asked in (few, few + many):
            server.calls.clear()
            found = await wallet.lookup_many(hashes(asked), since)
            assert {each.state for each in found.values()} == {PENDING}
            costs.append(sum(server.calls.values()))
        assert costs == [1, 1]
        node.customer_pays(many[7])
        found = await wallet.lookup_many(hashes(many), since)
        assert [n for n, each in enumerate(hashes(many)) if found[each].state is SETTLED] == [7]


async def test_after_a_restart_the_open_ones_are_found_in_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cln_sweep, "PAGE", 10)
    node = ClnNode()
    since = int(time.time())
    async with running(tmp_path, node) as (wallet, _, _):
        invoices = await made(wallet, 40)
    node.customer_pays(invoices[3])
    async with running(tmp_path, node) as (wallet, _, server):
        found = await wallet.lookup_many([*hashes(invoices), "cd" * 32], since)
        states = [found[each].state for each in hashes(invoices)]
        assert states == [SETTLED if n == 3 else PENDING for n in range(40)]
        assert found["cd" * 32].state is UNKNOWN
        assert server.calls["/v1/listinvoices"] <= 7
        node.customer_pays(invoices[4])
        server.calls.clear()
        found = await wallet.lookup_many(hashes(invoices), since)
        assert found[hashes(invoices)[4]].state is SETTLED
        assert sum(server.calls.values()) == 1


@pytest.mark.parametrize("behind", [-7_200.0, 7_200.0])
async def test_a_node_whose_clock_is_wrong_is_asked_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: float
) -> None:
    monkeypatch.setattr(cln_sweep, "PAGE", 2)
    node = ClnNode(now=lambda: time.time() - behind)
    async with running(tmp_path, node) as (wallet, _, _):
        invoices = [(await wallet.create_invoice(21_000, description="a job", expiry=10_000)).bolt11 for _ in range(12)]
        node.customer_pays(invoices[5])
        found = await wallet.lookup_many(hashes(invoices), int(time.time()))
        assert [found[each].state for each in hashes(invoices)] == [SETTLED if n == 5 else PENDING for n in range(12)]


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_node_that_cannot_be_asked_makes_nothing_unpaid(tmp_path: Path, fault: Fault) -> None:
    async with running(tmp_path, options=patience(QUICK, fault)) as (wallet, node, server):
        invoices = await made(wallet, 12)
        node.customer_pays(invoices[0])
        asked = hashes(invoices)
        server.faults["*"] = fault
        assert (await wallet.lookup(asked[0])).state is UNKNOWN
        assert {each.state for each in (await wallet.lookup_many(asked, 0)).values()} == {UNKNOWN}
        with pytest.raises(WalletError) as refused:
            await wallet.create_invoice(21_000, description="a job", expiry=600)
        assert refused.value.code in ("unreachable", "untrustworthy")
        assert FULL not in str(refused.value)
        server.faults.clear()
        assert (await wallet.lookup_many(asked, 0))[asked[0]].state is SETTLED
        server.faults["*"] = fault  # what was seen settled stays so; what was open may be paid by now
        found = await wallet.lookup_many(asked, 0)
        assert [found[each].state for each in asked] == [SETTLED] + [UNKNOWN] * 11


@pytest.mark.parametrize("nonsense", ["21000.0", -1, 1.5, True, None, "x", "-1msat", "01msat", 1 << 80, [21_000]])
async def test_an_amount_that_is_none_is_not_credited(tmp_path: Path, nonsense: object) -> None:
    async with running(tmp_path) as (wallet, node, _):
        (invoice,) = await made(wallet, 1)
        node.customer_pays(invoice)
        node.invoices[0]["amount_received_msat"] = nonsense
        assert (await wallet.lookup(hashes([invoice])[0])).state is UNKNOWN


@pytest.mark.parametrize("field", ["bolt11", "payment_hash"])
async def test_an_invoice_that_is_not_what_was_asked_for_is_not_handed_out(tmp_path: Path, field: str) -> None:
    async with running(tmp_path) as (wallet, node, _):
        honest = node._invoice

        async def lying(params: dict[str, object]) -> dict[str, object]:
            other = await honest({**params, "label": "another", "amount_msat": 1_000})
            return await honest(params) | {field: other[field]}

        node._invoice = lying  # type: ignore[method-assign]
        with pytest.raises(WalletError, match="untrustworthy"):
            await wallet.create_invoice(21_000, description="a job", expiry=600)


# --- paying -------------------------------------------------------------------------------------------------


async def test_a_route_above_the_fee_limit_is_not_taken(tmp_path: Path) -> None:
    async with running(tmp_path, ClnNode(fee_msat=1_001)) as (wallet, node, _):
        with pytest.raises(WalletError, match=r"Route wanted fee of 1001msat \(206\)"):
            await wallet.pay(node.customer_invoice(5_000), fee_limit_msat=1_000)
        assert node.pays == []


@pytest.mark.parametrize("paying", ["no-route", "failed"])
async def test_what_the_node_says_has_failed_has_failed(tmp_path: Path, paying: str) -> None:
    async with running(tmp_path, ClnNode(paying=paying)) as (wallet, node, _):
        bolt11 = node.customer_invoice(5_000)
        if paying == "no-route":
            with pytest.raises(WalletError, match="205"):
                await wallet.pay(bolt11, fee_limit_msat=1_000)
        else:
            assert (await wallet.pay(bolt11, fee_limit_msat=1_000)).state is FAILED
            assert (await wallet.payment(decode(bolt11).payment_hash)).state is FAILED
        node.paying = "ok"
        assert (await wallet.pay(bolt11, fee_limit_msat=1_000)).state is SETTLED


@pytest.mark.parametrize("success", [True, False])
@pytest.mark.parametrize("paying", ["stuck", "stuck-error"])
async def test_what_is_under_way_is_pending_and_not_paid_again(tmp_path: Path, paying: str, success: bool) -> None:
    async with running(tmp_path, ClnNode(paying=paying), options=STUCK) as (wallet, node, server):
        bolt11 = node.customer_invoice(5_000)
        payment_hash = decode(bolt11).payment_hash
        for _ in range(2):
            assert (await wallet.pay(bolt11, fee_limit_msat=1_000)).state is PENDING
        assert (await wallet.payment(payment_hash)).state is PENDING
        assert server.calls["/v1/pay"] == 1
        node.resolve(payment_hash, success=success)
        if success:
            assert (await wallet.payment(payment_hash)).state is SETTLED
        else:  # without lightningd's last word it may be trying another route
            assert (await wallet.payment(payment_hash)).state is PENDING


@pytest.mark.parametrize("fault", LOST)
async def test_an_answer_that_is_lost_is_no_failure(tmp_path: Path, fault: Fault) -> None:
    async with running(tmp_path, options=patience(QUICK, fault)) as (wallet, node, server):
        bolt11 = node.customer_invoice(5_000)
        server.faults["/v1/pay"] = fault
        paid = await wallet.pay(bolt11, fee_limit_msat=1_000)
        assert (paid.state, paid.fee_msat) == (SETTLED, 7)
        assert len(node.pays) == 1


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_request_that_may_be_lost_is_unknown_until_the_node_tells(tmp_path: Path, fault: Fault) -> None:
    async with running(tmp_path, options=patience(QUICK, fault)) as (wallet, node, server):
        bolt11 = node.customer_invoice(5_000)
        server.faults["/v1/pay"] = fault
        assert (await wallet.pay(bolt11, fee_limit_msat=1_000)).state is UNKNOWN
        assert (await wallet.payment(decode(bolt11).payment_hash)).state is UNKNOWN
        server.faults = {"/v1/listpays": fault}
        with pytest.raises(WalletError):  # whether it was paid before cannot be learned: nothing leaves
            await wallet.pay(bolt11, fee_limit_msat=1_000)
        assert (await wallet.payment(decode(bolt11).payment_hash)).state is UNKNOWN
        assert server.calls["/v1/pay"] == 1
        server.faults.clear()
        assert (await wallet.pay(bolt11, fee_limit_msat=1_000)).state is SETTLED


async def test_an_old_failure_is_for_good_after_a_restart_and_a_fresh_one_is_not(tmp_path: Path) -> None:
    node = ClnNode(paying="failed")
    async with running(tmp_path, node) as (wallet, _, _):
        bolt11 = node.customer_invoice(5_000)
        await wallet.pay(bolt11, fee_limit_msat=1_000)
    async with running(tmp_path, node) as (wallet, _, _):
        payment_hash = decode(bolt11).payment_hash
        assert (await wallet.payment(payment_hash)).state is PENDING
        node.pays[0]["created_at"] -= QUICK.retry_for + cln_pay._GRACE + 1
        assert (await wallet.payment(payment_hash)).state is FAILED


@pytest.mark.parametrize(
    "nonsense",
    [
        {"status": ["complete"]},
        {"status": None},
        {"status": "complete", "preimage": 7, "created_at": "now", "amount_msat": 1 << 70, "amount_sent_msat": []},
    ],
)
async def test_a_listed_payment_that_cannot_be_read_is_no_failure(tmp_path: Path, nonsense: dict[str, object]) -> None:
    async with running(tmp_path, ClnNode(paying="failed")) as (wallet, node, _):
        bolt11 = node.customer_invoice(5_000)
        await wallet.pay(bolt11, fee_limit_msat=1_000)
        node.pays[0] |= nonsense
        found = await wallet.payment(decode(bolt11).payment_hash)
        assert (found.state is not FAILED, found.fee_msat, found.preimage) == (True, 0, None)


async def test_what_nests_a_thousand_deep_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as (wallet, _, _):

        async def answer(command: str, params: dict[str, str], **_: object) -> object:
            return {"pays": [{**params, "status": nested(), "created_at": nested()}]}

        monkeypatch.setattr(wallet._rpc, "call", answer)
        assert (await wallet.payment("ab" * 32)).state is PENDING


async def test_two_who_pay_the_same_invoice_at_once_pay_it_once(tmp_path: Path) -> None:
    async with running(tmp_path) as (wallet, node, server):
        bolt11 = node.customer_invoice(5_000)
        paid = await asyncio.gather(*(wallet.pay(bolt11, fee_limit_msat=1_000) for _ in range(5)))
        assert {each.state for each in paid} == {SETTLED}
        assert (len(node.pays), server.calls["/v1/pay"]) == (1, 1)


async def test_a_node_that_is_down_has_paid_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as (wallet, node, server):
        await server.stop()
        with pytest.raises(WalletError, match=r"is it running, and is wallet.url its address"):
            await wallet.pay(node.customer_invoice(5_000), fee_limit_msat=1_000)
