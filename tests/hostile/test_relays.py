"""A shop on three relays of which one is healthy: whatever the others do, no job is lost, doubled or held up."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from dvm.nip90 import request_draft
from dvm.nostr.keys import Keys
from tests.standins.bad_relay import BadRelay, bad_relay, bad_signature, forgeries_first, other_content, wrong_id
from tests.standins.customer import KIND, Customer, customer
from tests.standins.relay import local_relay
from tests.standins.waiting import until
from tests.standins.workshop import Workshop, workshop

NEVER = 3600.0  # longer than any test: what is done meanwhile was not held up
FAULTS: dict[str, dict[str, Any]] = {
    "refuses connections": {"refuse": True},
    "never answers the handshake": {"mute_handshake": True},
    "breaks each connection": {"drop_after": 1},
    "breaks at random": {"drop_chance": 0.3},
    "answers an hour late": {"delay": NEVER},
    "sends garbage": {"garbage": True},
    "sends ten megabytes": {"oversize": 10 << 20},
    "never says EOSE": {"eose": False},
    "never says OK": {"ok": False},
    "pushes nothing": {"broadcast": False},
    "forgets everything": {"store": False},
    "rejects every event": {"reject": "blocked: not here"},
    "limits the rate": {"reject": "rate-limited: slow down"},
    "closes every subscription": {"closed": "error: no"},
    "sends each event a thousand times": {"copies": 1000},
    "forges signatures": {"forge": bad_signature},
    "forges words": {"forge": other_content},
    "forges ids": {"forge": wrong_id},
    "sends forgeries first": {"forge": forgeries_first},
    "ignores filters": {"ignore_filters": True},
    "refuses authentication": {"auth": True, "auth_refuse": "restricted: not you"},
}


async def sells(shop: Workshop, buyer: Customer, already: int = 0) -> None:
    """A job paid by invoice and one paid by the change, each answered once; the books balance."""
    first = await buyer.ask("a", params=[("max_tokens", "200")])
    paid = await shop.pay(buyer, first)
    await buyer.receipt(first)
    second = await buyer.ask("b", params=[("max_tokens", "100")])
    await buyer.receipt(second)
    for job in (first, second):
        assert (await buyer.result(job)).content == "well"
        assert len(buyer.results(job)) == 1
    assert buyer.check_chain(paid) == (await shop.store.balance(buyer.keys.pubkey)).available
    assert len(shop.model.prompts) == already + 2
    await shop.balanced()


@pytest.mark.parametrize("fault", FAULTS)
async def test_with_one_of_three_relays_healthy_every_job_is_done_once(fault: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        healthy = await stack.enter_async_context(local_relay())
        bad = [await stack.enter_async_context(bad_relay(**FAULTS[fault])) for _ in range(2)]
        urls = (bad[0].url, healthy, bad[1].url)
        shop = await stack.enter_async_context(workshop(*urls, data=tmp_path))
        buyer = await stack.enter_async_context(customer(*urls))
        await sells(shop, buyer)


async def test_a_job_is_not_held_up_by_relays_that_are_slow(tmp_path: Path) -> None:
    """Done on the healthy relay before the slow ones have so much as answered."""
    async with AsyncExitStack() as stack:
        healthy = await stack.enter_async_context(local_relay())
        slow = [await stack.enter_async_context(bad_relay()) for _ in range(2)]
        urls = (slow[0].url, healthy, slow[1].url)
        shop = await stack.enter_async_context(workshop(*urls, data=tmp_path))
        buyer = await stack.enter_async_context(customer(*urls))
        await shop.pool.wait_connected(3, 10)
        alone = time.perf_counter()
        await sells(shop, buyer)
        alone = time.perf_counter() - alone
        for each in slow:
            each.faults.delay = max(1.0, 5 * alone)
        other = await stack.enter_async_context(customer(healthy))
        beside = time.perf_counter()
        await sells(shop, other, already=2)
        beside = time.perf_counter() - beside
        assert beside < slow[0].faults.delay


async def test_relays_that_turn_bad_while_jobs_run_lose_none(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        healthy = await stack.enter_async_context(local_relay())
        bad = [await stack.enter_async_context(bad_relay()) for _ in range(2)]
        urls = (bad[0].url, healthy, bad[1].url)
        shop = await stack.enter_async_context(workshop(*urls, data=tmp_path))
        buyer = await stack.enter_async_context(customer(*urls))
        done = 0
        for change in ({"reject": "error: disk full"}, {"ok": False}, {"eose": False}, {"garbage": True}, {}):
            for each in bad:
                for name, value in change.items():
                    setattr(each.faults, name, value)
                each.drop()
            await sells_more(shop, buyer)
            done += 1
        await bad[0].stop()
        await sells_more(shop, buyer)
        assert len(shop.model.prompts) == done + 1
        buyer.check_chain()


async def sells_more(shop: Workshop, buyer: Customer) -> None:
    """One job, paid by whatever the shop asks for."""
    job = await buyer.ask(f"question {time.monotonic_ns()}", params=[("max_tokens", "100")])
    await buyer.until(job, lambda event: event.tag("status") in ("payment-required", "processing", "success"))
    if any(event.tag("amount") for event in buyer.heard[job] if event.kind == 7000):
        await shop.pay(buyer, job)
    await buyer.receipt(job)
    assert len(buyer.results(job)) == 1


async def test_an_event_of_ten_megabytes_costs_neither_memory_nor_the_jobs_beside_it(tmp_path: Path) -> None:
    async with (
        bad_relay() as relay,
        customer(relay.url) as buyer,
        workshop(relay.url, data=tmp_path, sweep_seconds=60) as shop,
    ):
        stranger = Keys.generate()
        huge = request_draft(KIND, ["x" * (10 << 20)], keys=stranger).sign(stranger, int(time.time()))
        large = request_draft(KIND, ["x" * (1 << 20)], keys=stranger).sign(stranger, int(time.time()))
        relay.add(huge, large)
        for event in (large, huge):
            await relay.push(event)
        # A relay that passes on such an event is left and asked again from then on.
        await until(lambda: any(asked[0].get("since", 0) > huge.created_at for asked in relay.requested[-3:]))
        await sells(shop, buyer)
        assert await shop.store.job(huge.id) is None
        assert await shop.store.job(large.id) is None
        # The second may end the connection before the first is looked at.
        assert sum(status.counters["oversized"] for status in shop.pool.status()) >= 1


async def test_a_result_that_every_relay_rejects_waits_until_one_takes_it(tmp_path: Path) -> None:
    async with bad_relay() as relay, customer(relay.url) as buyer, workshop(relay.url, data=tmp_path) as shop:
        job = await buyer.ask("a")
        quote = await buyer.quote(job)
        relay.faults.reject = "rate-limited: slow down"
        shop.node.pay(quote.bolt11 or "")
        await until(lambda: shop.engine.outbox.refused or relay.received["EVENT"] > 3)
        assert buyer.results(job) == set()
        relay.faults.reject = None
        await buyer.result(job, 30)
        await buyer.receipt(job, 30)
        assert len(buyer.results(job)) == 1


async def copies_of(relay: BadRelay, shop: Workshop) -> int:
    return sum(status.counters["duplicates"] for status in shop.pool.status() if status.url == relay.url)


async def test_the_same_event_a_thousand_times_is_one_job(tmp_path: Path) -> None:
    async with bad_relay() as relay, customer(relay.url) as buyer, workshop(relay.url, data=tmp_path) as shop:
        request = request_draft(KIND, ["a"], keys=buyer.keys).sign(buyer.keys, int(time.time()))
        await buyer.send(request)
        for _ in range(999):
            await relay.push(request)
        await shop.pay(buyer, request.id)
        await buyer.receipt(request.id)
        assert len(buyer.results(request.id)) == 1
        assert len(shop.model.prompts) == 1
        assert await copies_of(relay, shop) >= 999
