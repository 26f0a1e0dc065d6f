"""Withdrawals and whatever a wallet may do to them: paid once, returned once, or kept until it is known."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dvm.jobs.balances import payouts
from dvm.jobs.balances.payees import PayoutRefused
from dvm.jobs.balances.payout_answers import answer
from dvm.ledger import PayoutState
from dvm.lightning.base import WalletError
from dvm.nip90 import parse_receipt, verify_chain
from tests.standins.cashier import DEPOSIT, QUICK, Cashier, Crash, Purse, cashier
from tests.standins.waiting import until


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(payouts, "MAX_PAUSE", 0.01)
    monkeypatch.setattr(payouts, "PICK_UP_SECONDS", 0.02)
    return


async def test_a_withdrawal_is_reserved_paid_charged_and_receipted(tmp_path: Path) -> None:
    async with cashier(tmp_path) as desk:
        payout = desk.asked(100_000, fee=5_000)
        await desk.payouts.withdraw(payout)
        row = await desk.ended(payout)
        assert (row.state, row.fee_msat) == (PayoutState.PAID, 100)
        assert await desk.available() == DEPOSIT - 100_100
        await until(lambda: len(desk.answers(payout)) == 2)
        first, last = desk.answers(payout)
        assert first.withdrawal is not None
        assert (first.status, first.withdrawal.state) == ("processing", "reserved")
        assert last.withdrawal is not None
        assert (last.status, last.withdrawal.state, last.withdrawal.msat) == ("success", "paid", 100_000)
        assert last.withdrawal.fee_msat == 100
        assert last.event.created_at > first.event.created_at, "clients keep the newest"
        receipt = parse_receipt(next(e for e in desk.relays.events if e.kind == 7090), desk.customer)
        assert [payment.msat for payment in receipt.payments] == [-100_100]
        assert receipt.after == DEPOSIT - 100_100
        assert receipt.scheme == "nip44", "a withdrawal is nobody else's business"
        assert not desk.payouts.unresolved()
        desk.audited()


async def test_the_receipts_of_top_ups_and_withdrawals_are_one_chain(tmp_path: Path) -> None:
    async with cashier(tmp_path) as desk:
        for _ in range(3):
            payout = desk.asked(50_000)
            await desk.payouts.withdraw(payout)
            await desk.ended(payout)
            await desk.fund(10_000)
        await desk.outbox.sweep()
        found = {e.id: e for e in desk.relays.events if e.kind == 7090}
        receipts = sorted((parse_receipt(e, desk.customer) for e in found.values()), key=lambda each: each.seq)
        assert [each.seq for each in receipts] == [1, 2, 3, 4, 5, 6, 7]
        assert verify_chain(receipts) == []
        assert receipts[-1].after == await desk.available()


@pytest.mark.parametrize(("act", "code"), [("fail", "failed"), ("failed", "failed"), ("insufficient", "unavailable")])
async def test_what_certainly_was_not_paid_returns_whole(tmp_path: Path, act: str, code: str) -> None:
    async with cashier(tmp_path, act) as desk:
        payout = desk.asked()
        await desk.payouts.withdraw(payout)
        row = await desk.ended(payout)
        assert row.state is PayoutState.FAILED
        assert await desk.available() == DEPOSIT
        await until(lambda: len(desk.answers(payout)) == 2)
        answer = desk.answers(payout)[-1]
        assert (answer.status, answer.code) == ("error", code)
        assert len(desk.purse.asked) == 1
        desk.audited()


@pytest.mark.parametrize("act", ["secretly", "hang"])
async def test_what_was_paid_and_not_said_is_found_out_and_charged(tmp_path: Path, act: str) -> None:
    async with cashier(tmp_path, act, settings=replace(QUICK, payout_seconds=0.05)) as desk:
        payout = desk.asked()
        await desk.payouts.withdraw(payout)
        assert (await desk.ended(payout)).state is PayoutState.PAID
        assert await desk.available() == DEPOSIT - 100_100


async def test_a_wallet_that_cannot_be_asked_what_became_is_asked_to_pay_again(tmp_path: Path) -> None:
    async with cashier(tmp_path, "secretly") as desk:
        desk.purse.tells = False
        payout = desk.asked()
        await desk.payouts.withdraw(payout)
        assert (await desk.ended(payout)).state is PayoutState.PAID
        assert desk.purse.left[payout.payment_hash] == 1


async def test_what_never_arrived_is_asked_for_again(tmp_path: Path) -> None:
    async with cashier(tmp_path, "lost", "lost") as desk:
        payout = desk.asked()
        await desk.payouts.withdraw(payout)
        assert (await desk.ended(payout)).state is PayoutState.PAID
        assert len(desk.purse.asked) == 3


async def test_not_found_is_not_returned_and_then_it_settles_after_all(tmp_path: Path) -> None:
    """money.md, case 15."""
    async with cashier(tmp_path, "late") as desk:
        desk.purse.acts.extend(["late"] * 10_000)
        payout = desk.asked(expiry=60)
        await desk.payouts.withdraw(payout)
        await until(lambda: len(desk.purse.asked) > 3)
        desk.later = 60 + 3000  # the invoice is over, the wallet has not heard of it, and an hour has not passed
        asked, looked = len(desk.purse.asked), desk.purse.looked
        await until(lambda: desk.purse.looked > looked + 3)
        assert (await desk.row(payout)).state is PayoutState.RESERVED
        assert len(desk.purse.asked) <= asked + 1, "an expired invoice is not asked for again"
        desk.purse.arrive()
        assert (await desk.ended(payout)).state is PayoutState.PAID
        assert await desk.available() == DEPOSIT - 100_100


async def test_what_the_wallet_has_never_heard_of_returns_an_hour_after_its_end(tmp_path: Path) -> None:
    """money.md, case 7: an unknown payout does not block for ever."""
    async with cashier(tmp_path) as desk:
        desk.purse.acts.extend(["lost"] * 10_000)
        payout = desk.asked(expiry=60)
        await desk.payouts.withdraw(payout)
        await until(lambda: len(desk.purse.asked) > 1)
        assert desk.payouts.overdue() == []
        desk.later = 60 + 3700
        row = await desk.ended(payout)
        assert (row.state, await desk.available()) == (PayoutState.FAILED, DEPOSIT)
        assert (row.reason or "").startswith("expired: ")


async def test_what_is_under_way_for_long_stays_and_is_told(tmp_path: Path) -> None:
    async with cashier(tmp_path, "pending") as desk:
        payout = desk.asked(expiry=60)
        await desk.payouts.withdraw(payout)
        await until(lambda: desk.purse.asked)
        desk.later = 20 * 86_400
        assert [each.id for each in desk.payouts.overdue()] == [payout.id]
        assert (await desk.row(payout)).state is PayoutState.RESERVED
        desk.purse.arrive()
        await desk.ended(payout)
        assert desk.payouts.overdue() == []


async def test_a_failure_is_not_believed_while_another_request_may_be_on_its_way(tmp_path: Path) -> None:
    async with cashier(tmp_path, "late", "fail") as desk:
        payout = desk.asked()
        await desk.payouts.withdraw(payout)
        await until(lambda: len(desk.purse.asked) == 2)
        looked = desk.purse.looked
        await until(lambda: desk.purse.looked > looked + 3)
        assert (await desk.row(payout)).state is PayoutState.RESERVED
        desk.purse.arrive()
        assert (await desk.ended(payout)).state is PayoutState.PAID


async def test_whatever_a_wallet_breaks_with_the_request_may_have_left(tmp_path: Path) -> None:
    async with cashier(tmp_path, "breaks", *["insufficient"] * 1000) as desk:
        payout = desk.asked()
        await desk.payouts.withdraw(payout)
        await until(lambda: len(desk.purse.asked) > 3)
        assert (await desk.row(payout)).state is PayoutState.RESERVED
        desk.purse.deliver()
        assert (await desk.ended(payout)).state is PayoutState.PAID


async def test_a_wallet_that_keeps_to_no_fee_limit_cannot_be_drained(tmp_path: Path) -> None:
    """money.md, case 17: the fee goes to the customer's own node, and what is above the limit is the operator's."""
    async with cashier(tmp_path) as desk:
        desk.purse.fee_msat = 5_000 + payouts.LOSS_MSAT // 2
        for _ in range(2):
            payout = desk.asked(10_000, fee=5_000)
            await desk.payouts.withdraw(payout)
            await desk.ended(payout)
        assert desk.payouts.loss() == payouts.LOSS_MSAT
        with pytest.raises(PayoutRefused, match="unavailable"):
            await desk.payouts.withdraw(desk.asked(10_000, fee=5_000))
        desk.later = payouts.DAY
        desk.purse.fee_msat = 100
        payout = desk.asked(10_000, fee=5_000)
        await desk.payouts.withdraw(payout)
        assert (await desk.ended(payout)).state is PayoutState.PAID


async def test_the_customer_never_pays_more_than_the_fee_limit(tmp_path: Path) -> None:
    """money.md, case 17."""
    async with cashier(tmp_path) as desk:
        desk.purse.fee_msat = 50_000
        payout = desk.asked(100_000, fee=5_000)
        await desk.payouts.withdraw(payout)
        row = await desk.ended(payout)
        assert row.fee_msat == 50_000
        assert await desk.available() == DEPOSIT - 105_000
        assert (await desk.store.accounts())["fees"] == -45_000
        await until(lambda: len(desk.answers(payout)) == 2)
        said = desk.answers(payout)[-1].withdrawal
        assert said is not None
        assert said.fee_msat == 5_000, "what was charged"
        desk.audited()


async def test_one_slow_payment_stops_nobody(tmp_path: Path) -> None:
    async with cashier(tmp_path, "hang") as desk:
        slow = desk.asked()
        await desk.payouts.withdraw(slow)
        await until(lambda: desk.purse.asked)
        quick = desk.asked()
        await desk.payouts.withdraw(quick)
        assert (await desk.ended(quick)).state is PayoutState.PAID
        assert (await desk.row(slow)).state is PayoutState.RESERVED


async def test_so_many_at_once_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payouts, "AT_ONCE", 3)
    async with cashier(tmp_path) as desk:
        asked = [desk.asked(10_000) for _ in range(8)]
        await asyncio.gather(*(desk.payouts.withdraw(each) for each in asked))
        for each in asked:
            assert (await desk.ended(each)).state is PayoutState.PAID
        assert desk.purse.most_paying == 3


async def test_a_customer_has_so_many_under_way_and_no_more(tmp_path: Path) -> None:
    async with cashier(tmp_path) as desk:
        desk.purse.acts.extend(["pending"] * 100)
        asked = [desk.asked(10_000) for _ in range(20)]
        outcomes = await asyncio.gather(*(desk.payouts.withdraw(each) for each in asked), return_exceptions=True)
        refused = [each for each in outcomes if isinstance(each, PayoutRefused)]
        assert len(refused) == 12
        assert {each.code for each in refused} == {"too-many-withdrawals"}


async def test_of_two_withdrawals_of_the_whole_balance_one_is_refused(tmp_path: Path) -> None:
    async with cashier(tmp_path) as desk:
        asked = [desk.asked(DEPOSIT - 5_000), desk.asked(DEPOSIT - 5_000)]
        outcomes = await asyncio.gather(*(desk.payouts.withdraw(each) for each in asked), return_exceptions=True)
        (refused,) = [each for each in outcomes if isinstance(each, PayoutRefused)]
        assert refused.code == "insufficient"
        assert not desk.payouts._open.keys() - {each.id for each in asked}
        await until(lambda: sum(desk.purse.left.values()) == 1)


async def test_the_daily_limit(tmp_path: Path) -> None:
    async with cashier(tmp_path, settings=replace(QUICK, payout_day_msat=150_000)) as desk:
        first = desk.asked(100_000)
        await desk.payouts.withdraw(first)
        await desk.ended(first)
        with pytest.raises(PayoutRefused) as refused:
            await desk.payouts.withdraw(desk.asked(100_000))
        assert refused.value.code == "daily-limit"
        desk.later = 86_401
        tomorrow = desk.asked(100_000)
        await desk.payouts.withdraw(tomorrow)
        assert (await desk.ended(tomorrow)).state is PayoutState.PAID


async def test_the_same_invoice_is_not_paid_for_two_requests(tmp_path: Path) -> None:
    async with cashier(tmp_path) as desk:
        first = desk.asked()
        await desk.payouts.withdraw(first)
        with pytest.raises(PayoutRefused) as refused:
            await desk.payouts.withdraw(replace(first, id="ab" * 32))
        assert refused.value.code == "invoice-used"
        await desk.payouts.withdraw(first)  # the same request: known, and nothing happens
        await desk.ended(first)
        assert await desk.available() == DEPOSIT - 100_100


async def test_a_row_that_ended_while_it_was_read_is_not_paid_again(tmp_path: Path) -> None:
    async with cashier(tmp_path, "fail") as desk:
        payout = desk.asked()
        await desk.payouts.withdraw(payout)
        await desk.ended(payout)
        await until(lambda: not desk.payouts.unresolved())
        desk.payouts._take(payout, None)  # what a reading that was begun before its end would bring
        await until(lambda: not desk.payouts.unresolved())
        assert desk.purse.left[payout.payment_hash] == 0
        assert len(desk.purse.asked) == 1


async def test_what_the_database_does_not_take_is_written_later(tmp_path: Path) -> None:
    async with cashier(tmp_path) as desk:
        from dvm.ledger import StoreError

        taken, refusals = desk.store.paid_out, [3]

        async def full(*arguments: object, **options: object) -> bool:
            if refusals[0]:
                refusals[0] -= 1
                raise StoreError("the disk is full")
            return await taken(*arguments, **options)  # type: ignore[arg-type]

        desk.store.paid_out = full  # type: ignore[method-assign,assignment]
        payout = desk.asked()
        await desk.payouts.withdraw(payout)
        assert (await desk.ended(payout)).state is PayoutState.PAID
        assert len(desk.purse.asked) == 1, "it was not asked for again"


async def test_a_wallet_that_cannot_pay_is_told(tmp_path: Path) -> None:
    async with cashier(tmp_path) as desk:
        desk.purse.pays = False
        with pytest.raises(PayoutRefused, match="unavailable"):
            await desk.payouts.wallet_info()
    async with cashier(tmp_path) as desk:
        desk.purse.error = WalletError("unreachable", "away")
        with pytest.raises(PayoutRefused, match="unavailable"):
            await desk.payouts.wallet_info()


# --- restarts ----------------------------------------------------------------------------------------------


async def test_what_may_have_been_sent_is_looked_up_after_a_restart_before_anything_else(tmp_path: Path) -> None:
    desk = Cashier(tmp_path, Purse("secretly"))
    crash = Crash()
    await desk.open(crash)
    await desk.fund()
    crash.left = 3  # reserve, and pay: before the answer arrives
    payout = desk.asked()
    working = desk.spawn(desk.payouts.withdraw(payout))
    await asyncio.wait_for(crash.happened.wait(), 5)
    working.cancel()
    await desk.crash()
    await desk.open()
    assert (await desk.ended(payout)).state is PayoutState.PAID
    assert len(desk.purse.asked) == 1
    await desk.close()


async def test_close_leaves_what_hangs_to_the_next_start(tmp_path: Path) -> None:
    desk = Cashier(tmp_path, Purse("hang"), settings=replace(QUICK, publish_seconds=0.01))
    await desk.open()
    await desk.fund()
    payout = desk.asked()
    await desk.payouts.withdraw(payout)
    await until(lambda: desk.purse.asked)
    await desk.close()
    await desk.open()
    assert (await desk.ended(payout)).state is PayoutState.PAID
    assert await desk.available() == DEPOSIT - 100_100
    await desk.close()


async def test_an_encrypted_answer_or_none(tmp_path: Path) -> None:
    async with cashier(tmp_path, funded=0) as desk:
        nobody = "ff" * 32  # no point of the curve: nothing can be encrypted to it
        payout = desk.asked(customer=nobody)
        assert answer(desk.shop, payout) == ()
