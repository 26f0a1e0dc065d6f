"""Each way in which a relay fails, as `dvm doctor` shows it, and what it advises."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from dvm.config import RelayConfig
from dvm.datadir import DataDir
from dvm.doctor import relays
from dvm.doctor.clock import clock
from dvm.doctor.findings import Finding, Steps
from dvm.doctor.relays import Told
from dvm.nostr.keys import Keys
from tests.commands.examined import doctor
from tests.commands.running import Runner
from tests.commands.shops import write_shop
from tests.standins.bad_relay import bad_relay, bad_signature
from tests.standins.nip11 import nip11_server
from tests.standins.relay import free_port, local_relay

KEYS = Keys.generate()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "STEP", 0.4)
    monkeypatch.setattr(relays, "CONNECT", 0.8)


async def all_of(steps: Steps) -> list[Finding]:
    return [finding async for finding in steps]


async def examine(url: str, *, read: bool = True, write: bool = True) -> Finding:
    """The last finding about a relay's connection."""
    return (await all_of(relays.connection(RelayConfig(url=url, read=read, write=write), KEYS)))[-1]


async def limits(document: Any, *, read: bool = True, write: bool = True) -> list[Finding]:
    async with nip11_server(document) as url:
        return await all_of(relays.information(RelayConfig(url=url, read=read, write=write), []))


@pytest.mark.parametrize(
    ("faults", "advice"),
    [
        ({"refuse": True}, "does not answer as a relay"),
        ({"mute_handshake": True}, "firewall"),
    ],
)
async def test_no_connection(faults: dict[str, Any], advice: str) -> None:
    async with bad_relay(**faults) as relay:
        found = await examine(relay.url)
    assert (found.name, found.state) == ("relay", "failed")
    assert advice in found.advice


async def test_nobody_listens() -> None:
    found = await examine(f"ws://127.0.0.1:{free_port()}")
    assert (found.name, found.state) == ("relay", "failed")
    assert "Nothing listens there" in found.advice


async def test_no_such_host() -> None:
    found = await examine("ws://nowhere.invalid")
    assert (found.name, found.state) == ("relay", "failed")
    assert "spelling" in found.advice


@pytest.mark.parametrize(
    ("faults", "state", "seen", "advice"),
    [
        ({"reject": "blocked: not you"}, "failed", "blocked: not you", "admit your npub"),
        ({"reject": "restricted: pay first"}, "failed", "pay first", "admit your npub"),
        ({"reject": "pow: 28 bits"}, "failed", "pow", "proof of work"),
        ({"reject": "rate-limited: slow down"}, "failed", "rate-limited", "Wait a minute"),
        ({"reject": "invalid: created_at is in the future"}, "failed", "created_at", "clock"),
        ({"ok": False}, "failed", "no answer in time", "without a word"),
        ({"closed": "restricted: members only"}, "failed", "members only", "admit your npub"),
        ({"auth": True, "auth_refuse": "restricted: who?"}, "failed", "auth-required", "(NIP-42)"),
        ({"store": False, "broadcast": False}, "failed", "gives none back", "is lost"),
        ({"forge": bad_signature}, "failed", "gives none back", "is lost"),
        ({"broadcast": False}, "warning", "does not push", "sweep"),
        ({"eose": False}, "warning", "EOSE", "Prefer another"),
        ({"reject": "blocked: kind 29090", "reject_times": 1}, "warning", "ephemeral", "wallet connection"),
        ({"garbage": True, "copies": 3}, "ok", "gave it back", ""),
        ({"auth": True}, "ok", "gave it back", ""),
        ({"auth": True, "auth_early": False}, "ok", "gave it back", ""),
    ],
)
async def test_what_it_does_with_an_event(faults: dict[str, Any], state: str, seen: str, advice: str) -> None:
    async with bad_relay(**faults) as relay:
        found = await examine(relay.url)
    assert (found.name, found.state) == ("relay answers", state)
    assert seen in found.seen
    assert advice in found.advice
    assert bool(found.advice) == (state != "ok")


async def test_nothing_stays_on_the_relay() -> None:
    async with local_relay() as url:
        assert (await examine(url)).state == "ok"
        use = RelayConfig(url=url)
        relay = relays.Relay(url, keys=KEYS, lasting=False)
        assert (await relays._stored(relay, use, KEYS, None)).state == "warning"
        kept = await relay.query([relays.Filter(authors=[KEYS.pubkey], kinds=[relays.EPHEMERAL, relays.STORED])])
        await relay.close()
    assert kept == []


@pytest.mark.parametrize(
    ("read", "write", "asked", "published"), [(True, False, 1, 0), (False, True, 0, 1), (False, False, 0, 0)]
)
async def test_a_relay_is_used_only_as_it_is_meant(read: bool, write: bool, asked: int, published: int) -> None:
    async with bad_relay() as relay:
        found = await examine(relay.url, read=read, write=write)
        assert (relay.received["REQ"], relay.received["EVENT"]) == (asked, published)
    assert found.state == "ok"


@pytest.mark.parametrize(
    ("limitation", "word"),
    [
        ({"auth_required": True}, "auth_required"),
        ({"payment_required": True}, "payment_required"),
        ({"restricted_writes": True}, "restricted_writes"),
        ({"min_pow_difficulty": 20}, "proof of work"),
        ({"max_message_length": 16_384}, "max_message_length"),
        ({"max_content_length": 1_000}, "max_content_length"),
        ({"created_at_lower_limit": 600}, "created_at_lower_limit"),
        ({"created_at_upper_limit": 5}, "created_at_upper_limit"),
        ({"max_subscriptions": 1}, "max_subscriptions"),
    ],
)
async def test_limits_that_matter_to_us(limitation: dict[str, Any], word: str) -> None:
    (found,) = await limits({"limitation": limitation})
    assert found.state == "warning"
    assert word in found.seen
    assert found.advice


@pytest.mark.parametrize(
    "document",
    [
        {"software": "https://example.com/strfry", "version": "1.0"},
        {"limitation": {"max_message_length": 131_072, "auth_required": False, "min_pow_difficulty": 0}},
        {"limitation": {"created_at_lower_limit": 94_608_000, "created_at_upper_limit": 900}},
        "no object",
    ],
)
async def test_limits_in_nobodys_way(document: Any) -> None:
    (found,) = await limits(document)
    assert (found.state, found.advice) == ("ok", "")


async def test_limits_of_writing_do_not_concern_a_relay_that_is_only_read() -> None:
    limitation = {"payment_required": True, "max_message_length": 100, "min_pow_difficulty": 30}
    (found,) = await limits({"limitation": limitation}, write=False)
    assert found.state == "ok"


@pytest.mark.parametrize(("ahead", "state"), [(0, "ok"), (-30, "warning"), (45, "warning"), (7200, "failed")])
async def test_the_clock_is_compared_with_the_relays_own(here: Path, dvm: Runner, ahead: float, state: str) -> None:
    async with nip11_server(ahead=ahead) as url:
        write_shop(here, [url])
        found = await doctor(dvm)
    checked = found.one("clock")
    assert checked["state"] == state
    if state != "ok":
        assert ("slow" if ahead > 0 else "fast") in checked["seen"]
        assert "NTP" in checked["advice"]
    assert "does not answer as a relay" in found.one("relay")["advice"]


def test_one_wrong_clock_among_three_is_not_believed() -> None:
    assert clock([Told("a", 0.0), Told("b", 9_000.0), Told("c", -0.4)]).state == "ok"


def test_without_any_relays_time_the_clock_is_not_called_right() -> None:
    assert clock([]).state == "warning"


async def test_what_is_announced_is_compared_with_the_files(here: Path, dvm: Runner) -> None:
    async with bad_relay() as one, bad_relay() as two:
        write_shop(here, [one.url, two.url], identity={"announce": False})
        assert "dvm announce" in (await doctor(dvm)).one("announcement")["advice"]
        assert (await asyncio.to_thread(dvm, "announce")).code == 0
        assert (await doctor(dvm)).one("announcement")["state"] == "ok"
        raised = (here / "dvm.toml").read_text().replace('"output" = 400', '"output" = 401')
        (here / "dvm.toml").write_text(raised)
        found = (await doctor(dvm)).one("announcement")
    assert (found["state"], "older" in found["seen"]) == ("warning", True)


async def test_what_the_daemon_will_announce_by_itself_is_no_trouble_before_it_runs(here: Path, dvm: Runner) -> None:
    async with bad_relay() as relay:
        write_shop(here, [relay.url])
        found = (await doctor(dvm)).one("announcement")
        assert (found["state"], "dvm run" in found["seen"]) == ("ok", True)
        with DataDir(here / "data").only_one():  # as a daemon holds it
            found = (await doctor(dvm)).one("announcement")
        assert (found["state"], "its log" in found["advice"]) == ("warning", True)


async def test_a_relay_that_breaks_off_in_between_is_a_failure() -> None:
    async with bad_relay(drop_after=1) as relay:
        found = await examine(relay.url)
    assert found.state == "failed"
