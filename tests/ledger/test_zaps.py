"""Payments beside the invoice of a quote: zaps, top-ups, and quotes that only a zap can pay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dvm.ledger import Balance, Job, JobState, LedgerError, SqliteStore
from tests.ledger.books import NOW, job, owned, payment, post, publication, quoted, receipt_for, terms, zap


async def zap_only(store: SqliteStore, name: object, msat: int, expires_at: int = NOW + 600) -> Job:
    """A job whose quote has no invoice."""
    new = job(name)
    await store.open_job(new)
    await store.quote(new.id, terms(msat), None, publication("quote", new.id), NOW, expires_at)
    return new


async def state_of(store: SqliteStore, of: Job) -> JobState:
    found = await store.job(of.id)
    assert found is not None
    return found.state


async def test_a_zap_pays_a_quote_that_has_no_invoice(store: SqliteStore) -> None:
    new = await zap_only(store, 1, 10_000)
    assert await store.watched(NOW) == []
    of_bob = zap(1, 10_000, "bob", of=new)
    assert await store.expect(of_bob)
    known = await store.pending(of_bob.payment_hash)
    assert known == replace(of_bob, customer="alice")  # whoever pays, it is the customer's job
    assert await store.watched(NOW) == [known]
    told = publication("zap", 1)
    deposit = await store.deposit(of_bob.payment_hash, 12_000, NOW, receipt_for("alice"), (told,))
    assert deposit is not None
    assert (deposit.customer, deposit.job, deposit.paid) == ("alice", new.id, True)
    assert [each.id for each in await store.outbox(9) if each.role == "zap"] == [told.id]
    await store.claim(new.id, NOW + 60, NOW)
    await post(store, new, 10_000)
    assert await store.balance("alice") == Balance(2_000, 0)


async def test_a_quote_without_an_invoice_has_an_end(store: SqliteStore) -> None:
    new = await zap_only(store, 1, 10_000, expires_at=NOW + 10)
    assert await store.overdue(NOW + 9, 9) == []
    assert await store.overdue(NOW + 10, 9) == [(new.id, None)]
    with pytest.raises(ValueError, match="end"):
        await store.quote(job(2).id, terms(1), None, publication("quote", 2), NOW)


async def test_a_quote_may_end_before_its_invoice(store: SqliteStore) -> None:
    new = job(1)
    await store.open_job(new)
    await store.quote(new.id, terms(1_000), payment(new, 1_000), publication("quote", 1), NOW, NOW + 10)
    assert [each[0] for each in await store.overdue(NOW + 10, 9)] == [new.id]


async def test_an_overdue_quote_is_told_once_with_what_may_have_paid_it(store: SqliteStore) -> None:
    bare, (sold, invoice) = await zap_only(store, "bare", 5_000), await quoted(store, "sold", 5_000)
    zaps = [zap(n, 5_000, of=of) for n, of in enumerate((bare, bare, sold))]
    for each in zaps:
        await store.expect(each)
    found = dict(await store.overdue(NOW + 600, 9))
    assert len(await store.overdue(NOW + 600, 9)) == 2
    assert found[sold.id] == invoice.payment_hash
    assert found[bare.id] in {zaps[0].payment_hash, zaps[1].payment_hash}


async def test_too_little_by_zap_does_not_keep_a_quote_from_ending(store: SqliteStore) -> None:
    new = await zap_only(store, 1, 10_000)
    small = zap(1, 4_000, of=new)
    await store.expect(small)
    await store.deposit(small.payment_hash, 4_000, NOW, receipt_for("alice"))
    assert await store.overdue(NOW + 600, 9) == [(new.id, None)]
    assert await store.balance("alice") == Balance(4_000, 0)


async def test_small_zaps_on_one_quote_add_up_to_it(store: SqliteStore) -> None:
    new = await zap_only(store, 1, 10_000)
    paid = []
    for n, msat in enumerate((4_000, 5_000, 1_000)):
        part = zap(n, msat, of=new)
        await store.expect(part)
        deposit = await store.deposit(part.payment_hash, msat, NOW, receipt_for("alice"))
        assert deposit is not None
        paid.append((deposit.fresh, deposit.paid))
    assert paid == [(True, False), (True, False), (True, True)]
    assert await state_of(store, new) is JobState.PAID
    assert await store.balance("alice") == Balance(0, 10_000)
    assert [(e.seq, e.paid, e.after) for e in await store.statement("alice")] == [
        (3, 1_000, 10_000),
        (2, 5_000, 9_000),
        (1, 4_000, 4_000),
    ]


async def test_a_strangers_sat_on_a_quote_spends_nothing_of_its_customers_balance(store: SqliteStore) -> None:
    new = await zap_only(store, 1, 10_000)
    await owned(store, 50_000)
    teaser = zap(1, 1_000, "mallory", of=new)
    await store.expect(teaser)
    deposit = await store.deposit(teaser.payment_hash, 1_000, NOW, receipt_for("alice"))
    assert deposit is not None
    assert not deposit.paid
    assert await state_of(store, new) is JobState.QUOTED
    assert await store.balance("alice") == Balance(51_000, 0)


async def test_what_was_paid_towards_a_quote_and_spent_since_pays_it_no_more(store: SqliteStore) -> None:
    new, other = await zap_only(store, 1, 10_000), job("other")
    first, last = zap(1, 6_000, of=new), zap(2, 4_000, of=new)
    for each in (first, last):
        await store.expect(each)
    await store.deposit(first.payment_hash, 6_000, NOW, receipt_for("alice"))
    await store.open_job(other)
    assert await store.hold(other.id, terms(6_000), NOW)
    deposit = await store.deposit(last.payment_hash, 4_000, NOW, receipt_for("alice"))
    assert deposit is not None
    assert not deposit.paid
    assert await store.balance("alice") == Balance(4_000, 6_000)


async def test_a_top_up_pays_no_quote_that_it_does_not_name(store: SqliteStore) -> None:
    new, _ = await quoted(store, 1, 10_000)
    await owned(store, 50_000)
    assert await state_of(store, new) is JobState.QUOTED
    assert await store.balance("alice") == Balance(50_000, 0)


async def test_a_second_payment_for_a_paid_job_is_the_customers(store: SqliteStore) -> None:
    new, invoice = await quoted(store, 1, 10_000)
    also = zap(1, 10_000, of=new)
    await store.expect(also)
    for each, paid in ((invoice, True), (also, False)):
        deposit = await store.deposit(each.payment_hash, 10_000, NOW, receipt_for("alice"))
        assert deposit is not None
        assert deposit.paid is paid
    assert await store.balance("alice") == Balance(10_000, 10_000)


async def test_whom_a_payment_credits_is_fixed_when_it_is_first_heard_of(store: SqliteStore) -> None:
    new, invoice = await quoted(store, 1, 10_000)
    stolen = replace(zap(1, 10_000, "mallory"), payment_hash=invoice.payment_hash)
    assert not await store.expect(stolen)
    mine = zap(2, 5_000)
    assert await store.expect(mine)
    assert not await store.expect(replace(mine, customer="mallory"))
    assert not await store.expect(replace(mine, job=new.id))
    assert await store.pending(mine.payment_hash) == mine
    assert await store.pending("0" * 64) is None


async def test_what_is_told_with_a_payment_is_stored_once(store: SqliteStore) -> None:
    mine = zap(1, 5_000)
    await store.expect(mine)
    for n in range(2):
        await store.deposit(mine.payment_hash, 5_000, NOW, receipt_for("alice"), (publication("zap", n),))
    assert [each.role for each in await store.outbox(9)] == ["zap", "receipt"]


async def test_a_zap_for_a_job_that_is_not_there_is_refused(store: SqliteStore) -> None:
    with pytest.raises(LedgerError, match="no job"):
        await store.expect(zap(1, 5_000, of=job("never came")))


async def test_a_zap_that_outlives_its_job_is_the_customers(store: SqliteStore) -> None:
    new = await zap_only(store, 1, 10_000)
    late = zap(1, 10_000, "bob", of=new)
    await store.expect(late)
    await store.close_unpaid(new.id, to=JobState.EXPIRED, reason="x", publications=(), at=NOW, stamp=NOW)
    deposit = await store.deposit(late.payment_hash, 10_000, NOW, receipt_for("alice"))
    assert deposit is not None
    assert (deposit.customer, deposit.paid) == ("alice", False)
    assert await store.balance("alice") == Balance(10_000, 0)


async def test_a_job_is_found_by_its_quote_and_by_its_result(store: SqliteStore) -> None:
    new, invoice = await quoted(store, 1, 10_000)
    await store.deposit(invoice.payment_hash, 10_000, NOW, receipt_for("alice"))
    await store.claim(new.id, NOW + 60, NOW)
    await post(store, new, 1_000)
    events = {each.role: each.id for each in await store.answers(new.id)}
    assert await store.job_of_event(events["quote"]) == new.id
    assert await store.job_of_event(events["result"]) == new.id
    assert await store.job_of_event(events["receipt"]) is None
    assert await store.job_of_event(new.id) is None


async def test_a_statement_has_pages(store: SqliteStore) -> None:
    for _ in range(5):
        await owned(store, 1_000)
    assert [each.seq for each in await store.statement("alice", 2)] == [5, 4]
    assert [each.seq for each in await store.statement("alice", 2, 4)] == [3, 2]
    assert await store.statement("alice", 2, 1) == []
