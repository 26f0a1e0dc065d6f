"""One relay, true and faulty: what is published arrives or fails with the reason, what breaks comes back."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from websockets.http11 import Request as HttpRequest
from websockets.server import ServerProtocol

from dvm.nostr import Filter, Keys, NotPublished, Relay, RelayOptions
from dvm.nostr.requests import Request
from tests.standins.bad_relay import GARBAGE, bad_relay, forgeries_first
from tests.standins.relay import free_port, local_relay, running_relay
from tests.standins.waiting import until


@asynccontextmanager
async def connection(url: str, options: RelayOptions, keys: Keys | None = None) -> AsyncIterator[Relay]:
    relay = Relay(url, keys=keys, options=options)
    relay.start()
    try:
        yield relay
    finally:
        await relay.close()


class Inbox:
    """Everything that a subscription brings, unchecked."""

    def __init__(self, relay: Relay, *filters: Filter, since: int | None = None) -> None:
        self.ids: list[Any] = []
        self.ends: list[str | None] = []
        self.request = Request(
            filters, lambda raw: self.ids.append(raw.get("id")), self.ends.append, since=lambda: since, lasting=True
        )
        relay.request(self.request)


async def test_an_event_is_published_and_found_again(keys: Keys, quick: RelayOptions) -> None:
    async with local_relay() as url, connection(url, quick) as relay:
        event = keys.sign(5050, [["i", "hello", "text"]])
        await relay.publish(event)
        found = await relay.query([Filter(kinds=[5050])])
        assert found == [event]
        assert found[0].to_json() == event.to_json()
        assert relay.status().accepted == 1
        assert relay.status().latency is not None


async def test_a_subscription_brings_what_is_stored_and_what_is_new(keys: Keys, quick: RelayOptions) -> None:
    async with local_relay() as url, connection(url, quick) as relay:
        stored, new = keys.sign(5050, content="stored"), keys.sign(5050, content="new")
        await relay.publish(stored)
        inbox = Inbox(relay, Filter(kinds=[5050]))
        await until(lambda: inbox.ends == [None])
        await relay.publish(new)
        await until(lambda: inbox.ids == [stored.id, new.id])


async def test_a_relay_that_comes_back_is_subscribed_and_published_to_again(keys: Keys, quick: RelayOptions) -> None:
    async with running_relay() as server, connection(server.url, quick) as relay:
        inbox = Inbox(relay, Filter(kinds=[5050]))
        await until(lambda: inbox.ends)
        await server.stop()
        await until(lambda: not relay.connected)
        event = keys.sign(5050)
        publishing = asyncio.create_task(relay.publish(event, timeout=10))
        await server.start()
        await publishing
        await until(lambda: event.id in inbox.ids)


async def test_publishing_without_a_connection_fails_when_time_is_up(keys: Keys, quick: RelayOptions) -> None:
    async with connection(f"ws://127.0.0.1:{free_port()}", quick) as relay:
        with pytest.raises(NotPublished, match="not connected in time"):
            await relay.publish(keys.sign(1), timeout=0.05)
        assert not relay.busy


async def test_no_ok_is_a_time_out(keys: Keys, quick: RelayOptions) -> None:
    async with bad_relay(ok=False) as server, connection(server.url, quick) as relay:
        with pytest.raises(NotPublished, match="no answer in time"):
            await relay.publish(keys.sign(1), timeout=0.1)


async def test_each_publisher_of_one_event_gets_an_answer_in_its_own_time(keys: Keys, quick: RelayOptions) -> None:
    event = keys.sign(1)
    async with bad_relay(ok=False) as server, connection(server.url, quick) as relay:
        patient = asyncio.create_task(relay.publish(event, timeout=30))
        await until(lambda: server.received[f"EVENT:{event.id}"])
        with pytest.raises(NotPublished):
            await relay.publish(event, timeout=0.05)
        assert not patient.done()
        await server.clients.copy().pop().socket.send(json.dumps(["OK", event.id, True, ""]))
        await patient


@pytest.mark.parametrize(
    "reason",
    ["invalid: no", "blocked: go away", "pow: 30 bits", "error: broken", "restricted: no", ""],
)
async def test_a_rejected_event_fails_with_the_relays_reason(reason: str, keys: Keys, quick: RelayOptions) -> None:
    async with bad_relay() as server, connection(server.url, quick, keys) as relay:
        event = keys.sign(1)
        publishing = asyncio.create_task(relay.publish(event))
        server.faults.ok = False
        await until(lambda: server.received["EVENT"])
        await server.clients.copy().pop().socket.send(json.dumps(["OK", event.id, False, reason]))
        with pytest.raises(NotPublished, match=reason or "rejected"):
            await publishing
        assert server.received["EVENT"] == 1


async def test_a_duplicate_counts_as_accepted(keys: Keys, quick: RelayOptions) -> None:
    async with bad_relay(reject="duplicate: have it") as server, connection(server.url, quick) as relay:
        await relay.publish(keys.sign(1))


async def test_rate_limited_is_tried_again(keys: Keys, quick: RelayOptions) -> None:
    async with (
        bad_relay(reject="rate-limited: slow down", reject_times=3) as server,
        connection(server.url, quick) as relay,
    ):
        event = keys.sign(1)
        await relay.publish(event)
        assert server.received[f"EVENT:{event.id}"] == 4


async def test_rate_limited_for_ever_is_given_up(keys: Keys, quick: RelayOptions) -> None:
    async with bad_relay(reject="rate-limited: no") as server, connection(server.url, quick) as relay:
        with pytest.raises(NotPublished, match="rate-limited"):
            await relay.publish(keys.sign(1), timeout=0.3)
        assert server.received["EVENT"] < 10


@pytest.mark.parametrize("early", [True, False])
async def test_authentication_when_publishing_and_subscribing(early: bool, keys: Keys, quick: RelayOptions) -> None:
    async with bad_relay(auth=True, auth_early=early) as server, connection(server.url, quick, keys) as relay:
        inbox = Inbox(relay, Filter(kinds=[5050]))
        event = keys.sign(5050)
        await relay.publish(event)
        await until(lambda: event.id in inbox.ids)
        assert [raw["pubkey"] for raw in server.authenticated] == [keys.pubkey]
        server.drop()
        again = keys.sign(5050, content="after a break")
        await relay.publish(again)
        await until(lambda: again.id in inbox.ids)


async def test_who_we_are_is_not_told_to_a_relay_that_does_not_refuse_us(keys: Keys, quick: RelayOptions) -> None:
    async with bad_relay() as server, connection(server.url, quick, keys) as relay:
        await until(lambda: server.clients)
        await server.clients.copy().pop().socket.send(json.dumps(["AUTH", "curious"]))
        await relay.publish(keys.sign(1))
        assert server.received["AUTH"] == 0


@pytest.mark.parametrize("mode", ["read", "write", "both"])
async def test_authentication_with_a_real_relay(mode: Any, keys: Keys, quick: RelayOptions) -> None:
    async with local_relay(mode) as url, connection(url, quick, keys) as relay:
        event = keys.sign(5050)
        await relay.publish(event)
        assert await relay.query([Filter(kinds=[5050])]) == [event]


async def test_without_keys_auth_required_is_a_rejection(keys: Keys, quick: RelayOptions) -> None:
    async with bad_relay(auth=True) as server, connection(server.url, quick) as relay:
        with pytest.raises(NotPublished, match="auth-required"):
            await relay.publish(keys.sign(1))
        assert await relay.query([Filter(kinds=[1])]) == []


async def test_a_refused_authentication_is_final_for_the_event(keys: Keys, quick: RelayOptions) -> None:
    async with (
        bad_relay(auth=True, auth_refuse="restricted: not you") as server,
        connection(server.url, quick, keys) as relay,
    ):
        with pytest.raises(NotPublished, match="not you"):
            await relay.publish(keys.sign(1))
        assert server.received["AUTH"] == 1


@pytest.mark.parametrize("early", [True, False])
async def test_a_relay_that_is_never_satisfied_does_not_send_us_round_in_circles(
    early: bool, keys: Keys, quick: RelayOptions
) -> None:
    options = replace(quick, retry_delay=60.0)
    async with (
        bad_relay(auth=True, auth_early=early, reject="auth-required: again", closed="auth-required: again") as server,
        connection(server.url, options, keys) as relay,
    ):
        with pytest.raises(NotPublished, match="auth-required"):
            await relay.publish(keys.sign(1))
        Inbox(relay, Filter(kinds=[1]))
        assert await relay.query([Filter(kinds=[1])]) == []
        with pytest.raises(NotPublished, match="auth-required"):
            await relay.publish(keys.sign(2))
        assert server.received["EVENT"] <= 4
        assert server.received["REQ"] <= 4
        assert server.received["AUTH"] <= server.received["EVENT"] + server.received["REQ"]


async def test_restricted_ends_a_subscription_for_good(quick: RelayOptions) -> None:
    async with bad_relay(closed="restricted: members only") as server, connection(server.url, quick) as relay:
        inbox = Inbox(relay, Filter(kinds=[1]))
        await until(lambda: inbox.ends)
        assert inbox.ends == ["restricted: members only"]
        server.drop()
        await until(lambda: server.connections == 2 and relay.connected)
        assert server.received["REQ"] == 1


async def test_a_subscription_closed_for_other_reasons_is_opened_again(keys: Keys, quick: RelayOptions) -> None:
    async with (
        bad_relay(closed="error: shutting down", closed_times=3) as server,
        connection(server.url, quick) as relay,
    ):
        inbox = Inbox(relay, Filter(kinds=[1]))
        await until(lambda: inbox.ends == [None])
        event = keys.sign(1)
        await server.push(event)
        await until(lambda: inbox.ids == [event.id])


async def test_a_query_ends_without_eose(keys: Keys, quick: RelayOptions) -> None:
    async with bad_relay(eose=False) as server, connection(server.url, quick) as relay:
        event = keys.sign(1)
        server.add(event)
        assert await relay.query([Filter(kinds=[1])], timeout=0.2) == [event]
        await relay.publish(keys.sign(1, content="the connection is as good as before"))
        assert server.received["CLOSE"] == 1
        assert not relay.busy


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
    options = replace(quick, connect_timeout=0.1)
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


async def test_nagles_algorithm_is_off(quick: RelayOptions) -> None:
    async with local_relay() as url, connection(url, quick) as relay:
        await until(lambda: relay.connected)
        raw = relay._connection.transport.get_extra_info("socket")  # type: ignore[union-attr]
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


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


async def test_a_burst_larger_than_the_buffer_arrives_whole(keys: Keys, quick: RelayOptions) -> None:
    async with bad_relay() as server, connection(server.url, replace(quick, send_buffer=200_000)) as relay:
        await until(lambda: relay.connected)
        events = [keys.sign(1, content=f"{n}" + "x" * 50_000) for n in range(200)]
        await asyncio.gather(*(relay.publish(event, timeout=60) for event in events))
        assert server.stored.keys() == {event.id for event in events}
        assert (server.connections, server.received["EVENT"]) == (1, 200)


async def test_closing_fails_what_waits(keys: Keys, quick: RelayOptions) -> None:
    async with bad_relay(ok=False, eose=False) as server:
        relay = Relay(server.url, options=quick)
        relay.start()
        publishing = asyncio.create_task(relay.publish(keys.sign(1), timeout=60))
        querying = asyncio.create_task(relay.query([Filter(kinds=[2])], timeout=60))
        await until(lambda: server.received["EVENT"] and server.received["REQ"])
        await relay.close()
        with pytest.raises(NotPublished, match="closed"):
            await publishing
        assert await querying == []
        with pytest.raises(NotPublished):
            await relay.publish(keys.sign(1))


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


async def test_an_event_too_large_to_send_fails_at_once(keys: Keys, quick: RelayOptions) -> None:
    async with bad_relay() as server, connection(server.url, replace(quick, frame_bytes=1000)) as relay:
        with pytest.raises(NotPublished, match="too large"):
            await relay.publish(keys.sign(1, content="x" * 2000))
