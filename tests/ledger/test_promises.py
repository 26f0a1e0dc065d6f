"""Hold invoices: an answer is seen if its money is ours, and money is ours if its answer is seen."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from dvm.ledger import Balance, ConflictError, JobState, PendingPayment, Posting, SqliteStore
from tests.ledger.books import (
    NOW,
    USED,
    answer,
    database,
    job,
    owned,
    paid,
    payment,
    post,
    promised,
    publication,
    receipt_for,
    settling,
    terms,
    void,
    zap,
)


async def state_of(store: SqliteStore, job_id: str) -> JobState:
    found = await store.job(job_id)
    assert found is not None
    return found.state


async def offered(store: SqliteStore, name: object, msat: int) -> PendingPayment:
    """The hold invoice of a quoted job."""
    new = job(name)
    await store.open_job(new)
    invoice = payment(new, msat, hold=True)
    await store.quote(new.id, terms(msat), invoice, publication("quote", new.id), NOW)
    return invoice


async def test_a_promise_pays_a_job_without_moving_money(store: SqliteStore) -> None:
    new, invoice = await promised(store, 1, 10_000)
    assert await state_of(store, new.id) is JobState.PAID
    assert await store.promise(new.id) == invoice
    assert await store.promises() == [(invoice, JobState.PAID)]
    assert not any((await store.accounts()).values())
    assert await store.pending(invoice.payment_hash) == invoice
    assert [each.payment_hash for each in await store.watched(NOW)] == [invoice.payment_hash]


async def test_a_promise_that_is_told_again_still_pays(store: SqliteStore) -> None:
    new, invoice = await promised(store, 1, 10_000)
    again = await store.accept(invoice.payment_hash, 10_000)
    assert again is not None
    assert (again.fresh, again.paid, again.job) == (False, True, new.id)


async def test_an_answer_is_kept_back_until_the_promise_is_settled(store: SqliteStore) -> None:
    new, invoice = await settling(store, 1, 10_000, cost=4_000)
    assert await store.finished(new.id) == answer(new, 4_000)
    waiting = await store.job(new.id)
    assert waiting is not None
    assert (waiting.state, waiting.lease_until) == (JobState.SETTLING, None)
    assert [each.role for each in await store.outbox(9)] == ["quote"]
    assert await store.promises() == [(invoice, JobState.SETTLING)]
    assert await store.settle(new.id, 10_000, receipt_for("alice"), NOW) == Posting(4_000, 6_000)
    assert await state_of(store, new.id) is JobState.DELIVERED
    sent = await store.outbox(9)
    assert [each.role for each in sent] == ["quote", "result", "receipt"]
    assert sent[1].relays == ("wss://a", "wss://b")
    assert await store.balance("alice") == Balance(6_000, 0)
    assert [(e.job, e.paid, e.cost, e.after) for e in await store.statement("alice")] == [
        (new.id, 10_000, 4_000, 6_000)
    ]
    assert (await store.promises(), await store.promise(new.id), await store.finished(new.id)) == ([], None, None)
    assert await store.watched(NOW) == []


async def test_a_promise_is_settled_once(store: SqliteStore) -> None:
    new, invoice = await settling(store, 1, 10_000, cost=4_000)
    both = await asyncio.gather(
        *(store.settle(new.id, 10_000, receipt_for("alice"), NOW) for _ in range(3)), return_exceptions=True
    )
    assert [type(each) for each in both] == [Posting, ConflictError, ConflictError]
    late = await store.deposit(invoice.payment_hash, 10_000, NOW, receipt_for("alice"))
    assert late is not None
    assert not late.fresh
    assert (await store.accounts())["wallet"] == -10_000


async def test_what_was_settled_beyond_the_quote_is_change(store: SqliteStore) -> None:
    new, _ = await settling(store, 1, 10_000, cost=99_000)
    assert await store.settle(new.id, 12_500, receipt_for("alice"), NOW) == Posting(10_000, 2_500)


async def test_a_settlement_of_too_little_bills_no_more_than_there_is(store: SqliteStore) -> None:
    new, _ = await settling(store, 1, 10_000, cost=10_000)
    assert await store.settle(new.id, 7_000, receipt_for("alice"), NOW) == Posting(7_000, 0)


async def test_a_voided_promise_has_no_receipt_and_waits_for_its_cancellation(store: SqliteStore) -> None:
    new, invoice = await promised(store, 1, 10_000)
    await store.claim(new.id, NOW + 60, NOW)
    await void(store, new, used=USED)
    assert [each.role for each in await store.outbox(9)] == ["quote", "error"]
    assert await store.statement("alice") == []
    assert await store.promises() == [(invoice, JobState.FAILED)]
    told_again = await store.accept(invoice.payment_hash, 10_000)
    assert told_again is not None
    assert not told_again.paid
    await store.cancelled_hold(invoice.payment_hash, NOW)
    assert (await store.promises(), await store.watched(NOW)) == ([], [])


async def test_an_answer_whose_promise_is_gone_is_never_seen(store: SqliteStore) -> None:
    new, invoice = await settling(store, 1, 10_000, cost=4_000)
    await store.cancelled_hold(invoice.payment_hash, NOW)
    with pytest.raises(ConflictError):
        await void(store, new)  # not by mistake: a job that is settling must be named as such
    await void(store, new, states={JobState.SETTLING})
    assert await store.finished(new.id) is None
    assert [each.role for each in await store.answers(new.id)] == ["quote", "error"]
    with pytest.raises(ConflictError):
        await store.settle(new.id, 10_000, receipt_for("alice"), NOW)


async def test_an_answer_cannot_wait_for_a_promise_that_is_gone(store: SqliteStore) -> None:
    new, invoice = await promised(store, 1, 10_000)
    await store.claim(new.id, NOW + 60, NOW)
    await store.cancelled_hold(invoice.payment_hash, NOW)
    assert await store.promise(new.id) is None
    with pytest.raises(ConflictError, match="cancelled"):
        await store.finish(new.id, answer(new, 4_000), NOW)
    with pytest.raises(ConflictError, match="hold"):
        await post(store, new, 4_000)
    await void(store, new)
    assert await state_of(store, new.id) is JobState.FAILED


async def test_a_promised_job_is_not_billed_and_a_paid_one_not_promised(store: SqliteStore) -> None:
    new, _ = await promised(store, 1, 10_000)
    await store.claim(new.id, NOW + 60, NOW)
    with pytest.raises(ConflictError):
        await post(store, new, 1_000)
    await owned(store, 5_000)
    other = job(2)
    await store.open_job(other)
    assert await store.hold(other.id, terms(5_000), NOW)
    await store.claim(other.id, NOW + 60, NOW)
    with pytest.raises(ConflictError):
        await store.finish(other.id, answer(other, 1_000), NOW)


async def test_too_small_a_promise_is_refused_for_good(store: SqliteStore) -> None:
    invoice = await offered(store, 1, 10_000)
    for msat in (9_999, 10_000):
        accepted = await store.accept(invoice.payment_hash, msat)
        assert accepted is not None
        assert not accepted.paid
    assert invoice.job is not None
    assert await state_of(store, invoice.job) is JobState.QUOTED
    assert await store.promises() == []  # its job may be paid in another way; the wallet tells of it again
    assert len(await store.watched(NOW)) == 1
    await store.close_unpaid(invoice.job, to=JobState.EXPIRED, reason="x", publications=(), at=NOW, stamp=NOW)
    assert await store.promises() == [(invoice, JobState.EXPIRED)]


async def test_a_promise_for_a_job_that_ended_is_refused(store: SqliteStore) -> None:
    invoice = await offered(store, 1, 10_000)
    assert invoice.job is not None
    await store.close_unpaid(invoice.job, to=JobState.CANCELLED, reason="x", publications=(), at=NOW, stamp=NOW)
    accepted = await store.accept(invoice.payment_hash, 10_000)
    assert accepted is not None
    assert not accepted.paid
    assert await store.promises() == [(invoice, JobState.CANCELLED)]


async def test_a_promise_that_was_cancelled_before_we_heard_of_it_pays_nothing(store: SqliteStore) -> None:
    """Two answers of the wallet that overtake each other."""
    invoice = await offered(store, 1, 10_000)
    await store.cancelled_hold(invoice.payment_hash, NOW)
    accepted = await store.accept(invoice.payment_hash, 10_000)
    assert accepted is not None
    assert not accepted.paid
    assert invoice.job is not None
    assert await state_of(store, invoice.job) is JobState.QUOTED


async def test_only_a_hold_invoice_that_is_ours_is_accepted(store: SqliteStore) -> None:
    ordinary = zap(1, 1_000)
    await store.expect(ordinary)
    assert await store.accept(ordinary.payment_hash, 1_000) is None
    assert await store.accept("0" * 64, 1_000) is None
    await store.cancelled_hold(ordinary.payment_hash, NOW)  # which ends only what can be cancelled
    assert [each.payment_hash for each in await store.watched(NOW)] == [ordinary.payment_hash]


async def test_a_job_that_a_zap_has_paid_needs_no_promise(store: SqliteStore) -> None:
    invoice = await offered(store, 1, 10_000)
    assert invoice.job is not None
    of = await store.job(invoice.job)
    assert of is not None
    also = zap(1, 10_000, of=of)
    await store.expect(also)
    deposit = await store.deposit(also.payment_hash, 10_000, NOW, receipt_for("alice"))
    assert deposit is not None
    assert deposit.paid
    accepted = await store.accept(invoice.payment_hash, 10_000)
    assert accepted is not None
    assert not accepted.paid
    assert await store.promise(of.id) is None


@pytest.mark.parametrize("until", ["paid", "running", "settling"])
async def test_a_settlement_that_comes_before_its_answer_stands_behind_the_job(store: SqliteStore, until: str) -> None:
    """Only our preimage settles, so this is a wallet that errs, or a crash between the wallet and the ledger."""
    new, invoice = await promised(store, 1, 10_000)
    if until != "paid":
        await store.claim(new.id, NOW + 60, NOW)
    if until == "settling":
        await store.finish(new.id, answer(new, 4_000), NOW)
    deposit = await store.deposit(invoice.payment_hash, 11_000, NOW, receipt_for("alice"))
    assert deposit is not None
    assert (deposit.fresh, deposit.paid) == (True, True)
    assert await store.balance("alice") == Balance(0, 11_000)
    assert await store.statement("alice") == []
    if until == "paid":
        await store.claim(new.id, NOW + 60, NOW)
    if until == "settling":
        assert await store.promises() == [(invoice, JobState.SETTLING)]
        await store.settle(new.id, 11_000, receipt_for("alice"), NOW)
    else:
        await post(store, new, 4_000)
    assert await store.balance("alice") == Balance(7_000, 0)
    assert [(e.paid, e.cost) for e in await store.statement("alice")] == [(11_000, 4_000)]


async def test_what_is_settled_cannot_be_cancelled_any_more(store: SqliteStore) -> None:
    new, invoice = await promised(store, 1, 10_000)
    await store.claim(new.id, NOW + 60, NOW)
    await store.deposit(invoice.payment_hash, 10_000, NOW, receipt_for("alice"))
    await store.cancelled_hold(invoice.payment_hash, NOW)  # whatever the wallet says afterwards
    await store.finish(new.id, answer(new, 4_000), NOW)
    assert await store.settle(new.id, 10_000, receipt_for("alice"), NOW) == Posting(4_000, 6_000)


async def test_a_settlement_after_the_job_was_voided_is_the_customers(store: SqliteStore) -> None:
    new, invoice = await promised(store, 1, 10_000)
    await void(store, new)
    deposit = await store.deposit(invoice.payment_hash, 10_000, NOW, receipt_for("alice"))
    assert deposit is not None
    assert not deposit.paid
    assert await store.balance("alice") == Balance(10_000, 0)
    assert await store.promises() == []


async def test_a_job_that_nothing_pays_is_not_voided(tmp_path: Path) -> None:
    """Which no operation can bring about: should it be found all the same, it is told and not smoothed over."""
    store = await SqliteStore.open(tmp_path)
    new = await paid(store, 1, 10_000)
    db = database(tmp_path)
    db.execute("DELETE FROM holds")
    db.close()
    with pytest.raises(ConflictError, match="no open hold"):
        await void(store, new)
    await store.close()


async def test_a_promise_outlives_a_restart(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path)
    new, invoice = await settling(store, 1, 10_000, cost=4_000)
    await store.close()
    store = await SqliteStore.open(tmp_path)
    assert await store.promises() == [(invoice, JobState.SETTLING)]
    finished = await store.finished(new.id)
    assert finished == answer(new, 4_000)
    assert json.loads(finished.work) == {"n": 1}
    await store.settle(new.id, 10_000, receipt_for("alice"), NOW)
    await store.close()


@pytest.mark.parametrize("msat", [0, -1])
async def test_a_settlement_must_be_positive(store: SqliteStore, msat: int) -> None:
    new, _ = await settling(store, 1, 10_000, cost=4_000)
    with pytest.raises(ValueError, match="positive"):
        await store.settle(new.id, msat, receipt_for("alice"), NOW)
