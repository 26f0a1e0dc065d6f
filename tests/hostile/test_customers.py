"""Customers as thieves: each attempt ends in one clear error or in silence, and the books balance."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dvm.jobs.admission import standard_policies
from dvm.ledger import JobState
from dvm.nip90 import FEEDBACK, cancel_draft, request_draft
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.keys import Keys
from tests.standins.bad_relay import bad_relay
from tests.standins.customer import KIND, RESULT, Customer, customer
from tests.standins.relay import local_relay
from tests.standins.scripted import STALL
from tests.standins.waiting import until
from tests.standins.workshop import Workshop, workshop


@pytest.fixture
async def relay() -> AsyncIterator[str]:
    """One that takes whatever is signed: others refuse some of this themselves."""
    async with bad_relay() as each:
        yield each.url


async def count(shop: Workshop, *states: JobState) -> int:
    return len(await shop.store.jobs(states or tuple(JobState)))


async def settled(shop: Workshop, buyer: Customer) -> str:
    """A later job is quoted: what came before it has been dealt with. Its id."""
    job = await buyer.ask("an honest question")
    await buyer.quote(job)
    return job


async def test_a_thousand_requests_of_one_customer_open_no_more_quotes_than_allowed(relay: str, tmp_path: Path) -> None:
    policies = standard_policies(per_minute=0, quotes=20, quotes_total=0)
    async with (
        customer(relay) as flood,
        customer(relay) as other,
        workshop(relay, data=tmp_path, policies=policies) as shop,
    ):
        drafts = [request_draft(KIND, [str(n)], keys=flood.keys, providers=[shop.keys.pubkey]) for n in range(1000)]
        signed = [draft.sign(flood.keys, int(time.time())) for draft in drafts]
        await asyncio.gather(*(flood.send(request) for request in signed))
        honest = await settled(shop, other)
        assert await count(shop) == 21
        assert shop.engine.quotes.open_quotes(flood.keys.pubkey) == 20
        refused = [job for job in (request.id for request in signed) if "too-many-quotes" in str(flood.said(job))]
        assert len(refused) <= shop.settings.refusals_per_minute  # a flood of requests is no flood of events
        await shop.pay(other, honest)
        await other.receipt(honest)
        quoted = next(job for job in flood.heard if flood.said(job)[0].startswith("payment-required"))
        await flood.cancel(quoted)  # one place is free again
        await flood.feedback(quoted, "error")
        await flood.quote(await flood.ask("one more"))
        await shop.balanced()


async def test_a_thousand_customers_open_no_more_quotes_than_allowed_in_all(relay: str, tmp_path: Path) -> None:
    policies = standard_policies(per_minute=0, quotes=0, quotes_total=100)
    async with customer(relay) as sender, workshop(relay, data=tmp_path, policies=policies) as shop:
        strangers = [Keys.generate() for _ in range(1000)]
        requests = [request_draft(KIND, ["a"], keys=keys).sign(keys, int(time.time())) for keys in strangers]
        await asyncio.gather(*(sender.send(request) for request in requests))
        await until(lambda: shop.engine.quotes.open_quotes_total() == 100)
        quoted = (await shop.store.jobs([JobState.QUOTED]))[0]
        payment = next(each for each in await shop.store.watched(0) if each.job == quoted.id)
        shop.node.pay(payment.bolt11)
        await until(lambda: shop.engine.quotes.open_quotes_total() == 99)
        assert await count(shop) == 100
        await shop.balanced()


ODD_BIDS = ["-1", "0", "1.5", "1e9", "٣", "0x10", "", " ", "NaN", "9" * 400, "１０００", "1000\n", "+5"]


@pytest.mark.parametrize("bid", ODD_BIDS)
async def test_an_odd_bid_is_an_error_and_never_a_guess(shop: Workshop, buyer: Customer, bid: str) -> None:
    tags = [["i", "a question", "text"], ["bid", bid], ["p", shop.keys.pubkey]]
    job = await buyer.send(buyer.keys.sign(KIND, tags))
    heard = await buyer.until(job, lambda event: event.kind == FEEDBACK)
    if heard.tag("status") == "error":
        assert await shop.state(job) is JobState.REJECTED
    else:  # read as a number after all: then it bounds the price
        assert int(heard.all("amount")[0][1]) <= int(bid)
    assert len(buyer.heard[job]) == 1
    await shop.balanced()


ODD_PARAMS = [
    ["max_tokens", "-5"], ["max_tokens", "0"], ["max_tokens", "9" * 30], ["max_tokens", "1.0"], ["max_tokens"],
    ["temperature", "nan"], ["temperature", "-1"], ["temperature", "inf"], ["top_p", "2"], ["top_k", "0"],
    ["model", "somebody-elses"], ["model", "../../etc/passwd"], ["stop", *"abcdefgh"],
]  # fmt: skip


@pytest.mark.parametrize("param", ODD_PARAMS, ids=lambda param: " ".join(param)[:30])
async def test_an_odd_param_is_an_error_and_never_a_free_or_endless_job(
    shop: Workshop, buyer: Customer, param: list[str]
) -> None:
    tags = [["i", "a question", "text"], ["param", *param], ["p", shop.keys.pubkey]]
    job = await buyer.send(buyer.keys.sign(KIND, tags))
    heard = await buyer.until(job, lambda event: event.kind == FEEDBACK)
    assert heard.tag("status") == "error" or int(heard.all("amount")[0][1]) >= 100_000
    assert len(buyer.heard[job]) == 1


async def test_a_job_for_another_provider_is_none_of_ours(shop: Workshop, buyer: Customer) -> None:
    other = Keys.generate().pubkey
    theirs = await buyer.ask("a", providers=[other])
    both = await buyer.ask("b", providers=[other, shop.keys.pubkey])
    await buyer.quote(both)
    assert await shop.store.job(theirs) is None
    assert buyer.heard[theirs] == []


async def test_a_broadcast_that_we_do_not_take_is_met_with_silence(shop: Workshop, buyer: Customer) -> None:
    poor = await buyer.ask("a", bid=1)
    await settled(shop, buyer)
    assert buyer.heard[poor] == []
    assert await shop.state(poor) is JobState.REJECTED


async def test_somebody_elses_deletion_cancels_neither_a_quote_nor_a_run(
    shop: Workshop, buyer: Customer, relay: str
) -> None:
    shop.model.script = [STALL]
    quoted, ran = await buyer.ask("a"), await buyer.ask("b")
    await shop.pay(buyer, ran)
    await buyer.quote(quoted)
    await until(lambda: shop.model.running)
    async with customer(relay) as thief:
        for job in (quoted, ran, "00" * 32):
            await thief.send(cancel_draft(job, KIND).sign(thief.keys, int(time.time())))
        await settled(shop, thief)
    assert shop.model.running == 1
    assert await shop.state(quoted) is JobState.QUOTED
    await buyer.cancel(ran)
    await buyer.receipt(ran)
    await shop.balanced()


async def test_a_deletion_in_advance_by_another_does_not_stop_the_job(
    shop: Workshop, buyer: Customer, relay: str
) -> None:
    request = request_draft(KIND, ["a"], keys=buyer.keys).sign(buyer.keys, int(time.time()))
    async with customer(relay) as thief:
        await thief.send(cancel_draft(request.id, KIND).sign(thief.keys, int(time.time())))
        await settled(shop, thief)
    await buyer.send(request)
    await buyer.quote(request.id)


async def test_anothers_request_republished_gives_the_thief_nothing(
    shop: Workshop, buyer: Customer, relay: str
) -> None:
    job = await buyer.ask("a private matter")
    await shop.pay(buyer, job)
    await buyer.receipt(job)
    stored = Event.from_json((await shop.job(job)).request)
    async with customer(relay) as thief:
        await thief.send(stored)
        copied = thief.keys.sign(KIND, stored.tags, stored.content)  # the same words under the thief's own key
        await thief.send(copied)
        await thief.quote(copied.id)
    assert len(buyer.results(job)) == 1
    assert len(shop.model.prompts) == 1


async def test_the_request_of_another_cannot_be_paid_from_anyones_balance(
    shop: Workshop, buyer: Customer, relay: str
) -> None:
    rich = await buyer.ask("a")
    await shop.pay(buyer, rich)
    await buyer.receipt(rich)
    async with customer(relay) as thief:
        forged = request_draft(KIND, ["for free"], keys=buyer.keys).sign(buyer.keys, int(time.time()))
        forged.content = "changed"  # neither id nor signature fits any more
        published = await thief.pool.publish(forged)
        assert not published
        mine = await thief.ask("named", params=[("max_tokens", "10")])
        await thief.quote(mine)
    assert (await shop.store.balance(buyer.keys.pubkey)).available == 3_800_000


@pytest.mark.parametrize(
    "address",
    ["ws://127.0.0.1:{port}", "ws://localhost:{port}", "ws://[::1]:{port}", "ws://0.0.0.0:{port}", "ws://10.0.0.1:{port}",
     "ws://169.254.169.254", "ws://2130706433:{port}", "http://127.0.0.1:{port}", "file:///etc/passwd",
     "ws://user:pass@example.com", "ws://[::ffff:127.0.0.1]:{port}"],
)  # fmt: skip
async def test_private_addresses_that_a_customer_names_are_not_visited(
    relay: str, tmp_path: Path, buyer: Customer, address: str
) -> None:
    visits = 0

    async def visited(_reader: Any, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        writer.close()

    inside = await asyncio.start_server(visited, "127.0.0.1", 0)
    port = inside.sockets[0].getsockname()[1]
    async with workshop(relay, data=tmp_path, opened=False) as shop:
        shop.pool_options = type(shop.pool_options)(relay=shop.pool_options.relay)  # as an operator has it
        await shop.open()
        job = await buyer.ask("a", relays=[address.format(port=port)] * 50)
        await shop.pay(buyer, job)
        await buyer.receipt(job)
    inside.close()
    assert visits == 0


GARBAGE = ["", "not base64", "?iv=", "AAAA?iv=AAAA", "A" * 60_000, "Ag==", "\x00", "[]", '{"a":1}', "🦆" * 50]


@pytest.mark.parametrize("content", GARBAGE, ids=lambda text: repr(text[:12]))
async def test_encrypted_garbage_is_one_error(shop: Workshop, buyer: Customer, content: str) -> None:
    job = await buyer.send(buyer.keys.sign(KIND, [["p", shop.keys.pubkey], ["encrypted"]], content))
    await settled(shop, buyer)
    assert [event.tag("status") for event in buyer.heard[job]] in (["error"], [])
    assert await shop.state(job) is JobState.REJECTED


async def test_a_request_from_the_far_past_or_future_or_past_its_end_is_ignored(
    shop: Workshop, buyer: Customer
) -> None:
    now = int(time.time())
    odd = [await buyer.ask("a", at=now + 3600), await buyer.ask("a", expiration=now - 5, at=now - 60)]
    await settled(shop, buyer)
    for job in odd:
        assert await shop.store.job(job) is None
        assert buyer.heard[job] == []


async def test_a_free_rider_who_cancels_at_once_pays_for_what_was_used(shop: Workshop, buyer: Customer) -> None:
    """Ask, let the model run, cancel, again and again: the change shrinks each time."""
    shop.model.script = ["a lot of words for nothing ", STALL]
    job = await buyer.ask("a")
    await shop.pay(buyer, job)
    balances = []
    for _ in range(3):
        await until(lambda: shop.model.running)
        await buyer.cancel(job)
        balances.append((await buyer.receipt(job)).after)
        await until(lambda: not shop.model.running)
        job = await buyer.ask(f"another, with {balances[-1]}", params=[("max_tokens", "500")])
    assert balances == sorted(balances, reverse=True)
    assert len(set(balances)) == 3
    await until(lambda: shop.model.running)
    await buyer.cancel(job)
    await buyer.receipt(job)
    buyer.check_chain()
    await shop.balanced()


tag_text = st.text(max_size=40) | st.sampled_from(["text", "event", "job", "url", "max_tokens", "model", "-1", "1e400"])
names = st.sampled_from(["i", "param", "bid", "output", "relays", "t", "e", "encrypted", "-"]) | tag_text
odd_tags = st.lists(st.builds(lambda name, rest: [name, *rest], names, st.lists(tag_text, max_size=5)), max_size=12)


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(odd_tags, st.text(max_size=200)), min_size=5, max_size=10))
async def test_whatever_a_request_says_it_gets_at_most_one_answer_and_the_next_is_served(
    drawn: list[tuple[list[list[str]], str]],
) -> None:
    with tempfile.TemporaryDirectory() as data:
        async with local_relay() as relay, customer(relay) as buyer, workshop(relay, data=Path(data)) as shop:
            jobs = []
            for tags, content in drawn:
                event = buyer.keys.sign(KIND, [*tags, ["p", shop.keys.pubkey]], content)
                if await buyer.pool.publish(event):
                    jobs.append(event.id)
            await settled(shop, buyer)
            for job in jobs:
                assert [event.kind for event in buyer.heard[job]] in ([], [FEEDBACK])
            events = await buyer.pool.query(Filter(kinds=[RESULT, FEEDBACK], authors=[shop.keys.pubkey]))
            assert all(json.loads(event.to_json())["id"] == event.id for event in events)
            await shop.balanced()
