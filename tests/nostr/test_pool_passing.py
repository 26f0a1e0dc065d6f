"""The relays that customers name: used when needed, few at a time, and never an address in our own network."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from dvm.nostr import Keys, PoolOptions
from tests.nostr.many_relays import pool_of
from tests.standins.bad_relay import bad_relay
from tests.standins.waiting import until


async def test_a_customers_relay_gets_the_answer_and_is_closed_when_idle(keys: Keys, quick_pool: PoolOptions) -> None:
    options = replace(quick_pool, passing_idle=0.2)
    async with bad_relay() as own, bad_relay() as theirs, pool_of(options, own.url) as pool:
        event = keys.sign(6050)
        await pool.publish(event, relays=[theirs.url])
        await until(lambda: event.id in theirs.stored and event.id in own.stored)
        await until(lambda: not theirs.clients)
        assert [status.url for status in pool.status()] == [own.url]
        again = keys.sign(6050, content="again")
        await pool.publish(again, relays=[theirs.url])
        await until(lambda: again.id in theirs.stored)
        assert theirs.connections == 2


async def test_a_customers_dead_relay_delays_nobody_and_is_left_alone(keys: Keys, quick_pool: PoolOptions) -> None:
    async with bad_relay(refuse=True) as theirs, bad_relay() as own, pool_of(quick_pool, own.url) as pool:
        published = await pool.publish(keys.sign(1), relays=[theirs.url])
        assert published.accepted == [own.url]
        await until(lambda: theirs.url in published.failed)
        theirs.faults.refuse = False
        published = await pool.publish(keys.sign(1, content="again"), relays=[theirs.url])
        assert "a short while ago" in published.failed[theirs.url]
        assert theirs.connections == 0


async def test_no_more_than_so_many_of_a_customers_relays_are_used(keys: Keys, quick_pool: PoolOptions) -> None:
    options = replace(quick_pool, passing_per_event=2, passing_total=3)
    async with AsyncExitStack() as stack:
        theirs = [await stack.enter_async_context(bad_relay(ok=False)) for _ in range(6)]
        urls = [server.url for server in theirs]
        pool = await stack.enter_async_context(pool_of(options))
        first = asyncio.create_task(pool.publish(keys.sign(1), relays=urls[:4]))
        await until(lambda: theirs[0].received["EVENT"] and theirs[1].received["EVENT"])
        second = asyncio.create_task(pool.publish(keys.sign(1, content="2"), relays=urls[4:]))
        await until(lambda: theirs[4].received["EVENT"])
        assert len(pool.status()) == 3  # none of the three may be evicted while an event waits there
        assert [server.connections for server in theirs] == [1, 1, 0, 0, 1, 0]
        await pool.close()
        assert set((await first).failed) == set(urls[:4])
        assert set((await second).failed) == set(urls[4:])


async def test_an_idle_connection_makes_room_for_a_new_one(keys: Keys, quick_pool: PoolOptions) -> None:
    options = replace(quick_pool, passing_total=1)
    async with bad_relay() as one, bad_relay() as two, pool_of(options) as pool:
        assert await pool.publish(keys.sign(1), relays=[one.url])
        assert await pool.publish(keys.sign(1), relays=[two.url])
        await until(lambda: not one.clients)
        assert [status.url for status in pool.status()] == [two.url]


@pytest.mark.parametrize(
    "url",
    [
        "http://relay.example",
        "ws://user:word@127.0.0.1:{port}",
        "ws://127.0.0.1:{port}",
        "ws://localhost:{port}",
        "ws://[::1]:{port}",
        "ws://[::ffff:127.0.0.1]:{port}",
        "ws://2130706433:{port}",
        "ws://0x7f.1:{port}",
        "ws://0.0.0.0:{port}",
        "ws://127.0.0.1:{port}/\r\nHost: x",
        "",
        "ws://",
        "ws://[::1",
    ],
)
async def test_private_and_malformed_addresses_are_refused_and_never_knocked_at(
    url: str, keys: Keys, quick_pool: PoolOptions
) -> None:
    knocks = 0

    def knocked(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal knocks
        knocks += 1
        writer.close()

    server = await asyncio.start_server(knocked, "127.0.0.1", 0)
    async with pool_of(replace(quick_pool, allow_private=False)) as pool:
        url = url.replace("{port}", str(server.sockets[0].getsockname()[1]))
        published = await pool.publish(keys.sign(1), relays=[url])
        assert not published
        assert len(published.failed) == 1
        assert knocks == 0
    server.close()


async def test_a_name_that_leads_to_a_private_address_is_refused(
    keys: Keys, quick_pool: PoolOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "socket.getaddrinfo",
        lambda host, port, **_: [
            (2, 1, 6, "", ("8.8.8.8", port)),
            (2, 1, 6, "", ("10.0.0.1", port)),
        ],
    )
    async with pool_of(replace(quick_pool, allow_private=False)) as pool:
        published = await pool.publish(keys.sign(1), relays=["wss://relay.example"])
        assert "not a public address" in published.failed["wss://relay.example"]


async def test_the_connection_goes_to_the_checked_address_under_the_urls_name(
    keys: Keys, quick_pool: PoolOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    async with bad_relay() as server, pool_of(quick_pool) as pool:
        monkeypatch.setattr("socket.getaddrinfo", resolve)
        assert await pool.publish(keys.sign(1), relays=[f"ws://relay.example:{server.port}"])
        assert asked == ["relay.example"]  # once: what was checked is what is used
        (client,) = server.clients
        assert client.socket.request is not None
        assert client.socket.request.headers["Host"] == f"relay.example:{server.port}"
