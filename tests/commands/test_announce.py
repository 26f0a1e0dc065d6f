"""`dvm announce` against real relays: what arrives, what is told of each, and what is published nowhere."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dvm.nip90.announce import parse_announcement
from dvm.nostr import Event, Filter, Keys, RelayPool
from tests.commands.running import Ran, Runner
from tests.commands.shops import write_shop
from tests.standins.bad_relay import bad_relay
from tests.standins.relay import free_port, local_relay

KINDS = [31990, 0, 10002]


async def announce(dvm: Runner, *options: str) -> Ran:
    return await asyncio.to_thread(dvm, "announce", *options)


async def stored(url: str, keys: Keys) -> list[Event]:
    async with RelayPool([url], []) as pool:
        return await pool.query(Filter(authors=[keys.pubkey]))


async def test_all_three_events_stand_on_each_write_relay(here: Path, dvm: Runner) -> None:
    async with local_relay() as one, local_relay() as two, local_relay() as reading:
        keys = write_shop(here, [one, two, {"url": reading, "write": False}])
        ran = await announce(dvm)
        assert ran.code == 0, ran.err
        for url in (one, two):
            assert sorted(event.kind for event in await stored(url, keys)) == sorted(KINDS)
            assert url in ran.out
        assert await stored(reading, keys) == []
    assert ran.out.count(" published") == 6
    assert keys.npub in ran.out


async def test_announcing_again_replaces_what_was_announced(here: Path, dvm: Runner) -> None:
    async with bad_relay() as relay:
        write_shop(here, [relay.url])
        for _ in range(2):
            assert (await announce(dvm)).code == 0
        ds = {tag[1] for raw in relay.stored.values() for tag in raw["tags"] if tag[0] == "d"}
    assert ds == {"lightning-dvm"}


async def test_a_relay_that_refuses_is_named_with_its_reason_and_stops_no_other(here: Path, dvm: Runner) -> None:
    gone = f"ws://127.0.0.1:{free_port()}"
    async with local_relay() as good, bad_relay(reject="blocked: not for you") as refusing:
        keys = write_shop(here, [refusing.url, gone, good])
        ran = await announce(dvm, "--json")
        assert len(await stored(good, keys)) == 3
    assert ran.code == 0
    assert [event["kind"] for event in ran.json["events"]] == KINDS
    for event in ran.json["events"]:
        assert event["published"] == [good]
        assert event["failed"][refusing.url] == "blocked: not for you"
        assert event["failed"][gone]


@pytest.mark.parametrize("options", [(), ("--json",)])
async def test_published_nowhere_is_a_failure(here: Path, dvm: Runner, options: tuple[str, ...]) -> None:
    async with bad_relay(reject="restricted: members only") as relay:
        write_shop(here, [relay.url])
        ran = await announce(dvm, *options)
    assert ran.code == 1
    assert "restricted: members only" in ran.out
    assert options or "dvm doctor" in ran.err


async def test_a_relay_that_demands_authentication_gets_it(here: Path, dvm: Runner) -> None:
    async with local_relay("write") as url:
        write_shop(here, [url])
        assert (await announce(dvm)).code == 0


async def test_a_dry_run_prints_the_signed_events_and_publishes_none(here: Path, dvm: Runner) -> None:
    async with bad_relay() as relay:
        keys = write_shop(here, [relay.url])
        ran = await announce(dvm, "--dry-run")
        assert not relay.connections
    events = [Event.parse(raw) for raw in ran.json]
    assert [event.kind for event in events] == KINDS
    assert all(event.verify() and event.pubkey == keys.pubkey for event in events)
    assert parse_announcement(events[0]).prices["echo"]["output"] == 400_000


async def test_neither_wallet_nor_model_needs_to_be_set_up(here: Path, dvm: Runner) -> None:
    gemini = {"provider": "gemini", "model": "gemini-2.5-flash", "input": 1, "cached": 1, "output": 1}
    async with local_relay() as url:
        write_shop(here, [url], wallet={"type": "nwc"}, models={"flash": gemini})
        assert (await announce(dvm)).code == 0


def test_without_a_key_it_is_a_configuration_error(here: Path, dvm: Runner) -> None:
    write_shop(here, ["ws://127.0.0.1:1"], key=False)
    ran = dvm("announce")
    assert ran.code == 2
    assert "identity.nsec_file" in ran.err
