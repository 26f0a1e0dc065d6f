"""Each operation of the store, and what the database itself refuses."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from dvm.ledger import Balance, ConflictError, Job, JobState, Metered, SqliteStore, StoreError, UsageRow, queries
from dvm.ledger.sqlite import read
from tests.ledger.books import (
    NOW,
    USED,
    database,
    hash_of,
    job,
    paid,
    payment,
    post,
    publication,
    quoted,
    receipt_for,
    running,
    terms,
    void,
)


async def test_a_job_id_is_known_for_ever(store: SqliteStore) -> None:
    new = job("a")
    assert (await store.open_job(new)).known is None
    assert (await store.open_job(new)).known is JobState.RECEIVED
    await store.close_unpaid(new.id, to=JobState.REJECTED, reason="x", publications=(), at=NOW, stamp=NOW)
    assert (await store.open_job(new)).known is JobState.REJECTED


async def test_a_deletion_that_came_first_counts_only_from_the_author(store: SqliteStore) -> None:
    mine, other = job("mine", "alice"), job("other", "alice")
    await store.cancel_before(mine.id, "alice", NOW)
    await store.cancel_before(other.id, "mallory", NOW)
    assert (await store.open_job(mine)).known is JobState.CANCELLED
    assert (await store.open_job(other)).known is None


async def test_a_paid_job_is_billed_and_its_change_pays_the_next(store: SqliteStore) -> None:
    first = await running(store, 1, 21_000)
    await post(store, first, 6_500)
    assert await store.balance("alice") == Balance(14_500, 0)
    second = job(2)
    await store.open_job(second)
    assert await store.hold(second.id, terms(14_000), NOW)
    assert await store.balance("alice") == Balance(500, 14_000)
    assert await store.accounts() == {
        "wallet": -21_000,
        "customers": 500,
        "held": 14_000,
        "leaving": 0,
        "revenue": 6_500,
        "fees": 0,
    }


async def test_receipts_are_numbered_in_the_order_in_which_they_settle(store: SqliteStore) -> None:
    first, second = await running(store, 1, 10_000), await running(store, 2, 20_000)
    await post(store, second, 5_000)
    await void(store, first)
    entries = await store.statement("alice")
    assert [(e.seq, e.job, e.paid, e.cost, e.after) for e in entries] == [
        (2, first.id, 10_000, 0, 25_000),
        (1, second.id, 20_000, 5_000, 15_000),
    ]
    links = [json.loads(each.payload) for each in await store.outbox(100) if each.role == "receipt"]
    assert links[1] == {"seq": 2, "prev": entries[1].receipt, "before": 15_000, "after": 25_000}


async def test_an_overpayment_stays_behind_its_job_until_the_receipt_names_it(store: SqliteStore) -> None:
    first, invoice = await quoted(store, 1, 10_000)
    await store.deposit(invoice.payment_hash, 15_000, NOW, receipt_for("alice"))
    assert await store.balance("alice") == Balance(0, 15_000)
    await store.claim(first.id, NOW + 60, NOW)
    await post(store, first, 99_000)
    assert await store.balance("alice") == Balance(5_000, 0)


async def test_an_operation_that_fails_leaves_the_others_of_its_batch_standing(store: SqliteStore) -> None:
    jobs = [await running(store, n, 10_000) for n in range(3)]
    await void(store, jobs[1])
    outcomes = await asyncio.gather(*(post(store, each, 1_000) for each in jobs), return_exceptions=True)
    assert outcomes[0] is None
    assert isinstance(outcomes[1], ConflictError)
    assert outcomes[2] is None


async def test_a_result_is_stored_once_and_a_second_delivery_is_refused(store: SqliteStore) -> None:
    only = await running(store, 1, 10_000)
    await post(store, only, 1_000, result=hash_of("one"))
    with pytest.raises(ConflictError):
        await post(store, only, 1_000, result=hash_of("two"))
    assert [each.id for each in await store.answers(only.id) if each.role == "result"] == [hash_of("one")]


async def test_the_outbox_keeps_an_event_until_it_is_published(store: SqliteStore) -> None:
    only, _ = await quoted(store, 1, 10_000)
    waiting = await store.outbox(10)
    assert [each.role for each in waiting] == ["quote"]
    await store.published([waiting[0].id], NOW)
    assert await store.outbox(10) == []
    assert [each.id for each in await store.answers(only.id)] == [waiting[0].id]


async def test_leases_are_renewed_and_attempts_counted(store: SqliteStore) -> None:
    only = await paid(store, 1, 10_000)
    first = await store.claim(only.id, NOW + 60, NOW)
    assert (first.attempts, first.lease_until) == (1, NOW + 60)
    await store.renew([only.id], NOW + 120)
    kept = await store.job(only.id)
    assert kept is not None
    assert kept.lease_until == NOW + 120
    await store.release(only.id, attempted=True)
    await store.claim(only.id, NOW + 60, NOW)
    await store.release(only.id, attempted=False)
    again = await store.claim(only.id, NOW + 60, NOW)
    assert again.attempts == 2
    assert again.stamp > first.stamp


async def test_what_may_be_cancelled_are_open_jobs_those_with_money_first_and_then_the_newest(
    store: SqliteStore,
) -> None:
    late = replace(job("late"), received_at=NOW + 60)
    await store.open_job(late)
    priced, _ = await quoted(store, "priced", 10_000)
    busy, waiting = await running(store, "busy", 10_000), await paid(store, "waiting", 10_000)
    done = await running(store, "done", 10_000)
    await post(store, done, 1_500)
    found = await store.cancellable(10)
    assert [at for _, at in found] == [NOW, NOW, NOW + 60, NOW]
    assert {each for each, _ in found[:2]} == {busy.id, waiting.id}
    assert [each for each, _ in found[2:]] == [late.id, priced.id]
    assert await store.cancellable(3) == found[:3]


async def test_the_report_adds_up_usage_by_day_kind_and_model(store: SqliteStore) -> None:
    for n in range(2):
        await post(store, await running(store, n, 10_000), 1_500)
    await void(store, await running(store, 3, 10_000), used=USED)
    assert await store.report(0) == [
        UsageRow("2027-01-15", 5050, "flash", 2, 20, 0, 40, 0, 3_000),
        UsageRow("2027-01-15", 5050, "flash", 1, 10, 0, 20, 0, 0, billed=False),
    ]
    assert await store.report(NOW + 1) == []


async def test_attempts_that_nobody_is_billed_for_stand_beside_what_is(store: SqliteStore) -> None:
    only = await running(store, 1, 10_000)
    lost = Metered("other", input=7, estimated="input output", finish="broken_off")
    await store.unbilled(only.id, [lost, USED], NOW)
    await post(store, only, 1_500)
    assert [(row.model, row.jobs, row.input, row.msat, row.billed) for row in await store.report(0)] == [
        ("flash", 1, 10, 1_500, True),
        ("flash", 1, 10, 0, False),
        ("other", 1, 7, 0, False),
    ]
    with pytest.raises(ConflictError):
        await store.unbilled(hash_of("unknown"), [lost], NOW)


async def test_watched_payments_outlive_their_quote(store: SqliteStore) -> None:
    only, invoice = await quoted(store, 1, 10_000)
    assert await store.overdue(invoice.expires_at - 1, 10) == []
    assert await store.overdue(invoice.expires_at, 10) == [(only.id, invoice.payment_hash)]
    await store.close_unpaid(only.id, to=JobState.EXPIRED, reason="x", publications=(), at=NOW, stamp=NOW)
    assert [each.payment_hash for each in await store.watched(NOW + 3600)] == [invoice.payment_hash]
    assert await store.watched(NOW + 40 * 86_400) == []


async def test_an_unknown_payment_is_nobodys(store: SqliteStore) -> None:
    assert await store.deposit(hash_of("stranger"), 1_000, NOW, receipt_for("alice")) is None
    assert (await store.accounts())["wallet"] == 0


@pytest.mark.parametrize("msat", [0, -1])
async def test_a_deposit_must_be_positive(store: SqliteStore, msat: int) -> None:
    _, invoice = await quoted(store, 1, 10_000)
    with pytest.raises(ValueError, match="positive"):
        await store.deposit(invoice.payment_hash, msat, NOW, receipt_for("alice"))


async def test_the_database_itself_refuses_a_negative_balance_and_a_changed_transfer(
    store: SqliteStore, tmp_path: Path
) -> None:
    await paid(store, 1, 10_000)
    db = database(tmp_path)
    with pytest.raises(sqlite3.IntegrityError):
        db.execute("UPDATE accounts SET msat = -1 WHERE name = 'customer:alice'")
    with pytest.raises(sqlite3.IntegrityError):
        db.execute("UPDATE accounts SET msat = -1 WHERE name LIKE 'held:%'")
    for statement in ("UPDATE transfers SET msat = 1", "DELETE FROM transfers"):
        with pytest.raises(sqlite3.IntegrityError, match="immutable"):
            db.execute(statement)


async def test_a_payment_hash_belongs_to_one_job(store: SqliteStore) -> None:
    _, invoice = await quoted(store, 1, 10_000)
    other = job(2)
    await store.open_job(other)
    with pytest.raises(StoreError):
        await store.quote(other.id, terms(10_000), invoice, publication("quote", other.id), NOW)
    stolen = await store.job(other.id)
    assert stolen is not None
    assert stolen.state is JobState.RECEIVED


async def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path)
    only = await running(store, 1, 10_000)
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.open_job(job(2))
    again = await SqliteStore.open(tmp_path)
    assert [each.id for each in await again.jobs([JobState.RUNNING])] == [only.id]
    assert await again.job(job(2).id) is None
    await again.close()


async def test_a_damaged_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "dvm.db").write_bytes(b"this is not a database" * 100)
    with pytest.raises(StoreError, match=r"dvm\.db"):
        await SqliteStore.open(tmp_path)


async def test_two_settlements_of_one_invoice_at_once_credit_it_once(store: SqliteStore) -> None:
    _, invoice = await quoted(store, 1, 10_000)
    both = await asyncio.gather(
        *(store.deposit(invoice.payment_hash, 10_000, NOW, receipt_for("alice")) for _ in range(5))
    )
    assert sorted(bool(each and each.fresh) for each in both) == [False] * 4 + [True]
    assert (await store.accounts())["wallet"] == -10_000


async def test_money_13_simultaneous_first_jobs_do_not_share_one_balance(store: SqliteStore) -> None:
    await void(store, await running(store, "top-up", 10_000))
    jobs = [job(n) for n in range(5)]
    for each in jobs:
        await store.open_job(each)
    held = await asyncio.gather(*(store.hold(each.id, terms(6_000), NOW) for each in jobs))
    assert sorted(held) == [False] * 4 + [True]


async def test_money_16_paid_late_too_little_or_after_cancelling_goes_to_the_balance(store: SqliteStore) -> None:
    late, late_invoice = await quoted(store, "late", 10_000)
    await store.close_unpaid(late.id, to=JobState.EXPIRED, reason="x", publications=(), at=NOW, stamp=NOW)
    _, little_invoice = await quoted(store, "little", 10_000)
    for invoice, msat in ((little_invoice, 9_999), (late_invoice, 10_000)):
        deposit = await store.deposit(invoice.payment_hash, msat, NOW, receipt_for("alice"))
        assert deposit is not None
        assert not deposit.paid
    assert await store.balance("alice") == Balance(19_999, 0)
    assert [(e.seq, e.paid, e.cost) for e in await store.statement("alice")] == [(2, 10_000, 0), (1, 9_999, 0)]


async def test_what_a_reader_finds_in_several_statements_is_of_one_moment(store: SqliteStore, tmp_path: Path) -> None:
    await store.open_job(job(1))

    def ask(db: sqlite3.Connection) -> tuple[Job | None, Job | None]:
        first = queries.find_job(db, job(1).id)
        other = database(tmp_path)
        other.execute("UPDATE jobs SET reason = 'after'")
        other.close()
        return first, queries.find_job(db, job(1).id)

    assert read(tmp_path, ask) == (job(1), job(1))
    assert await store.job(job(1).id) == replace(job(1), reason="after")


def test_payment_helper_is_one_hash_a_job() -> None:
    assert payment(job(1), 1).payment_hash != payment(job(2), 1).payment_hash
