"""Payments that leave: set aside first, ended once, never more than there is."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dvm.ledger import Balance, LedgerError, Link, Payout, PayoutState, Publication, SqliteStore, TooLittle, TooMuch
from dvm.ledger.payouts import DAY
from dvm.ledger.queries import balances
from dvm.ledger.sqlite import read
from tests.ledger.books import (
    NOW,
    database,
    hash_of,
    job,
    owned,
    post,
    publication,
    receipt_for,
    running,
    terms,
    withdrawal,
    zap,
)


async def paid_out(store: SqliteStore, payout: Payout, fee_msat: int, also: Sequence[Publication] = ()) -> bool:
    maker = receipt_for(payout.customer) if payout.customer else None
    return await store.paid_out(payout.id, fee_msat, maker, also, NOW)


async def earned(store: SqliteStore, msat: int) -> None:
    """Revenue."""
    await post(store, await running(store, hash_of("earned"), msat, "bob"), msat)


async def test_a_payout_is_set_aside_before_it_leaves(store: SqliteStore, tmp_path: Path) -> None:
    await owned(store, 10_000)
    payout = withdrawal(1, 6_000, 500)
    assert await store.reserve(payout, day_limit=0, publications=(publication("taken", 1),))
    assert await store.balance("alice") == Balance(3_500, 0, 6_500)
    assert (await store.accounts())["leaving"] == 6_500
    assert await store.payout(payout.id) == payout
    assert await store.payouts([PayoutState.RESERVED, PayoutState.PAID]) == [payout]
    assert [each.role for each in await store.outbox(9)] == ["receipt", "taken"]
    assert await store.reserve(withdrawal(2, 3_500), day_limit=0)
    assert read(tmp_path, lambda db: balances(db, 9)) == [("alice", Balance(0, 0, 10_000))]


async def test_what_the_fee_did_not_use_returns_with_the_receipt(store: SqliteStore) -> None:
    await owned(store, 10_000)
    payout = withdrawal(1, 6_000, 500)
    await store.reserve(payout, day_limit=0)
    links: list[Link] = []
    make = receipt_for("alice")

    def noting(link: Link) -> Publication:
        links.append(link)
        return make(link)

    assert await store.paid_out(payout.id, 120, noting, (publication("done", 1),), NOW + 5)
    assert await store.balance("alice") == Balance(3_880, 0, 0)
    assert [(e.seq, e.job, e.paid, e.cost, e.after) for e in await store.statement("alice", 1)] == [
        (2, None, -6_120, 0, 3_880)
    ]
    assert [(each.source, each.payment_hash, each.msat) for each in links[-1].payments] == [
        ("bolt11", payout.payment_hash, -6_120)
    ]
    assert await store.payout(payout.id) == replace(payout, state=PayoutState.PAID, ended_at=NOW + 5, fee_msat=120)
    assert [each.role for each in await store.outbox(9)] == ["receipt", "receipt", "done"]
    assert (await store.accounts())["wallet"] == -3_880


async def test_a_payout_that_failed_returns_whole_and_has_no_receipt(store: SqliteStore) -> None:
    await owned(store, 10_000)
    payout = withdrawal(1, 6_000, 500)
    await store.reserve(payout, day_limit=0)
    assert await store.not_paid_out(payout.id, "no route", (publication("failed", 1),), NOW + 5)
    assert await store.balance("alice") == Balance(10_000, 0, 0)
    ended = replace(payout, state=PayoutState.FAILED, ended_at=NOW + 5, reason="no route")
    assert await store.payouts([PayoutState.FAILED]) == [ended]
    assert [each.role for each in await store.outbox(9)] == ["receipt", "failed"]
    assert len(await store.statement("alice")) == 1


async def test_a_payout_has_one_end(store: SqliteStore, tmp_path: Path) -> None:
    await owned(store, 20_000)
    first, second = withdrawal(1, 6_000, 500), withdrawal(2, 6_000, 500)
    for each in (first, second):
        await store.reserve(each, day_limit=0)
    ends = await asyncio.gather(
        paid_out(store, first, 100),
        store.not_paid_out(first.id, "x", (), NOW),
        paid_out(store, first, 0),
        store.not_paid_out(second.id, "x", (), NOW),
        paid_out(store, second, 100),
    )
    assert ends == [True, False, False, True, False]
    assert await store.balance("alice") == Balance(13_900, 0, 0)
    assert database(tmp_path).execute("SELECT name FROM accounts WHERE name LIKE 'payout:%'").fetchall() == []


async def test_an_end_that_was_stored_stands_after_a_crash(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path)
    await owned(store, 10_000)
    payout = withdrawal(1, 6_000, 500)
    await store.reserve(payout, day_limit=0)
    await store.close()
    store = await SqliteStore.open(tmp_path)
    assert await store.payouts([PayoutState.RESERVED]) == [payout]
    assert await paid_out(store, payout, 0)
    await store.close()
    store = await SqliteStore.open(tmp_path)
    assert not await store.not_paid_out(payout.id, "x", (), NOW)
    assert not await store.reserve(payout, day_limit=0)
    assert await store.balance("alice") == Balance(4_000, 0, 0)
    await store.close()


async def test_more_than_there_is_does_not_leave(store: SqliteStore) -> None:
    await owned(store, 10_000)
    with pytest.raises(TooLittle):
        await store.reserve(withdrawal(1, 10_000, 1), day_limit=0)
    with pytest.raises(TooLittle):
        await store.reserve(withdrawal(2, 2**70, 1), day_limit=0)
    with pytest.raises(TooLittle):
        await store.reserve(withdrawal(3, 1, 0, customer="nobody"), day_limit=0)
    assert await store.payouts(list(PayoutState)) == []
    assert await store.reserve(withdrawal(1, 9_999, 1), day_limit=0)


@pytest.mark.parametrize(("msat", "fee_limit"), [(0, 5), (-5, 5), (5, -1)])
async def test_money_24_a_negative_amount_is_no_payout(store: SqliteStore, msat: int, fee_limit: int) -> None:
    await owned(store, 10_000)
    with pytest.raises(ValueError, match="positive"):
        await store.reserve(withdrawal(1, msat, fee_limit), day_limit=0)
    ours = withdrawal(2, 100)
    await store.reserve(ours, day_limit=0)
    with pytest.raises(ValueError, match="fee"):
        await paid_out(store, ours, -1)


async def test_the_operator_is_paid_out_of_revenue_alone(store: SqliteStore) -> None:
    await owned(store, 50_000)
    await earned(store, 8_000)
    with pytest.raises(TooLittle):
        await store.reserve(withdrawal(1, 8_000, 1, customer=None), day_limit=0)
    payout = withdrawal(2, 7_000, 1_000, customer=None)
    assert await store.reserve(payout, day_limit=1)  # the limit is a customer's
    with pytest.raises(TooLittle):
        await store.reserve(withdrawal(3, 1, 0, customer=None), day_limit=0)
    assert await store.paid_out(payout.id, 300, None, (), NOW)
    accounts = await store.accounts()
    assert (accounts["revenue"], accounts["leaving"], accounts["customers"]) == (700, 0, 50_000)


async def test_a_customers_payout_has_a_receipt_or_does_not_end(store: SqliteStore) -> None:
    await owned(store, 10_000)
    payout = withdrawal(1, 6_000)
    await store.reserve(payout, day_limit=0)
    with pytest.raises(LedgerError, match="receipt"):
        await store.paid_out(payout.id, 0, None, (), NOW)
    assert await store.balance("alice") == Balance(4_000, 0, 6_000)


async def test_no_invoice_is_paid_for_two_requests(store: SqliteStore) -> None:
    await owned(store, 50_000)
    first = withdrawal(1, 1_000)
    await store.reserve(first, day_limit=0)
    again = replace(first, id=hash_of("another request"))
    assert not await store.reserve(again, day_limit=0)
    await store.not_paid_out(first.id, "x", (), NOW)
    assert not await store.reserve(again, day_limit=0)  # one of several attempts may still be under way


async def test_a_refused_request_is_not_taken_up_again_but_its_invoice_may_be(store: SqliteStore) -> None:
    await owned(store, 10_000)
    payout = withdrawal(1, 20_000)
    await store.refuse_payout(payout, "too little")
    await store.refuse_payout(payout, "again")
    assert not await store.reserve(payout, day_limit=0)
    found = await store.payout(payout.id)
    assert found is not None
    assert (found.state, found.reason) == (PayoutState.REFUSED, "too little")
    assert found.bolt11 == ""  # strangers do not choose how much is kept for ever
    assert await store.reserve(replace(payout, id=hash_of("another"), msat=5_000), day_limit=0)


async def test_a_request_that_asks_for_nonsense_can_be_refused(store: SqliteStore) -> None:
    for n, msat in enumerate((-(2**70), 2**70, 0)):
        payout = replace(withdrawal(n, 1), msat=msat, fee_limit_msat=msat, expires_at=msat, payment_hash="")
        await store.refuse_payout(payout, "nonsense")
    assert {each.reason for each in await store.payouts([PayoutState.REFUSED])} == {"nonsense"}


async def test_what_we_are_to_be_paid_we_do_not_pay_and_the_other_way_round(store: SqliteStore) -> None:
    await owned(store, 10_000)
    ours = zap("ours", 1_000)
    await store.expect(ours)
    assert not await store.reserve(replace(withdrawal(1, 1_000), payment_hash=ours.payment_hash), day_limit=0)
    payout = withdrawal(2, 1_000)
    await store.reserve(payout, day_limit=0)
    assert not await store.expect(replace(zap("theirs", 1_000), payment_hash=payout.payment_hash))


async def test_a_days_withdrawals_are_bounded_by_what_was_not_sent_back(store: SqliteStore) -> None:
    await owned(store, 100_000)
    await owned(store, 100_000, "bob")
    first, second = withdrawal(1, 6_000), withdrawal(2, 4_000, at=NOW + 60)
    for each in (first, second):
        assert await store.reserve(each, day_limit=10_000)
    with pytest.raises(TooMuch):
        await store.reserve(withdrawal(3, 1, at=NOW + 90), day_limit=10_000)
    assert await store.reserve(withdrawal(4, 10_000, customer="bob"), day_limit=10_000)
    await paid_out(store, first, 0)
    with pytest.raises(TooMuch):
        await store.reserve(withdrawal(3, 1, at=NOW + 90), day_limit=10_000)
    await store.not_paid_out(second.id, "x", (), NOW + 90)
    assert await store.reserve(withdrawal(5, 4_000, at=NOW + 90), day_limit=10_000)
    assert await store.reserve(withdrawal(6, 6_000, at=NOW + DAY), day_limit=10_000)


async def test_what_nobody_asked_for_has_no_end(store: SqliteStore) -> None:
    with pytest.raises(LedgerError, match="no payout"):
        await store.paid_out("0" * 64, 0, None, (), NOW)
    with pytest.raises(LedgerError, match="no payout"):
        await store.not_paid_out("0" * 64, "x", (), NOW)
    assert await store.payout("0" * 64) is None


async def test_money_07_a_withdrawal_and_a_job_do_not_share_one_balance(store: SqliteStore) -> None:
    await owned(store, 10_000)
    jobs = [job(n) for n in range(3)]
    for each in jobs:
        await store.open_job(each)
    outcomes = await asyncio.gather(
        *(store.reserve(withdrawal(n, 6_000, 500), day_limit=0) for n in range(2)),
        *(store.hold(each.id, terms(3_000), NOW) for each in jobs),
        store.reserve(withdrawal(9, 6_000, 500), day_limit=0),
        return_exceptions=True,
    )
    assert [each if isinstance(each, bool) else type(each) for each in outcomes] == [
        True,
        TooLittle,
        True,
        False,
        False,
        TooLittle,
    ]
    assert await store.balance("alice") == Balance(500, 3_000, 6_500)


async def test_money_07_a_refund_and_a_top_up_at_once_are_both_whole(store: SqliteStore) -> None:
    await owned(store, 10_000)
    payout, failing = withdrawal(1, 4_000, 1_000), withdrawal(2, 3_000, 1_000)
    for each in (payout, failing):
        await store.reserve(each, day_limit=0)
    top_up = zap("meanwhile", 7_000)
    await store.expect(top_up)
    await asyncio.gather(
        paid_out(store, payout, 1_000),
        store.deposit(top_up.payment_hash, 7_000, NOW, receipt_for("alice")),
        store.not_paid_out(failing.id, "x", (), NOW),
    )
    assert await store.balance("alice") == Balance(12_000, 0, 0)
    assert [(e.paid, e.after) for e in await store.statement("alice")] == [
        (7_000, 12_000),
        (-5_000, 5_000),
        (10_000, 10_000),
    ]


async def test_money_07_a_refund_that_is_told_twice_is_booked_once(store: SqliteStore) -> None:
    await owned(store, 10_000)
    payout = withdrawal(1, 4_000, 1_000)
    assert sorted(await asyncio.gather(*(store.reserve(payout, day_limit=0) for _ in range(3)))) == [False, False, True]
    assert sorted(await asyncio.gather(*(paid_out(store, payout, 10) for _ in range(3)))) == [False, False, True]
    assert await store.balance("alice") == Balance(5_990, 0, 0)


async def test_money_07_a_payout_of_unknown_end_blocks_nothing_but_its_own_amount(store: SqliteStore) -> None:
    await owned(store, 10_000)
    unknown = withdrawal(1, 4_000)
    await store.reserve(unknown, day_limit=0)
    await post(store, await running(store, "job", 2_000), 500)
    other = withdrawal(2, 6_000)
    assert await store.reserve(other, day_limit=0)
    assert await paid_out(store, other, 0)
    assert await store.payouts([PayoutState.RESERVED]) == [unknown]
    assert await store.balance("alice") == Balance(1_500, 0, 4_000)
    assert await store.not_paid_out(unknown.id, "expired", (), NOW + 10 * DAY)
    assert await store.balance("alice") == Balance(5_500, 0, 0)


async def test_money_17_a_customer_never_pays_more_than_the_fee_limit(store: SqliteStore) -> None:
    await owned(store, 10_000)
    payout = withdrawal(1, 6_000, 500)
    await store.reserve(payout, day_limit=0)
    assert await paid_out(store, payout, 800)  # by a wallet that did not keep to it
    assert await store.balance("alice") == Balance(3_500, 0, 0)
    accounts = await store.accounts()
    assert (accounts["fees"], accounts["wallet"]) == (-300, -3_200)
    assert [e.paid for e in await store.statement("alice", 1)] == [-6_500]


async def test_the_database_itself_refuses_two_payouts_of_one_invoice_and_a_second_end(
    store: SqliteStore, tmp_path: Path
) -> None:
    await owned(store, 10_000)
    payout = withdrawal(1, 6_000)
    await store.reserve(payout, day_limit=0)
    db = database(tmp_path)
    copy = (
        "INSERT INTO payouts SELECT 'x', customer, bolt11, payment_hash, msat, fee_limit_msat, state, created_at,"
        " expires_at, ended_at, fee_msat, reason, scheme, relays, receipt FROM payouts"
    )
    for statement in (
        copy,
        "UPDATE payouts SET state = 'paid', receipt = 'x'",
        "UPDATE payouts SET state = 'paid', ended_at = 1",
        "UPDATE payouts SET state = 'failed', ended_at = 1, fee_msat = 5",
        "UPDATE payouts SET msat = 0",
        "UPDATE payouts SET state = 'lost'",
        "UPDATE accounts SET msat = -1 WHERE name LIKE 'payout:%'",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            db.execute(statement)
    db.close()


async def test_the_chain_of_receipts_tells_a_withdrawal(store: SqliteStore) -> None:
    await owned(store, 10_000)
    payout = withdrawal(1, 6_000)
    await store.reserve(payout, day_limit=0)
    await post(store, await running(store, "job", 2_000), 500)
    await paid_out(store, payout, 0)
    told = [json.loads(each.payload) for each in await store.outbox(99) if each.role == "receipt"]
    assert [(each["before"], each["after"]) for each in told] == [(0, 10_000), (10_000, 11_500), (11_500, 5_500)]
