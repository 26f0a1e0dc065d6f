"""Many relays as one: the quickest decides, the faulty delay nobody, no event is lost, doubled or forged."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from dvm.nostr import AddressRefused, Event, Filter, Keys, PoolOptions, RelayPool
from tests.nostr.many_relays import JOBS, Inbox, pool_of
from tests.standins import bad_relay as faulty
from tests.standins.bad_relay import BadRelay, bad_relay
from tests.standins.relay import free_port, local_relay, running_relay
from tests.standins.waiting import until

FAULTS: dict[str, dict[str, Any]] = {
    "refuses": {"refuse": True},
    "never answers the handshake": {"mute_handshake": True},
    "drops the connection": {"drop_after": 1},
    "breaks at random": {"drop_chance": 0.5},
    "answers late": {"delay": 30.0},
    "sends garbage": {"garbage": True},
    "forges signatures": {"forge": faulty.bad_signature},
    "forges contents": {"forge": faulty.other_content},
    "forges ids": {"forge": faulty.wrong_id},
    "says everything a thousand times": {"copies": 1000},
    "never sends EOSE": {"eose": False},
    "never says OK": {"ok": False},
    "rejects": {"reject": "blocked: no"},
    "limits the rate": {"reject": "rate-limited: later", "closed": "rate-limited: later"},
    "restricts": {"reject": "restricted: no", "closed": "restricted: no"},
    "demands authentication and refuses it": {"auth": True, "auth_refuse": "restricted: no"},
    "sends frames past all limits": {"oversize": 5 << 20},
    "sends what nobody asked for": {"ignore_filters": True},
}


async def test_one_event_over_two_relays_arrives_once(keys: Keys, quick_pool: PoolOptions) -> None:
    async with local_relay() as one, local_relay() as two, pool_of(quick_pool, one, two) as pool:
        assert await pool.wait_connected(2, timeout=10)
        inbox = Inbox()
        pool.subscribe(JOBS, inbox)
        event, last = keys.sign(5050, content="both"), keys.sign(5050, content="last")
        published = await pool.publish(event)
        await until(lambda: len(published.accepted) == 2)
        published = await pool.publish(last)
        await until(lambda: sum(s.counters["duplicates"] for s in pool.status()) == 2)
        assert sorted(inbox.ids) == sorted([event.id, last.id])


@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_with_one_of_three_relays_healthy_no_job_is_lost_or_delayed(
    fault: str, keys: Keys, quick_pool: PoolOptions
) -> None:
    """Both faulty relays' own time-outs are 60 s: whoever waited for them would fail here."""
    async with AsyncExitStack() as stack:
        bad = [await stack.enter_async_context(bad_relay(**FAULTS[fault])) for _ in range(2)]
        good = await stack.enter_async_context(local_relay())
        options = replace(quick_pool, relay=replace(quick_pool.relay, connect_timeout=60.0))
        pool = await stack.enter_async_context(pool_of(options, bad[0].url, good, bad[1].url, keys=keys))
        inbox = Inbox()
        pool.subscribe(JOBS, inbox)
        assert await pool.wait_connected(1, timeout=20)
        customer = Keys.generate()
        jobs = [customer.sign(5050, content=f"job {n}") for n in range(20)]
        async with pool_of(options, good) as buyer:
            await asyncio.gather(*(buyer.publish(job, timeout=20) for job in jobs))
        await until(lambda: set(inbox.ids) >= {job.id for job in jobs})
        async with asyncio.timeout(20):
            for job in jobs:
                assert await pool.publish(keys.sign(6050, [["e", job.id]]), timeout=60)
            results = await pool.query(Filter(kinds=[6050]), timeout=60)
        assert len(inbox.ids) == len(set(inbox.ids))
        assert {event.tag("e") for event in results} == {job.id for job in jobs}
        assert all(event.verify() for event in (*inbox.events, *results))


async def test_a_forged_copy_does_not_shadow_the_event(keys: Keys, quick_pool: PoolOptions) -> None:
    async with bad_relay(forge=faulty.forgeries_first) as server, pool_of(quick_pool, server.url) as pool:
        inbox = Inbox()
        pool.subscribe(JOBS, inbox)
        event = keys.sign(5050, content="real")
        server.add(event)
        await until(lambda: inbox.events)
        assert [e.to_json() for e in inbox.events] == [event.to_json()]


async def test_a_thousand_copies_cost_one_verification(
    keys: Keys, quick_pool: PoolOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = 0
    verify = Event.verify

    def counting(self: Event) -> bool:
        nonlocal verified
        verified += 1
        return verify(self)

    async with bad_relay(copies=1000) as server, pool_of(quick_pool, server.url) as pool:
        inbox = Inbox()
        pool.subscribe(JOBS, inbox)
        event = keys.sign(5050)
        await until(lambda: server.received["REQ"])
        monkeypatch.setattr(Event, "verify", counting)
        await server.push(event)
        await until(lambda: pool.status()[0].counters["duplicates"] == 999)
        assert (verified, inbox.ids) == (1, [event.id])


async def test_a_handler_that_raises_does_not_end_the_reading(
    keys: Keys, quick_pool: PoolOptions, caplog: pytest.LogCaptureFixture
) -> None:
    async with local_relay() as url, pool_of(quick_pool, url) as pool:
        inbox = Inbox()

        def handler(event: Event, url: str) -> None:
            inbox(event, url)
            raise KeyError("a bug of ours")

        pool.subscribe(JOBS, handler)
        for n in range(3):
            await pool.publish(keys.sign(5050, content=str(n)))
        await until(lambda: len(inbox.events) == 3)
        assert any(record.levelno == logging.ERROR for record in caplog.records)
        assert pool.status()[0].counters["connections"] == 1


async def test_a_closed_subscription_brings_nothing_more(keys: Keys, quick_pool: PoolOptions) -> None:
    async with bad_relay() as server, pool_of(quick_pool, server.url) as pool:
        inbox, other = Inbox(), Inbox()
        subscription = pool.subscribe(JOBS, inbox, sweep=0.05)
        pool.subscribe(JOBS, other)
        await until(lambda: server.received["REQ"] >= 2)
        subscription.close()
        await server.push(keys.sign(5050))
        await until(lambda: other.events)
        assert inbox.events == []
        await until(lambda: server.received["CLOSE"])


async def test_it_starts_without_any_relay_and_connects_when_one_comes(keys: Keys, quick_pool: PoolOptions) -> None:
    async with running_relay() as server:
        await server.stop()
        async with pool_of(quick_pool, server.url) as pool:
            assert not await pool.wait_connected(1, timeout=0.05)
            await server.start()
            assert await pool.wait_connected(1, timeout=10)


async def test_publishing_to_dead_relays_reports_each(keys: Keys, quick_pool: PoolOptions) -> None:
    urls = [f"ws://127.0.0.1:{free_port()}" for _ in range(2)]
    async with pool_of(quick_pool, *urls) as pool:
        published = await pool.publish(keys.sign(1), timeout=0.1)
        assert not published
        assert set(published.failed) == set(urls)


async def test_a_relay_is_one_connection_however_its_url_is_written(keys: Keys, quick_pool: PoolOptions) -> None:
    async with bad_relay() as server:
        shouted = server.url.replace("ws://", "WS://") + "/"
        async with RelayPool([server.url, shouted], [shouted], options=quick_pool) as pool:
            published = await pool.publish(keys.sign(1), relays=[server.url, shouted, server.url + "//"])
            assert published.accepted == [server.url]
            assert server.connections == 1
            assert len(pool.status()) == 1


async def test_a_query_asks_all_and_waits_for_none_that_is_silent(keys: Keys, quick_pool: PoolOptions) -> None:
    one, two = keys.sign(1, content="1", created_at=1000), keys.sign(1, content="2", created_at=2000)
    async with bad_relay() as a, bad_relay() as b, bad_relay(eose=False) as c:
        a.add(one, two)
        b.add(two)
        async with pool_of(quick_pool, a.url, b.url, c.url) as pool:
            await pool.wait_connected(3, timeout=10)
            async with asyncio.timeout(20):
                assert await pool.query(Filter(kinds=[1]), timeout=60) == [two, one]
                assert await pool.query(Filter(ids=[one.id]), timeout=60) == [one]
                assert await pool.query(Filter(kinds=[1]), relays=[b.url], timeout=60) == [two]
            assert not any(relay.busy for relay in pool._relays.values())


async def test_a_query_for_ids_ends_when_they_are_found(keys: Keys, quick_pool: PoolOptions) -> None:
    event = keys.sign(1)
    async with bad_relay(eose=False) as server, pool_of(quick_pool, server.url) as pool:
        server.add(event)
        async with asyncio.timeout(20):
            assert await pool.query(Filter(ids=[event.id]), timeout=60) == [event]


async def test_closing_ends_everything(keys: Keys, quick_pool: PoolOptions) -> None:
    async with bad_relay(ok=False) as server:
        before = asyncio.all_tasks()
        pool = RelayPool([server.url], [server.url], options=quick_pool)
        pool.start()
        pool.subscribe(JOBS, Inbox(), sweep=0.01)
        publishing = asyncio.create_task(pool.publish(keys.sign(1), timeout=60))
        await until(lambda: server.received["EVENT"])
        await pool.close()
        assert not await publishing
        await until(lambda: not [t for t in asyncio.all_tasks() - before if "relay ws" in t.get_name()])
        assert not [t for t in asyncio.all_tasks() - before if t.get_name().startswith("sweep")]


def test_a_bad_url_of_ours_is_said_at_once() -> None:
    with pytest.raises(AddressRefused, match="ws:// or wss://"):
        RelayPool(["https://relay.example"], [])


def test_faults_are_complete() -> None:
    assert {name for faults in FAULTS.values() for name in faults} <= set(vars(BadRelay().faults))


async def test_a_relays_limits_are_learnt_and_kept(keys: Keys, quick_pool: PoolOptions) -> None:
    document = {"limitation": {"max_message_length": 20_000, "max_limit": 100}}
    options = replace(quick_pool, learn_limits=True)
    async with (
        bad_relay(document=document, max_limit=100) as small,
        bad_relay() as silent,
        pool_of(options, small.url, silent.url) as pool,
    ):
        assert pool.max_event_bytes == 65_536
        await until(lambda: pool.max_event_bytes == 20_000)
        event = keys.sign(1, content="x" * 30_000)
        published = await pool.publish(event)
        await until(lambda: published.accepted and published.failed)
        assert published.accepted == [silent.url]
        assert "20000 bytes" in published.failed[small.url]
        assert small.received["EVENT"] == 0  # it is not even sent
        pool.subscribe(JOBS, Inbox(), since=0, sweep=0.05)
        await until(lambda: any(asked[0].get("limit") for asked in small.requested))
        assert {asked[0]["limit"] for asked in small.requested if "limit" in asked[0]} == {100}


async def test_what_a_relay_says_of_itself_does_not_make_us_mute(keys: Keys, quick_pool: PoolOptions) -> None:
    async with (
        bad_relay(document={"limitation": {"max_message_length": 1}}) as absurd,
        pool_of(replace(quick_pool, learn_limits=True), absurd.url) as pool,
    ):
        await until(lambda: pool.max_event_bytes != 65_536)
        assert pool.max_event_bytes == 16_384
