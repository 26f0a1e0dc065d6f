"""After a break no event is missed: a subscription goes on where it was, and sweeps find what was dropped."""

from __future__ import annotations

import time

from dvm.nostr import Keys, PoolOptions
from tests.nostr.many_relays import JOBS, Inbox, pool_of
from tests.standins import bad_relay as faulty
from tests.standins.bad_relay import bad_relay
from tests.standins.waiting import until


async def test_after_a_break_it_goes_on_from_the_last_event_less_the_overlap(
    keys: Keys, quick_pool: PoolOptions
) -> None:
    async with bad_relay() as server, pool_of(quick_pool, server.url) as pool:
        inbox, now = Inbox(), int(time.time())
        pool.subscribe(JOBS, inbox, since=now - 1000, overlap=30)
        await until(lambda: server.received["REQ"])
        assert server.requested[-1][0]["since"] == now - 1000
        await server.push(keys.sign(5050, created_at=now - 100))
        await until(lambda: inbox.events)
        server.drop()
        missed = keys.sign(5050, content="missed", created_at=now - 110)
        server.add(missed)
        await until(lambda: missed.id in inbox.ids)
        assert server.requested[-1][0]["since"] == now - 130


async def test_an_event_from_the_future_does_not_push_the_resumption_ahead(keys: Keys, quick_pool: PoolOptions) -> None:
    async with bad_relay() as server, pool_of(quick_pool, server.url) as pool:
        inbox, now = Inbox(), int(time.time())
        pool.subscribe(JOBS, inbox, since=now - 1000)
        await until(lambda: server.received["REQ"])
        await server.push(keys.sign(5050, created_at=now + 10**6))
        await until(lambda: inbox.events)
        server.drop()
        await until(lambda: server.received["REQ"] == 2)
        assert server.requested[-1][0]["since"] <= time.time() - 30


async def test_a_forged_event_does_not_move_the_resumption(keys: Keys, quick_pool: PoolOptions) -> None:
    async with bad_relay(forge=faulty.bad_signature) as server, pool_of(quick_pool, server.url) as pool:
        now = int(time.time())
        pool.subscribe(JOBS, Inbox(), since=now - 1000)
        await until(lambda: server.received["REQ"])
        await server.push(keys.sign(5050, created_at=now))
        await until(lambda: pool.status()[0].counters["forged"])
        server.add(keys.sign(5050, created_at=now - 900))
        server.drop()
        await until(lambda: server.received["REQ"] == 2)
        assert server.requested[-1][0]["since"] <= now - 30  # the first, empty answer; not the forgery's time


async def test_the_sweep_finds_what_the_push_has_dropped(keys: Keys, quick_pool: PoolOptions) -> None:
    async with bad_relay(broadcast=False) as server, pool_of(quick_pool, server.url) as pool:
        inbox = Inbox()
        pool.subscribe(JOBS, inbox, since=int(time.time()) - 60, sweep=0.05)
        await until(lambda: server.received["REQ"])
        event = keys.sign(5050)
        await pool.publish(event)
        await until(lambda: event.id in inbox.ids)


async def test_the_sweep_pages_past_a_relays_limit(keys: Keys, quick_pool: PoolOptions) -> None:
    async with bad_relay(max_limit=100, broadcast=False) as server, pool_of(quick_pool, server.url) as pool:
        now = int(time.time())
        events = [keys.sign(5050, content=str(n), created_at=now - n) for n in range(450)]
        server.add(*events)
        inbox = Inbox()
        pool.subscribe(JOBS, inbox, since=now - 1000, sweep=3600)
        await until(lambda: len(inbox.ids) == 450)
        assert set(inbox.ids) == {event.id for event in events}


async def test_a_second_that_holds_more_than_a_relay_gives_does_not_hide_what_is_older(
    keys: Keys, quick_pool: PoolOptions
) -> None:
    async with bad_relay(max_limit=100, broadcast=False) as server, pool_of(quick_pool, server.url) as pool:
        now = int(time.time())
        crowd = [keys.sign(5050, content=str(n), created_at=now - 5) for n in range(150)]
        older = [keys.sign(5050, content=f"older {n}", created_at=now - 60 - n) for n in range(5)]
        server.add(*crowd, *older)
        inbox = Inbox()
        pool.subscribe(JOBS, inbox, since=now - 1000, sweep=3600)
        await until(lambda: {event.id for event in older} <= set(inbox.ids))
