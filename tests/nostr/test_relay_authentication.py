"""A relay that wants to know who we are (NIP-42): it is told when it refuses us, and not before."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from dvm.nostr import Filter, Keys, NotPublished, RelayOptions
from tests.nostr.one_relay import Inbox, connection
from tests.standins.bad_relay import bad_relay
from tests.standins.relay import local_relay
from tests.standins.waiting import until


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
