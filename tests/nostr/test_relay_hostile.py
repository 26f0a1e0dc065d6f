"""A relay that lies, floods, hangs up or reads nothing: it costs little, and what breaks comes back."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from websockets.http11 import Request as HttpRequest
from websockets.server import ServerProtocol

from dvm.nostr import Filter, Keys, Relay, RelayOptions
from tests.nostr.one_relay import Inbox, connection
from tests.standins.bad_relay import GARBAGE, bad_relay, forgeries_first
from tests.standins.relay import running_relay
from tests.standins.waiting import until


async def test_garbage_is_counted_and_ignored(keys: Keys, quick: RelayOptions) -> None:
    async with bad_relay(garbage=True) as server, connection(server.url, quick) as relay:
        inbox = Inbox(relay, Filter(kinds=[1]))
        event = keys.sign(1)
        await relay.publish(event)
        await until(lambda: event.id in inbox.ids)
        counters = relay.counters
        assert counters.connections == 1
        assert counters.garbage + counters.unasked >= 2 * (len(GARBAGE) - 1)


async def test_forged_events_are_no_answer(keys: Keys, quick: RelayOptions) -> None:
    async with bad_relay(forge=forgeries_first) as server, connection(server.url, quick) as relay:
        event = keys.sign(1)
        server.add(event)
        found = await relay.query([Filter(kinds=[1])])
        assert [e.to_json() for e in found] == [event.to_json()]
        assert relay.counters.forged == 3


async def test_events_that_were_not_asked_for_are_dropped(keys: Keys, quick: RelayOptions) -> None:
    async with bad_relay(ignore_filters=True) as server, connection(server.url, quick) as relay:
        server.add(keys.sign(1), keys.sign(3))
        assert [e.kind for e in await relay.query([Filter(kinds=[3])])] == [3]
        assert relay.counters.unmatched == 1


async def test_a_frame_that_is_too_large_is_skipped_and_the_connection_kept(keys: Keys, quick: RelayOptions) -> None:
    options = replace(quick, event_bytes=10_000)
    async with bad_relay(oversize=50_000) as server, connection(server.url, options) as relay:
        await relay.publish(keys.sign(1))
        assert (relay.counters.oversized, relay.counters.notices, server.connections) == (1, 0, 1)


async def test_a_frame_past_all_limits_ends_the_connection_but_not_in_a_hot_loop(
    keys: Keys, quick: RelayOptions
) -> None:
    options = replace(quick, event_bytes=1000, frame_bytes=10_000, stable=0.0, min_backoff=0.05, max_backoff=60)
    async with bad_relay() as server, connection(server.url, options) as relay:
        giant = keys.sign(1, content="x" * 20_000)
        server.add(giant)
        inbox = Inbox(relay, Filter(kinds=[1]))
        await until(lambda: relay.counters.oversized and inbox.ends)
        # What is stored would end each connection anew, so the subscription goes on from now.
        assert server.requested[-1][0]["since"] >= giant.created_at
        small = keys.sign(1, content="small", created_at=int(time.time()) + 1)
        await server.push(small)
        await until(lambda: small.id in inbox.ids)


async def test_a_relay_that_hangs_up_at_once_is_not_called_in_a_hot_loop(quick: RelayOptions) -> None:
    options = replace(quick, min_backoff=0.02, max_backoff=100.0, stable=50.0)
    async with bad_relay(drop_after=1) as server, connection(server.url, options) as relay:
        Inbox(relay, Filter(kinds=[1]))
        await until(lambda: server.connections >= 3)
        at = asyncio.get_running_loop().time()
        await until(lambda: server.connections >= 6)
        # Each pause is at least the smallest one, and they grow.
        assert asyncio.get_running_loop().time() - at >= 3 * 0.02


@pytest.mark.parametrize("fault", ["refuse", "mute_handshake"])
async def test_a_relay_that_refuses_is_tried_until_it_does_not(fault: str, keys: Keys, quick: RelayOptions) -> None:
    options = replace(quick, connect_timeout=0.5)
    async with bad_relay(**{fault: True}) as server, connection(server.url, options) as relay:
        await until(lambda: relay.counters.failures >= 2)
        assert relay.last_error
        setattr(server.faults, fault, False)
        await relay.publish(keys.sign(1))
        assert relay.last_error is None


async def test_breaks_at_random_lose_nothing(keys: Keys, quick: RelayOptions) -> None:
    async with bad_relay(drop_chance=0.2) as server, connection(server.url, quick) as relay:
        events = [keys.sign(1, content=str(n)) for n in range(60)]
        await asyncio.gather(*(relay.publish(event, timeout=30) for event in events))
        assert {event.id for event in events} <= server.stored.keys()
        assert server.connections > 1


@pytest.mark.parametrize("send_buffer", [1 << 20, 64 << 20], ids=["more than it takes", "less than it takes"])
async def test_a_relay_that_reads_nothing_fills_no_memory_and_is_dropped(
    send_buffer: int, keys: Keys, quick: RelayOptions
) -> None:
    release = asyncio.Event()

    async def never_reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = ServerProtocol()
        protocol.receive_data(await reader.readuntil(b"\r\n\r\n"))
        (request,) = protocol.events_received()
        assert isinstance(request, HttpRequest)
        protocol.send_response(protocol.accept(request))
        writer.writelines(protocol.data_to_send())
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        with suppress(asyncio.CancelledError):
            await release.wait()
        writer.transport.abort()

    server = await asyncio.start_server(never_reads, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with connection(url, replace(quick, send_buffer=send_buffer, ping_interval=0.2, ping_timeout=0.2)) as relay:
        await until(lambda: relay.connected)
        transport = relay._connection.transport  # type: ignore[union-attr]
        frame = f'["EVENT",{keys.sign(1, content="x" * 100_000).to_json()}]'
        failed: list[str | None] = []
        for n in range(300):
            relay.post(f"{n:064x}", frame, 60.0, failed.append)
            assert transport.get_write_buffer_size() < send_buffer + 300_000
        await until(lambda: relay.counters.failures)
    assert len(failed) == 300
    release.set()
    server.close()


async def test_a_relay_cannot_fill_the_log(quick: RelayOptions, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="dvm.nostr")
    async with bad_relay() as server, connection(server.url, quick) as relay:
        await until(lambda: server.clients)
        for _ in range(500):
            await server.clients.copy().pop().socket.send(json.dumps(["NOTICE", "spam\x1b[31m\nspam"]))
        await until(lambda: relay.counters.notices == 500)
    assert len(caplog.records) <= 2
    assert "\x1b" not in caplog.text


async def test_the_log_says_when_a_relay_is_away_and_when_it_is_back(
    quick: RelayOptions, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="dvm.nostr")
    async with running_relay() as server:
        relay = Relay(server.url, options=quick, name="wallet")
        relay.start()
        await until(lambda: relay.connected)
        for _ in range(3):  # within a minute: the first time counts
            await server.stop()
            relay.counters.failures = 0
            await until(lambda: relay.counters.failures > 2)
            await server.start()
            await until(lambda: relay.connected)
        await relay.close()
    said = [(each.levelname, each.message) for each in caplog.records]
    connected = ("INFO", "relay connected")
    lost = [("INFO", "relay lost: connecting again")] * (len(said) == 4)  # it depends on how it was lost
    assert said == [connected, *lost, ("WARNING", "relay away: trying again"), connected]
    assert all((vars(each)["relay"], vars(each)["use"]) == (server.url, "wallet") for each in caplog.records)
    assert all(vars(each)["error"] for each in caplog.records if each.message != connected[1])
