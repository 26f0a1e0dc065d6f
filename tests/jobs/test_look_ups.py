"""What a request names is looked up in few questions: however much it names, our relays go on to hear us."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from typing import Any, cast

import pytest

from dvm.jobs.sources.chain import OUR_TURN
from dvm.jobs.sources.events import MAX_QUERIES, Events
from dvm.jobs.sources.hearing import MOST, Hearing
from dvm.ledger import Job
from dvm.nip90 import Answers, parse_request
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.frames import request_frame
from dvm.nostr.keys import Keys
from dvm.nostr.pool import RelayPool
from tests.jobs.test_chaining import after, asking
from tests.standins.customer import Customer
from tests.standins.waiting import until
from tests.standins.workshop import Workshop


class Slow:
    """Relays that answer when they are told to."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()
        self.asked: list[Collection[str] | None] = []
        self.under_way = self.most = 0

    async def query(self, _wanted: Filter, *, relays: Collection[str] | None, timeout: float) -> list[Event]:
        self.asked.append(relays)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self.goes_on.wait()
        self.under_way -= 1
        return []


async def test_our_relays_are_asked_a_few_things_at_a_time() -> None:
    relays = Slow()
    events = Events(cast("RelayPool", relays))
    asking = [asyncio.create_task(events.find(f"{n:064x}")) for n in range(5 * MAX_QUERIES)]
    await until(lambda: relays.under_way == MAX_QUERIES)
    elsewhere = asyncio.create_task(events.find_all(["f" * 64], ["wss://slow.example.com"]))
    await until(lambda: relays.asked[-1] == ["wss://slow.example.com"])  # waits for none of ours
    relays.goes_on.set()
    assert await asyncio.gather(*asking) == [None] * len(asking)
    assert await elsewhere == []
    assert (relays.most, len(relays.asked)) == (MAX_QUERIES + 1, len(asking) + 2)


async def test_who_waits_for_a_job_that_nobody_knows_asks_our_relays_now_and_then(
    shop: Workshop, buyer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, asked, looks = shop.shop.inputs._chain, list[bool](), list[str]()
    find, own = chain._events._query, chain._own

    async def counted(wanted: Filter, place: Any = None) -> list[Event]:
        asked.append(place is None)
        return await find(wanted, place)

    async def looked(event_id: str) -> Event | None:
        looks.append(event_id)
        return await own(event_id)

    monkeypatch.setattr(chain._events, "_query", counted)
    monkeypatch.setattr(chain, "_own", looked)
    prior = asking(buyer.keys, ["x", "text"], provider=shop.keys.pubkey)
    job = await buyer.send(after(buyer.keys, prior.id, shop))
    await until(lambda: len(asked) == 2)
    assert len(looks) > OUR_TURN
    await buyer.send(prior)
    for each in (prior.id, job):
        await shop.pay(buyer, each)
        await buyer.result(each)


async def test_where_a_provider_writes_is_asked_now_and_then(
    shop: Workshop, buyer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, store = shop.shop.inputs._chain._events, shop.store
    write_relays, known, asked, looks = events.write_relays, store.job, list[object](), list[str]()

    async def counted(authors: Collection[str]) -> tuple[str, ...]:
        asked.append(authors)
        return await write_relays(authors)

    async def looked(job_id: str) -> Job | None:
        looks.append(job_id)
        return await known(job_id)

    monkeypatch.setattr(events, "write_relays", counted)
    monkeypatch.setattr(store, "job", looked)
    prior = asking(buyer.keys, ["x", "text"], provider=Keys.generate().pubkey)
    for event in (prior, after(buyer.keys, prior.id, shop)):
        await buyer.send(event)
    await until(lambda: len(asked) == 2)
    assert looks.count(prior.id) > OUR_TURN


class Subscribed:
    """Relays that remember what they are asked to tell of."""

    def __init__(self) -> None:
        self.filters: Sequence[Filter] = ()

    def subscribe(self, filters: Sequence[Filter], _hear: Any) -> Subscribed:
        self.filters = filters
        return self

    def close(self) -> None: ...


async def test_what_is_waited_for_fits_into_one_question_that_relays_take() -> None:
    relays = Subscribed()
    hearing = Hearing(cast("RelayPool", relays))
    request = asking(Keys.generate(), ["x", "text"])
    with ExitStack() as stack:
        for n in range(MOST + 50):
            stack.enter_context(hearing.event(f"{n:064x}", lambda _event: None))
        with hearing.answers(request, lambda _event: None):
            await until(lambda: len(relays.filters) == 2)
            assert len(request_frame("s1", [each.to_dict() for each in relays.filters])) < 64_000
            assert f"{49:064x}" not in (relays.filters[0].ids or ())
        await until(lambda: len(relays.filters) == 1)
        assert f"{50:064x}" in (relays.filters[0].ids or ())
    hearing.close()


async def test_all_that_a_prior_job_waited_for_is_one_question(
    shop: Workshop, buyer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Keys.generate()
    prior = asking(buyer.keys, *([f"{n:064x}", "job"] for n in range(12)), provider=provider.pubkey)
    for event in (prior, Answers(provider, parse_request(prior, None)).result("the end", prior.created_at)):
        await buyer.send(event)
    query, asked = shop.pool.query, list[Filter]()

    async def counted(wanted: Any, **named: Any) -> list[Event]:
        asked.append(wanted)
        return await query(wanted, **named)

    monkeypatch.setattr(shop.pool, "query", counted)
    job = await buyer.send(after(buyer.keys, prior.id, shop))
    await shop.pay(buyer, job)
    await buyer.result(job)
    assert sum(bool(wanted.ids and len(wanted.ids) == 12) for wanted in asked) == 1
    assert len(asked) < 6
