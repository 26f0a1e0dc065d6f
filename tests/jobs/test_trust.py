"""The web of trust: whom one key follows, as deep as the operator wants it, and never more than is bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dvm.jobs import trust
from dvm.jobs.trust import FOLLOWS, WebOfTrust, followed
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys
from dvm.nostr.pool import RelayPool
from tests.standins.bad_relay import BadRelay, bad_relay
from tests.standins.customer import OPTIONS
from tests.standins.waiting import until

ROOT, ADA, BOB, EVE = (Keys.generate() for _ in range(4))


def follows(author: Keys, *others: Keys | str, at: int | None = None) -> Event:
    tags = [["p", other if isinstance(other, str) else other.pubkey] for other in others]
    return author.sign(FOLLOWS, tags, "", at or int(time.time()))


@asynccontextmanager
async def relay_and_pool() -> AsyncIterator[tuple[BadRelay, RelayPool]]:
    async with bad_relay() as relay, RelayPool([relay.url], [], options=OPTIONS) as pool:
        assert await pool.wait_connected(1, 10)
        yield relay, pool


@pytest.mark.parametrize(("depth", "trusted"), [(1, [ROOT, ADA]), (2, [ROOT, ADA, BOB])])
async def test_it_reaches_as_far_as_the_operator_says(depth: int, trusted: list[Keys]) -> None:
    async with relay_and_pool() as (relay, pool):
        relay.add(follows(ROOT, ADA), follows(ADA, BOB), follows(BOB, EVE), follows(EVE, EVE))
        web = WebOfTrust(pool, ROOT.pubkey, depth)
        assert await web.load()
        assert [keys for keys in (ROOT, ADA, BOB, EVE) if keys.pubkey in web] == trusted
        assert len(web) == len(trusted)


async def test_the_newest_list_counts() -> None:
    async with relay_and_pool() as (relay, pool):
        relay.add(follows(ROOT, EVE, at=1_000), follows(ROOT, ADA, at=2_000))
        web = WebOfTrust(pool, ROOT.pubkey)
        assert await web.load()
        assert (ADA.pubkey in web, EVE.pubkey in web) == (True, False)


async def test_until_it_is_loaded_only_the_root_is_trusted_and_it_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trust, "RETRY_SECONDS", 0.01)
    async with relay_and_pool() as (relay, pool):
        web = WebOfTrust(pool, ROOT.pubkey)
        assert not await web.load()
        assert (web.loaded, ROOT.pubkey in web, ADA.pubkey in web) == (False, True, False)
        task = asyncio.create_task(web.run())
        await until(lambda: "cannot be found" in caplog.text)
        relay.add(follows(ROOT, ADA))
        await until(lambda: web.loaded)
        assert ADA.pubkey in web
        task.cancel()


async def test_a_web_that_cannot_be_loaded_anew_stays_what_it_was() -> None:
    async with relay_and_pool() as (relay, pool):
        relay.add(follows(ROOT, ADA))
        web = WebOfTrust(pool, ROOT.pubkey)
        assert await web.load()
        relay.stored.clear()
        assert not await web.load()
        assert (web.loaded, ADA.pubkey in web) == (True, True)


async def test_it_never_holds_more_than_is_kept_and_the_nearest_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "MAX_TRUSTED", 4)
    monkeypatch.setattr(trust, "BATCH", 1)
    async with relay_and_pool() as (relay, pool):
        crowd = [f"{n:064x}" for n in range(50)]
        relay.add(follows(ROOT, ADA, BOB), follows(ADA, *crowd), follows(BOB, EVE))
        web = WebOfTrust(pool, ROOT.pubkey, 2)
        assert await web.load()
        assert len(web) == 4
        assert all(keys.pubkey in web for keys in (ROOT, ADA, BOB))


def test_of_a_list_only_keys_count_each_once_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert followed(follows(ROOT, ADA, ADA, "x", "", "F" * 64, BOB)) == [ADA.pubkey, BOB.pubkey]
    assert followed(ROOT.sign(1, [["p", ADA.pubkey]], "", 1)) == []
    monkeypatch.setattr(trust, "MAX_FOLLOWS", 1)
    assert followed(follows(ROOT, ADA, BOB)) == [ADA.pubkey]


async def test_what_is_no_key_is_not_within_it() -> None:
    web = WebOfTrust(RelayPool([], []), ROOT.pubkey)
    assert [each in web for each in (None, 7, "", "x" * 64, ROOT.pubkey.upper(), ROOT.pubkey)] == [False] * 5 + [True]
