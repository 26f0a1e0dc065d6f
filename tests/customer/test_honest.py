"""A customer and the real shop: quote, payment, stream, result, receipt, change, and the next job from it."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from dvm.customer import (
    Answered,
    Archive,
    Asked,
    Customer,
    Due,
    JobFailed,
    Options,
    Paid,
    Partial,
    Processing,
    Quoted,
    Receipted,
)
from dvm.jobs import Settings
from dvm.models.echo import EchoModel
from dvm.nostr import Event, Filter, Keys, RelayPool
from dvm.pricing import FREE, PerRequest
from tests.customer.conftest import all_of, done, failed
from tests.customer.purse import BRISK
from tests.standins.relay import TestRelay
from tests.standins.seller import seller
from tests.standins.waiting import until

FAST = Settings(partial_seconds=0.01, publish_seconds=3, shutdown_seconds=5, sweep_seconds=0.2, reconcile_seconds=0.2)


async def test_a_paid_job_ends_in_an_answer_a_verified_receipt_and_change(
    pool: RelayPool, relay: TestRelay, keys: Keys
) -> None:
    async with seller([relay.url]) as shop:
        wallet = await shop.payer()
        customer = Customer(keys, pool, payer=wallet, options=BRISK)
        updates = await all_of(customer, "hello world", provider=shop.keys.npub)
        assert [type(u) for u in updates if not isinstance(u, Processing | Partial)] == [
            Asked,
            Quoted,
            Due,
            Paid,
            Answered,
            Receipted,
            type(updates[-1]),
        ]
        last = done(updates)
        assert (last.text, last.verified, last.problems) == ("hello world", True, ())
        assert last.receipt is not None
        receipt = last.receipt.receipt
        assert last.msat == receipt.paid == receipt.after + (receipt.cost or 0)
        assert {"payment", "announced prices", "answer", "chain of 1 receipt"} <= set(last.receipt.checked)
        account = await customer.account(shop.keys.npub)
        assert (account.balance_msat, account.problems, account.complete) == (receipt.after, (), True)


async def test_the_next_job_is_paid_from_the_change_without_an_invoice(
    pool: RelayPool, relay: TestRelay, keys: Keys
) -> None:
    async with seller([relay.url]) as shop:
        customer = Customer(keys, pool, payer=await shop.payer(), options=BRISK)
        await all_of(customer, "one", provider=shop.keys.npub)
        balance = shop.node.balance("customer")
        updates = await all_of(customer, "two", provider=shop.keys.npub, max_tokens=100)
        assert not any(isinstance(u, Quoted | Due | Paid) for u in updates)
        last = done(updates)
        assert last.verified is True
        assert (last.msat, last.payment_hash) == (0, None)
        assert last.receipt is not None
        assert "chain of 2 receipts" in last.receipt.checked
        assert shop.node.balance("customer") == balance


@pytest.mark.parametrize("scheme", ["nip04", "nip44"])
async def test_an_encrypted_job_shows_a_stranger_neither_question_nor_answer(
    pool: RelayPool, relay: TestRelay, keys: Keys, scheme: str
) -> None:
    async with seller([relay.url]) as shop:
        customer = Customer(keys, pool, payer=await shop.payer(), options=BRISK)
        updates = await all_of(customer, "my-very-private-words", provider=shop.keys.pubkey, encrypted=scheme)
        last = done(updates)
        assert (last.text, last.verified) == ("my-very-private-words", True)
        for event in await pool.query(Filter()):
            assert "my-very-private-words" not in event.to_json()


async def test_the_answer_streams_and_what_remains_shrinks(pool: RelayPool, relay: TestRelay, keys: Keys) -> None:
    model = EchoModel("echo", chunk_tokens=20, delay=0.02, max_output_tokens=4000)
    async with seller([relay.url], model=model, settings=FAST) as shop:
        customer = Customer(keys, pool, payer=await shop.payer(), options=BRISK)
        prompt = "word " * 400
        updates = await all_of(customer, prompt, provider=shop.keys.npub)
        partials = [u for u in updates if isinstance(u, Partial)]
        assert len(partials) > 2
        assert all(prompt.startswith(p.text) for p in partials)
        assert [len(p.text) for p in partials] == sorted(len(p.text) for p in partials)
        left = [p.remaining_msat or 0 for p in partials]
        assert left == sorted(left, reverse=True)
        assert left[-1] < left[0]
        assert done(updates).text == prompt


async def test_a_free_job_costs_nothing_and_needs_no_wallet(pool: RelayPool, relay: TestRelay, keys: Keys) -> None:
    async with seller([relay.url], price=FREE) as shop:
        updates = await all_of(Customer(keys, pool, options=BRISK), "gratis", provider=shop.keys.npub)
        last = done(updates)
        assert (last.text, last.msat, last.verified) == ("gratis", 0, True)
        assert not any(isinstance(u, Due) for u in updates)


async def test_without_a_wallet_the_invoice_is_shown_and_anybody_may_pay(
    pool: RelayPool, relay: TestRelay, keys: Keys
) -> None:
    async with seller([relay.url]) as shop:
        customer = Customer(keys, pool, options=BRISK)
        async with aclosing(customer.ask("by hand", max_msat=50_000, provider=shop.keys.npub)) as updates:
            async for update in updates:
                if isinstance(update, Due):
                    assert update.by_hand
                    assert time.time() < update.until <= update.quote.expires_at
                    shop.node.pay(update.quote.bolt11)
        assert done([update]).verified is True
        assert done([update]).payment_hash is not None


async def test_the_limit_goes_along_as_the_bid_and_a_job_above_it_is_refused(
    pool: RelayPool, relay: TestRelay, keys: Keys
) -> None:
    async with seller([relay.url], price=PerRequest(21_000)) as shop:
        customer = Customer(keys, pool, payer=await shop.payer(), options=BRISK)
        updates = await all_of(customer, provider=shop.keys.npub, max_msat=20_000)
        assert failed(updates).code == "too-dear"
        assert "21 sats" in failed(updates).text
        with pytest.raises(JobFailed, match="too-dear"):
            await customer.buy("again", provider=shop.keys.npub, max_msat=20_000)


async def test_a_refusal_is_told_and_nothing_is_paid(pool: RelayPool, relay: TestRelay, keys: Keys) -> None:
    async with seller([relay.url]) as shop:
        wallet = await shop.payer()
        before = shop.node.balance("customer")
        customer = Customer(keys, pool, payer=wallet, options=BRISK)
        last = failed(await all_of(customer, provider=shop.keys.npub, model="nonesuch"))
        assert last.code == "refused"
        assert "model" in last.text
        assert shop.node.balance("customer") == before


async def test_the_daemon_restarts_in_the_middle_and_the_answer_comes_all_the_same(
    pool: RelayPool, relay: TestRelay, keys: Keys
) -> None:
    model = EchoModel("echo", chunk_tokens=2, delay=0.05, max_output_tokens=4000)
    settings = Settings(partial_seconds=0.01, publish_seconds=3, shutdown_seconds=0.05, sweep_seconds=0.2)
    async with seller([relay.url], model=model, settings=settings) as shop:
        customer = Customer(keys, pool, payer=await shop.payer(), options=BRISK)
        restarted = False
        async with aclosing(customer.ask("word " * 40, max_msat=50_000, provider=shop.keys.npub)) as updates:
            async for update in updates:
                if isinstance(update, Partial) and not restarted:
                    restarted = True
                    await shop.stop()
                    await shop.start()
        assert restarted
        assert done([update]).verified is True
        assert done([update]).text == "word " * 40


async def test_the_relay_comes_back_empty_and_the_request_is_published_again(
    pool: RelayPool, relay: TestRelay, keys: Keys
) -> None:
    customer = Customer(keys, pool, options=BRISK)
    async with aclosing(customer.ask("still there?", max_msat=0)) as updates:
        assert isinstance(await anext(updates), Asked)
        await relay.stop()
        await relay.start()
        async with seller([relay.url], price=FREE, settings=FAST):
            async for update in updates:
                last = update
    assert done([last]).text == "still there?"


async def test_leaving_before_the_answer_cancels_the_job(pool: RelayPool, relay: TestRelay, keys: Keys) -> None:
    model = EchoModel("echo", chunk_tokens=1, delay=0.05, max_output_tokens=4000)
    async with seller([relay.url], model=model, settings=FAST) as shop:
        customer = Customer(keys, pool, payer=await shop.payer(), options=BRISK)
        async with aclosing(customer.ask("word " * 400, max_msat=50_000, provider=shop.keys.npub)) as updates:
            async for update in updates:
                if isinstance(update, Partial):
                    break
        # What was used is billed, the rest is ours, and the chain says so.
        receipts: list[Event] = []
        pool.subscribe(Filter(kinds=[7090], tags={"p": [keys.pubkey]}), lambda event, _: receipts.append(event))
        await until(lambda: receipts)
        account = await customer.account(shop.keys.npub)
        assert account.receipts[-1].finish == "cancelled"
        assert 0 < account.balance_msat < account.receipts[-1].paid
        assert account.problems == ()


async def test_a_cancelled_task_cancels_the_job_on_its_way_out(pool: RelayPool, relay: TestRelay, keys: Keys) -> None:
    async with seller([relay.url]) as shop:
        customer = Customer(keys, pool, options=BRISK)
        due = asyncio.Event()

        async def ask() -> None:
            async for update in customer.ask("hello", max_msat=50_000, provider=shop.keys.npub):
                if isinstance(update, Due):
                    due.set()

        task = asyncio.create_task(ask())
        await asyncio.wait_for(due.wait(), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        deletions = await pool.query(Filter(kinds=[5], authors=[keys.pubkey]))
        assert len(deletions) == 1
        assert deletions[0].tag("k") == "5050"
        assert deletions[0].tag("p") == shop.keys.pubkey


async def test_receipts_that_a_relay_has_forgotten_are_still_ours(
    pool: RelayPool, relay: TestRelay, keys: Keys, tmp_path: Path
) -> None:
    async with seller([relay.url]) as shop:
        customer = Customer(keys, pool, payer=await shop.payer(), archive=Archive(tmp_path), options=BRISK)
        first = done(await all_of(customer, "one", provider=shop.keys.npub))
        await relay.stop()
        await relay.start()
        await until(lambda: shop.pool.connected and pool.connected)
        second = done(await all_of(customer, "two", provider=shop.keys.npub, max_tokens=100))
        assert first.receipt is not None
        assert second.receipt is not None
        assert "chain of 2 receipts" in second.receipt.checked
        without = await Customer(keys, pool, options=BRISK).account(shop.keys.npub)
        assert without.missing == ((1, 1),)
        assert without.complete is False
        assert without.balance_msat == second.receipt.receipt.after


async def test_time_is_up_with_a_clear_word(pool: RelayPool, relay: TestRelay, keys: Keys) -> None:
    model = EchoModel("echo", chunk_tokens=1, delay=0.2, max_output_tokens=4000)
    async with seller([relay.url], model=model, settings=FAST) as shop:
        customer = Customer(keys, pool, payer=await shop.payer(), options=BRISK)
        last = failed(await all_of(customer, "word " * 400, provider=shop.keys.npub, timeout=1.0))
        assert last.code == "timeout"
        assert "no result came within 1 seconds" in last.text
        assert last.msat > 0
        # It was cancelled, and the receipt says what is left.
        assert last.receipt is not None
        assert last.receipt.verified, last.receipt.problems
        assert last.receipt.receipt.after > 0


async def test_no_relay_and_no_provider_are_two_different_failures(
    pool: RelayPool, relay: TestRelay, keys: Keys
) -> None:
    nobody = Options(quote=0.3, poll=0.1, publish=0.5)
    last = failed(await all_of(Customer(keys, pool, options=nobody)))
    assert (last.code, last.msat) == ("no-answer", 0)
    await relay.stop()
    await until(lambda: not pool.connected)
    last = failed(await all_of(Customer(keys, pool, options=nobody)))
    assert last.code == "unpublished"


@pytest.mark.parametrize(
    "job",
    [
        {"max_msat": -1},
        {"encrypted": True},
        {"provider": "npub1nonsense"},
        {"kind": 6050},
        {"timeout": 0},
        {"output": "no media type"},
    ],
)
async def test_what_cannot_be_asked_is_said_before_anything_is_sent(
    pool: RelayPool, relay: TestRelay, keys: Keys, job: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        await all_of(Customer(keys, pool, options=BRISK), **job)
    assert await pool.query(Filter()) == []


async def test_the_same_question_twice_at_once_is_two_jobs(pool: RelayPool, relay: TestRelay, keys: Keys) -> None:
    async with seller([relay.url]) as shop:
        customer = Customer(keys, pool, payer=await shop.payer(), options=BRISK)
        answers = await asyncio.gather(
            *(customer.buy("hm", max_msat=50_000, provider=shop.keys.npub) for _ in range(3))
        )
        assert len({answer.request.id for answer in answers}) == 3
        assert len({answer.payment_hash for answer in answers}) == 3
        assert [answer.problems for answer in answers] == [()] * 3
        assert (await customer.account(shop.keys.npub)).complete
