"""One relay: what is published arrives or fails with the reason, what is asked for comes."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import replace

import pytest

from dvm.nostr import Filter, Keys, NotPublished, Relay, RelayOptions
from tests.nostr.one_relay import Inbox, connection
from tests.standins.bad_relay import bad_relay
from tests.standins.relay import free_port, local_relay, running_relay
from tests.standins.waiting import until


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
        assert await relay.query([Filter(kinds=[1])], timeout=1.0) == [event]
        await relay.publish(keys.sign(1, content="the connection is as good as before"))
        assert server.received["CLOSE"] == 1
        assert not relay.busy


async def test_nagles_algorithm_is_off(quick: RelayOptions) -> None:
    async with local_relay() as url, connection(url, quick) as relay:
        await until(lambda: relay.connected)
        raw = relay._connection.transport.get_extra_info("socket")  # type: ignore[union-attr]
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


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


async def test_an_event_too_large_to_send_fails_at_once(keys: Keys, quick: RelayOptions) -> None:
    async with bad_relay() as server, connection(server.url, replace(quick, frame_bytes=1000)) as relay:
        with pytest.raises(NotPublished, match="too large"):
            await relay.publish(keys.sign(1, content="x" * 2000))
