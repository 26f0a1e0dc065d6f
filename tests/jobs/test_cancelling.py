"""Deletions that name nothing but the job, as ordinary clients send them: heard in every state, and at a small cost."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from dvm.jobs.cancelling import CHUNK, MOST, Deletions
from dvm.jobs.shop import Settings, Shop
from dvm.ledger import JobState
from dvm.lightning.base import WalletError
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys
from dvm.nostr.pool import RelayPool
from dvm.nostr.subscription import Subscription
from tests.standins.bad_relay import BadRelay, bad_relay
from tests.standins.customer import OPTIONS, Customer, customer
from tests.standins.waiting import until
from tests.standins.workshop import Workshop, workshop

NOW = 1_700_000_000


@pytest.fixture
async def relay() -> AsyncIterator[BadRelay]:
    async with bad_relay() as each:
        yield each


@pytest.fixture
async def shop(relay: BadRelay, tmp_path: Path) -> AsyncIterator[Workshop]:
    async with workshop(relay.url, data=tmp_path) as each:
        yield each


@pytest.fixture
async def buyer(relay: BadRelay) -> AsyncIterator[Customer]:
    async with customer(relay.url) as each:
        yield each


async def delete(by: Customer, *jobs: str, keys: Keys | None = None) -> None:
    """With `e` alone."""
    await by.send(deletion(keys or by.keys, *jobs))


async def cancelled(shop: Workshop, buyer: Customer, job: str) -> None:
    assert (await buyer.feedback(job, "error")).text.startswith("cancelled")
    await until(lambda: known(shop, job, JobState.CANCELLED))


async def known(shop: Workshop, job: str, state: JobState) -> bool:
    found = await shop.store.job(job)
    return found is not None and found.state is state


# In every state


async def test_an_unpaid_job_is_cancelled(shop: Workshop, buyer: Customer) -> None:
    job = await buyer.ask("a question")
    await buyer.quote(job)
    await delete(buyer, job)
    await cancelled(shop, buyer, job)


async def test_a_job_that_waits_for_another_is_cancelled(shop: Workshop, buyer: Customer) -> None:
    job = await buyer.send(buyer.keys.sign(5050, [["i", "e" * 64, "job"]], "", int(time.time())))
    await until(lambda: known(shop, job, JobState.RECEIVED))
    await delete(buyer, job)
    await cancelled(shop, buyer, job)


async def test_a_paid_job_that_waits_for_its_turn_is_cancelled_and_the_money_is_back(
    shop: Workshop, buyer: Customer
) -> None:
    await shop.close()
    shop.set(concurrency=1)
    await shop.open()
    shop.model.script = [asyncio.Event()]
    first, second = [await buyer.ask(f"{n}") for n in range(2)]
    for job in (first, second):
        await shop.pay(buyer, job)
    await until(lambda: shop.model.running)
    waiting = next(job for job in (first, second) if job not in shop.engine.runner._runs)
    await until(lambda: known(shop, waiting, JobState.PAID))
    await delete(buyer, waiting)
    await cancelled(shop, buyer, waiting)
    assert (await buyer.receipt(waiting)).cost == 0


async def test_a_running_job_is_stopped(shop: Workshop, buyer: Customer) -> None:
    shop.model.script = ["so ", asyncio.Event()]
    job = await buyer.ask("a question")
    await shop.pay(buyer, job)
    await until(lambda: shop.model.running)
    await delete(buyer, job)
    await cancelled(shop, buyer, job)
    assert shop.model.stopped == 1


async def test_a_job_that_is_being_settled_is_delivered_all_the_same(
    relay: BadRelay, tmp_path: Path, buyer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with workshop(relay.url, data=tmp_path, hold=True) as shop:
        settle = shop.wallet.settle_hold

        async def away(_preimage: str) -> None:
            raise WalletError("unreachable", "no answer")

        monkeypatch.setattr(shop.wallet, "settle_hold", away)
        job = await buyer.ask("a question")
        await shop.pay(buyer, job)
        await until(lambda: known(shop, job, JobState.SETTLING))
        await delete(buyer, job)
        await shop.engine._delete(deletion(buyer.keys, job))  # even if it is heard
        monkeypatch.setattr(shop.wallet, "settle_hold", settle)
        assert (await buyer.result(job)).content == "well"


async def test_what_is_delivered_stays_delivered_and_billed(shop: Workshop, buyer: Customer) -> None:
    job = await buyer.ask("a question")
    await shop.pay(buyer, job)
    cost = (await buyer.receipt(job)).cost
    await delete(buyer, job)
    await shop.engine._delete(deletion(buyer.keys, job))
    assert await shop.state(job) is JobState.DELIVERED
    assert (await shop.balanced())["revenue"] == cost
    assert not [said for said in buyer.said(job) if said.startswith("error")]


async def test_a_deletion_by_anybody_else_does_nothing(shop: Workshop, buyer: Customer) -> None:
    heard: list[str] = []
    take, shop.engine.unpaid.delete = shop.engine.unpaid.delete, None  # type: ignore[assignment]

    async def deletion_heard(event: Event) -> None:
        heard.append(event.pubkey)
        await take(event)

    shop.engine.unpaid.delete = deletion_heard  # type: ignore[method-assign]
    shop.model.script = ["so ", asyncio.Event()]
    quoted, running = await buyer.ask("one"), await buyer.ask("another")
    await shop.pay(buyer, running)
    await buyer.quote(quoted)
    await until(lambda: shop.model.running)
    stranger = Keys.generate()
    await delete(buyer, quoted, running, keys=stranger)
    await until(lambda: stranger.pubkey in heard)
    assert await shop.state(quoted) is JobState.QUOTED
    assert await shop.state(running) is JobState.RUNNING
    assert shop.model.running
    await delete(buyer, quoted, running)
    await cancelled(shop, buyer, quoted)
    await cancelled(shop, buyer, running)


# Over breaks


async def test_what_was_deleted_while_the_relay_was_away_is_heard_afterwards(
    relay: BadRelay, shop: Workshop, buyer: Customer
) -> None:
    job = await buyer.ask("a question")
    await buyer.quote(job)
    await until(lambda: job in shop.engine.deletions._asked)
    await relay.stop()
    relay.add(deletion(buyer.keys, job))
    await relay.start()
    await cancelled(shop, buyer, job)


async def test_what_was_deleted_while_the_shop_was_closed_is_heard_at_its_start(
    shop: Workshop, buyer: Customer
) -> None:
    job = await buyer.ask("a question")
    await buyer.quote(job)
    await shop.close()
    await delete(buyer, job)
    await shop.open()
    await cancelled(shop, buyer, job)


async def test_a_deletion_is_heard_through_connections_that_are_cut(
    relay: BadRelay, shop: Workshop, buyer: Customer
) -> None:
    jobs = [await buyer.ask(f"{n}") for n in range(5)]
    for job in jobs:
        await buyer.quote(job)
    relay.faults.drop_after = 4  # messages, of each connection: the subscriptions themselves are as many
    relay.add(*(deletion(buyer.keys, job) for job in jobs))  # it pushes nothing of it either
    for job in jobs:
        await until(lambda job=job: known(shop, job, JobState.CANCELLED))  # type: ignore[misc]
    relay.faults.drop_after = None
    for job in jobs:
        await cancelled(shop, buyer, job)


# What it costs the relays


class Open:
    """Of a shop what `Deletions` asks: `jobs` are open, in the order of their coming."""

    def __init__(self, relays: RelayPool, **settings: float) -> None:
        self.jobs: list[tuple[str, int]] = []
        self.settings = replace(Settings(), **settings)
        self.relays, self.store = relays, self
        self.asked = 0

    async def cancellable(self, limit: int) -> list[tuple[str, int]]:
        self.asked += 1
        return self.jobs[::-1][:limit]

    def open(self, count: int) -> None:
        self.jobs += [(secrets.token_hex(32), NOW + len(self.jobs) + n) for n in range(count)]


@asynccontextmanager
async def listening(relay: BadRelay, **settings: float) -> AsyncIterator[tuple[Deletions, Open]]:
    async with RelayPool([relay.url], [relay.url], options=OPTIONS) as pool:
        assert await pool.wait_connected(1, 10)
        shop = Open(pool, **settings)
        deletions = Deletions(cast("Shop", shop), lambda _event, _relay: None)
        try:
            yield deletions, shop
        finally:
            deletions.close()


async def test_ten_thousand_quotes_make_no_more_requests_than_one_does(relay: BadRelay) -> None:
    every = 0.05
    assert 60 / Settings().follow_seconds <= 12  # a minute, at the default
    async with listening(relay, follow_seconds=every, sweep_seconds=1_000) as (deletions, shop):
        began = time.monotonic()
        following = asyncio.create_task(deletions.run())
        for _ in range(1_000):
            shop.open(10)
            deletions.changed()
            await asyncio.sleep(0)
        newest = {job for job, _ in shop.jobs[-MOST:]}
        await until(lambda: relay.requested and named(relay.requested[-1]) == newest)
        rounds = (time.monotonic() - began) / every + 1
        assert relay.received["REQ"] + relay.received["CLOSE"] <= rounds
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    for request in relay.requested:
        assert len(request) <= MOST / CHUNK
        assert all(len(each["#e"]) <= CHUNK and each["kinds"] == [5] for each in request)
        assert len(json.dumps(["REQ", "s" * 64, *request])) < 65_536


async def test_what_ends_is_taken_out_seldom_and_without_haste(relay: BadRelay) -> None:
    async with listening(relay, sweep_seconds=1_000) as (deletions, shop):
        shop.open(10)
        await deletions.refresh()
        await until(lambda: relay.received["REQ"] == 1)
        for _ in range(5):
            del shop.jobs[0]
            await deletions.refresh()
        assert len(deletions._asked) == 10
        del shop.jobs[0]  # more than half of them have ended
        await deletions.refresh()
        await until(lambda: relay.received["REQ"] == 2)
        assert named(relay.requested[-1]) == {job for job, _ in shop.jobs}
        shop.jobs.clear()
        await deletions.refresh()
        await until(lambda: relay.received["CLOSE"] == 1)
        assert relay.received["REQ"] == 2
        await deletions.refresh()
        shop.open(1)
        await deletions.refresh()
        await until(lambda: relay.received["REQ"] == 3)


async def test_each_is_asked_for_from_before_it_came(relay: BadRelay) -> None:
    """A deletion is no older than its job, by the customer's clock, which may be ten minutes behind."""
    async with listening(relay, sweep_seconds=1_000) as (deletions, shop):
        shop.open(CHUNK + 1)
        await deletions.refresh()
        await until(lambda: relay.requested)
        older, newer = sorted(relay.requested[-1], key=lambda each: each["since"])
        assert (len(older["#e"]), older["since"]) == (CHUNK, NOW - 600)
        assert (len(newer["#e"]), newer["since"]) == (1, NOW + CHUNK - 600)


async def test_what_was_heard_before_says_nothing_of_a_job_that_has_come_since(relay: BadRelay) -> None:
    async with listening(relay, sweep_seconds=1_000) as (deletions, shop):
        shop.open(1)
        await deletions.refresh()
        await until(lambda: relay.requested)
        await relay.push(deletion(Keys.generate(), shop.jobs[0][0]))
        await until(lambda: subscription(deletions)._feeds[0].resume_at() is not None)
        shop.open(1)
        await deletions.refresh()
        await until(lambda: len(relay.requested) == 2)
        assert relay.requested[-1][0]["since"] == NOW - 600


async def test_a_relay_that_gives_us_no_such_subscription_is_not_asked_again_and_again(relay: BadRelay) -> None:
    relay.faults.closed = "restricted: no"
    async with listening(relay, sweep_seconds=1_000) as (deletions, shop):
        for _ in range(5):
            shop.open(1)
            await deletions.refresh()
            await until(lambda: not relay.faults.closed or relay.received["REQ"])
            await until(lambda: all(feed._ended for feed in subscription(deletions)._feeds))
        assert relay.received["REQ"] == 1


def subscription(of: Deletions) -> Subscription:
    assert of._subscription is not None
    return of._subscription


def deletion(keys: Keys, *jobs: str) -> Event:
    return keys.sign(5, [["e", job] for job in jobs], "", int(time.time()))


def named(request: list[dict[str, Any]]) -> set[str]:
    return {job for each in request for job in each["#e"]}
