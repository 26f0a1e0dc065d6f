"""The daemon keeps itself announced: at its start, after a change, before it grows old, wherever it is missing."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import nostr_sdk
import pytest

from dvm import announcer
from dvm.announcer import RENEW_SECONDS, Announcer
from dvm.announcing import drafts_of
from dvm.building import build_services
from dvm.config import load_config, load_relays
from dvm.customer import Customer, Quoted
from dvm.daemon import Daemon
from dvm.models.counting import approximate_text
from dvm.nip90 import Announcement, Draft, parse_announcement
from dvm.nostr import Event, Filter, Keys, RelayPool
from dvm.pricing import PerRequest, PerToken, quote
from dvm.secrets import load_secrets
from tests.standins.bad_relay import BadRelay, bad_relay
from tests.standins.customer import OPTIONS
from tests.standins.daemon import configure
from tests.standins.relay import local_relay
from tests.standins.waiting import until

KINDS = [31990, 0, 10002]


@asynccontextmanager
async def open_shop(
    directory: Path, *relays: str, keys: Keys | None = None, **configuration: Any
) -> AsyncIterator[Keys]:
    """The daemon in this process; its keys."""
    configure(directory, relays, **configuration)
    config, keys = load_config(directory / "dvm.toml"), keys or Keys.generate()
    secrets = load_secrets(config, {"DVM_NSEC": keys.nsec()})
    async with Daemon(config, load_relays(directory / "relays.toml"), secrets, directory / "data"):
        yield keys


@asynccontextmanager
async def pool_of(*relays: BadRelay) -> AsyncIterator[RelayPool]:
    urls = [relay.url for relay in relays]
    async with RelayPool(urls, urls, options=OPTIONS) as pool:
        assert await pool.wait_connected(len(urls), 10)
        yield pool


def drafts(directory: Path, price: object = "per-token") -> tuple[Draft, ...]:
    configure(directory, ["wss://relay.example"], price=price)
    config = load_config(directory / "dvm.toml")
    return drafts_of(config, load_relays(directory / "relays.toml"), build_services(config))


def stands(relay: BadRelay, kind: int) -> Event:
    """What clients take for the event of that kind: the newest."""
    events = [Event.parse(raw) for raw in relay.stored.values() if raw["kind"] == kind]
    return max(events, key=lambda event: event.created_at)


async def test_a_daemon_announces_itself_without_being_told_to(tmp_path: Path) -> None:
    async with local_relay() as one, local_relay() as two, open_shop(tmp_path, one, two) as keys:
        for url in (one, two):
            async with RelayPool([url], []) as pool:
                await pool.wait_connected(1, 10)
                wanted = Filter(authors=[keys.pubkey], kinds=KINDS)

                async def all_stand(pool: RelayPool = pool, wanted: Filter = wanted) -> bool:
                    return sorted(event.kind for event in await pool.query(wanted)) == sorted(KINDS)

                await until(all_stand)


async def test_it_does_not_where_its_operator_does_not_want_it(tmp_path: Path) -> None:
    async with bad_relay() as relay:
        async with open_shop(tmp_path, relay.url, identity={"announce": False}):
            await until(lambda: relay.received["REQ"])
        assert relay.received["EVENT"] == 0


async def test_a_start_without_a_change_publishes_nothing_and_one_with_a_change_what_has_changed(
    tmp_path: Path,
) -> None:
    keys = Keys.generate()
    async with bad_relay() as relay:
        for price, events in (("per-token", 3), ("per-token", 3), ({"per_request": 21}, 4)):
            asked = relay.received["REQ"]
            async with open_shop(tmp_path, relay.url, keys=keys, price=price):
                await until(lambda asked=asked: relay.received["REQ"] > asked)  # type: ignore[misc]
                await until(lambda events=events: relay.received["EVENT"] >= events)  # type: ignore[misc]
            assert relay.received["EVENT"] == events
        assert parse_announcement(stands(relay, 31990)).amount == 21


async def test_what_grows_old_is_published_anew_and_stays_newer(tmp_path: Path) -> None:
    keys, clock = Keys.generate(), [time.time()]
    async with bad_relay() as relay, pool_of(relay) as pool:
        it = Announcer(drafts(tmp_path), keys, pool.writers, lambda: clock[0])
        assert await it.look()
        first = stands(relay, 31990)
        clock[0] += RENEW_SECONDS - 10
        assert await it.look()
        assert stands(relay, 31990) == first
        clock[0] += 10
        assert await it.look()
        assert stands(relay, 31990).created_at == int(clock[0])
        assert len(relay.stored) == 6


async def test_a_relay_that_lost_it_gets_the_same_event_again_and_no_other_is_troubled(tmp_path: Path) -> None:
    async with bad_relay() as one, bad_relay() as two, pool_of(one, two) as pool:
        it = Announcer(drafts(tmp_path), Keys.generate(), pool.writers)
        assert await it.look()
        before, received = dict(two.stored), one.received["EVENT"]
        two.stored.clear()
        assert await it.look()
        assert two.stored == before == one.stored
        assert one.received["EVENT"] == received


async def test_a_change_within_the_same_second_replaces_all_the_same(tmp_path: Path) -> None:
    keys, now = Keys.generate(), time.time()
    async with bad_relay() as relay, pool_of(relay) as pool:
        for price in ("per-token", "free"):
            assert await Announcer(drafts(tmp_path, price), keys, pool.writers, lambda: now).look()
        assert parse_announcement(stands(relay, 31990)).amount == "free"
        assert stands(relay, 31990).created_at == int(now) + 1


async def test_a_relay_that_refuses_or_is_away_is_tried_again_and_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(announcer, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(announcer, "SECONDS", 0.2)
    async with bad_relay(reject="blocked: not today") as refusing, bad_relay() as away, bad_relay() as good:
        await away.stop()
        async with open_shop(tmp_path, refusing.url, away.url, good.url):
            await until(lambda: len(good.stored) == 3)
            await until(lambda: refusing.received["EVENT"] > 3)
            assert not refusing.stored
            refusing.faults.reject = None
            await until(lambda: len(refusing.stored) == 3)
            await away.start()
            await until(lambda: len(away.stored) == 3)
    assert sum("did not take" in message for message in caplog.messages) == 3  # once for each kind, not each trial
    assert good.stored == away.stored


async def test_the_profile_of_a_person_is_not_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = Keys.generate()
    mine = keys.sign(0, [], json.dumps({"name": "Ada"}), 1_000), keys.sign(10002, [["r", "wss://ada.example"]], "", 1)
    async with bad_relay() as relay, pool_of(relay) as pool:
        relay.add(*mine)
        assert await Announcer(drafts(tmp_path), keys, pool.writers).look()
        assert (stands(relay, 0), stands(relay, 10002)) == mine
        assert parse_announcement(stands(relay, 31990)).kinds == (5050,)
    assert "dvm announce" in caplog.text


async def test_nothing_is_replaced_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcer, "SECONDS", 0.1)
    async with bad_relay(eose=False) as relay, pool_of(relay) as pool:
        it = Announcer(drafts(tmp_path), Keys.generate(), pool.writers)
        assert not await it.look()
        assert not relay.stored
        relay.faults.eose = True
        assert await it.look()
        assert len(relay.stored) == 3


# The price that a client reads is the price that is asked


def expected(announcement: Announcement, text: str, most: int) -> int:
    """What a client works out, in msat, of an announcement, a prompt and the tokens that it allows."""
    prices = announcement.prices["first"]
    price = PerRequest(prices["request"]) if "request" in prices else PerToken(**prices)
    return quote(price, approximate_text(text), most).msat


@pytest.mark.parametrize("price", ["per-token", {"per_request": 21}])
async def test_the_price_that_is_announced_is_the_price_that_is_quoted(tmp_path: Path, price: object) -> None:
    text, most = "What does this cost? " * 40, 701
    model = {"provider": "echo", "input": 30_000, "cached": 7_500, "output": 120_000}
    async with (
        local_relay() as url,
        open_shop(tmp_path, url, price=price, model=model) as keys,
        Customer(Keys.generate(), [url]) as c,
    ):
        await until(lambda: c.announcements(keys.npub))
        announced = (await c.announcements(keys.npub))[0]
        async with aclosing(c.ask(text, max_msat=10**9, max_tokens=most, provider=keys.npub)) as updates:
            quoted = await anext(update async for update in updates if isinstance(update, Quoted))
        assert quoted.msat == expected(announced, text, most) > 20_000


async def test_another_library_reads_the_same_prices(tmp_path: Path) -> None:
    async with local_relay() as url, open_shop(tmp_path, url) as keys:
        client = nostr_sdk.Client()
        await client.add_relay(nostr_sdk.RelayUrl.parse(url))
        await client.connect()
        wanted = nostr_sdk.Filter().author(nostr_sdk.PublicKey.parse(keys.npub)).kind(nostr_sdk.Kind(31990))
        events: list[Any] = []

        async def announced() -> bool:
            events[:] = await client.fetch_events(nostr_sdk.ReqTarget.auto([wanted]), timedelta(seconds=5))
            return bool(events)

        await until(announced)
        await client.shutdown()
        assert events[0].verify()
        tags = [tag.to_vec() for tag in events[0].tags()]
        read = parse_announcement(Event.from_json(events[0].as_json()))
        assert {(tag[1], tag[2]): int(tag[3]) for tag in tags if tag[0] == "price"} == {
            ("first", name): msat for name, msat in read.prices["first"].items()
        }
        assert read.prices["first"] == {"input": 100_000, "cached": 25_000, "output": 400_000}
        assert [tag[1] for tag in tags if tag[0] == "k"] == ["5050"]
