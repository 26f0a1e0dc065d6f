"""Chains of jobs: one job's result is another's input, whoever asked for it and whoever made it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dvm.jobs import inputs as module
from dvm.jobs.sources.chain import MAX_DEPTH
from dvm.ledger import JobState
from dvm.nip90 import Answers, cancel_draft, parse_request
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys
from tests.standins.customer import Customer, customer
from tests.standins.relay import local_relay
from tests.standins.scripted import ScriptedModel, answer
from tests.standins.waiting import until
from tests.standins.workshop import Workshop, workshop

BELOW = "prompt of this job"


@pytest.fixture
async def buyer(relay: str) -> AsyncIterator[Customer]:
    async with customer(relay) as each:
        yield each


def asking(
    keys: Keys, *inputs: Sequence[str], provider: str | None = None, at: int | None = None, **tags: str
) -> Event:
    """A request of kind 5050 with these inputs."""
    more = [["p", provider]] if provider else []
    more += [[name, value] for name, value in tags.items()]
    return keys.sign(5050, [*(["i", *each] for each in inputs), *more], "", at or int(time.time()))


def after(keys: Keys, prior: str, shop: Workshop, hint: str = "") -> Event:
    """A request to that shop, whose input is the result of `prior`."""
    return asking(keys, [prior, "job", hint], [BELOW, "text"], provider=shop.keys.pubkey)


def answering(keys: Keys, request: Event, text: str, *, kind: int | None = None) -> Event:
    made = Answers(keys, parse_request(request, None)).result(text, int(time.time()))
    return made if kind is None else keys.sign(kind, made.tags, text, made.created_at)


def failing(keys: Keys, request: Event) -> Event:
    return Answers(keys, parse_request(request, None)).error("blocked", "", int(time.time()))


def told(shop: Workshop) -> list[tuple[Any, ...]]:
    """What its model was asked, each time."""
    return [prompt.turns[0].parts for prompt in shop.model.prompts]


def heard(shop: Workshop, event_id: str) -> bool:
    """Whether that event has come to whoever waits."""
    subscription = shop.shop.inputs._chain._hearing._subscription
    return subscription is not None and event_id in subscription.seen


async def waits(shop: Workshop, jobs: int = 1) -> None:
    await until(lambda: shop.shop.inputs.waiting == jobs)


async def test_three_jobs_of_three_customers_over_two_providers(relay: str, tmp_path: Path) -> None:
    """All are asked for at once, the last one first, and each is quoted once what it waits for is there."""
    first_model, second_model = ScriptedModel(), ScriptedModel()
    first_model.scripts, second_model.scripts = [answer("one"), answer("three")], [answer("two")]
    async with (
        workshop(relay, data=tmp_path / "a", models=[first_model]) as one,
        workshop(relay, data=tmp_path / "b", models=[second_model]) as two,
        customer(relay) as anna,
        customer(relay) as berta,
        customer(relay) as carla,
    ):
        a = asking(anna.keys, ["the beginning", "text"], provider=one.keys.pubkey)
        b = after(berta.keys, a.id, two)
        c = after(carla.keys, b.id, one)
        for who, event in ((carla, c), (berta, b), (anna, a)):
            await who.send(event)
        await waits(one)
        await waits(two)
        for who, event, shop in ((anna, a, one), (berta, b, two), (carla, c, one)):
            await shop.pay(who, event.id)
            await who.receipt(event.id)
        assert (await carla.result(c.id)).content == "three"
        assert told(one) == [("the beginning",), ("two", BELOW)]
        assert told(two) == [("one", BELOW)]
        for who in (anna, berta, carla):
            who.check_chain()


async def test_the_wait_survives_a_restart_and_nothing_is_charged_for_it(shop: Workshop, buyer: Customer) -> None:
    shop.set(shutdown_seconds=3600)
    await shop.reopen()
    provider = Keys.generate()
    prior = asking(Keys.generate(), ["x", "text"], provider=provider.pubkey)
    await buyer.send(prior)
    job = await buyer.send(after(buyer.keys, prior.id, shop))
    await waits(shop)
    await asyncio.wait_for(shop.close(), 20)
    await shop.open()
    await waits(shop)
    assert buyer.said(job) == []
    assert await shop.state(job) is JobState.RECEIVED
    await buyer.send(answering(provider, prior, "at last"))
    await shop.pay(buyer, job)
    await buyer.result(job)
    assert told(shop) == [("at last", BELOW)]


async def test_the_result_itself_may_be_named_and_lie_on_another_relay(shop: Workshop, buyer: Customer) -> None:
    stranger = Keys.generate()
    prior = asking(Keys.generate(), ["x", "text"])
    result = answering(stranger, prior, "elsewhere")
    async with local_relay() as far, customer(far) as there:
        await there.send(result)
        job = await buyer.send(after(buyer.keys, result.id, shop, far))
        await shop.pay(buyer, job)
        await buyer.result(job)
    assert told(shop) == [("elsewhere", BELOW)]


async def test_forged_results_are_not_believed(shop: Workshop, buyer: Customer) -> None:
    provider, forger = Keys.generate(), Keys.generate()
    prior = asking(Keys.generate(), ["x", "text"], provider=provider.pubkey)
    other = asking(Keys.generate(), ["y", "text"], provider=provider.pubkey)
    await buyer.send(prior)
    await buyer.send(answering(forger, prior, "a lie"))
    await buyer.send(failing(forger, prior))
    await buyer.send(answering(provider, other, "of another job"))
    await buyer.send(answering(provider, prior, "of another kind", kind=6001))
    mixed = answering(provider, other, "of another job, in passing")
    await buyer.send(provider.sign(6050, [*mixed.tags, ["e", prior.id]], mixed.content, mixed.created_at))
    job = await buyer.send(after(buyer.keys, prior.id, shop))
    await waits(shop)
    lie = await buyer.send(answering(forger, prior, "another lie"))
    await until(lambda: heard(shop, lie))
    await buyer.send(answering(provider, prior, "the truth"))
    await shop.pay(buyer, job)
    await buyer.result(job)
    assert told(shop) == [("the truth", BELOW)]


async def test_of_a_job_that_was_offered_to_all_only_our_own_result_is_believed(
    shop: Workshop, buyer: Customer, relay: str
) -> None:
    async with customer(relay) as other:
        prior = asking(other.keys, ["x", "text"])
        job = await buyer.send(after(buyer.keys, prior.id, shop))
        await other.send(prior)
        forged = await buyer.send(answering(Keys.generate(), prior, "a stranger's"))
        await until(lambda: heard(shop, forged))
        shop.model.scripts = [answer("ours"), answer("well")]
        await shop.pay(other, prior.id)
        await shop.pay(buyer, job)
        await buyer.receipt(job)
    assert told(shop)[1] == ("ours", BELOW)


async def test_a_prior_job_that_failed_ends_the_wait_at_once(shop: Workshop, buyer: Customer) -> None:
    one, two = Keys.generate(), Keys.generate()
    prior = Keys.generate().sign(5050, [["i", "x", "text"], ["p", one.pubkey], ["p", two.pubkey]], "", int(time.time()))
    await buyer.send(prior)
    job = await buyer.send(after(buyer.keys, prior.id, shop))
    error = await buyer.send(failing(one, prior))
    await until(lambda: heard(shop, error))
    await buyer.quote(await buyer.ask("is anybody served meanwhile?"))
    assert shop.shop.inputs.waiting == 1
    await buyer.send(failing(two, prior))
    assert (await buyer.feedback(job, "error")).text.startswith("input-failed: ")
    assert await shop.state(job) is JobState.REJECTED
    assert shop.shop.inputs.waiting == 0


async def test_a_prior_job_of_ours_that_was_cancelled_ends_the_wait(shop: Workshop, buyer: Customer) -> None:
    prior = await buyer.send(asking(buyer.keys, ["x", "text"], provider=shop.keys.pubkey))
    await buyer.quote(prior)
    job = await buyer.send(after(buyer.keys, prior, shop))
    await waits(shop)
    await buyer.cancel(prior)
    assert (await buyer.feedback(job, "error")).text.startswith("input-failed: ")


async def test_a_dead_chain_ends_twenty_minutes_after_the_job_came(shop: Workshop, buyer: Customer) -> None:
    job = await buyer.send(after(buyer.keys, "0" * 64, shop))
    await waits(shop)
    shop.later += module.WAIT_SECONDS - 60
    await shop.reopen()
    await waits(shop)
    shop.later += 61
    assert (await buyer.feedback(job, "error")).text.startswith("input-timeout: ")
    assert await shop.state(job) is JobState.REJECTED


async def test_whoever_cancels_waits_no_more_and_nobody_else_can(shop: Workshop, buyer: Customer) -> None:
    job = await buyer.send(after(buyer.keys, "0" * 64, shop))
    await waits(shop)
    await shop.engine._delete(cancel_draft(job, 5050).sign(Keys.generate(), int(time.time())))
    await shop.shop.inputs.abandon(job)
    await buyer.quote(await buyer.ask("is anybody served meanwhile?"))
    assert shop.shop.inputs.waiting == 1
    await buyer.cancel(job)
    assert "cancelled" in (await buyer.feedback(job, "error")).text
    await waits(shop, 0)
    assert await shop.state(job) is JobState.CANCELLED
    assert buyer.said(job) == ["error cancelled"]


async def test_only_so_many_wait_at_a_time(
    shop: Workshop, buyer: Customer, relay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_EACH", 2)
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    for n in range(2):
        await buyer.send(after(buyer.keys, f"{n}" * 64, shop))
        await waits(shop, n + 1)
    third = await buyer.send(after(buyer.keys, "2" * 64, shop))
    assert (await buyer.feedback(third, "error")).text.startswith("busy: ")
    async with customer(relay) as other:
        await other.send(after(other.keys, "3" * 64, shop))
        await waits(shop, 3)
        full = await other.send(after(other.keys, "4" * 64, shop))
        assert (await other.feedback(full, "error")).text.startswith("busy: ")


async def test_a_chain_is_no_deeper_than_ten(shop: Workshop, buyer: Customer) -> None:
    provider = Keys.generate()
    links = [asking(buyer.keys, ["x", "text"], provider=provider.pubkey)]
    for _ in range(MAX_DEPTH):
        links.append(asking(buyer.keys, [links[-1].id, "job"], provider=provider.pubkey))
    for event in links:
        await buyer.send(event)
    for event in links[-2:]:
        await buyer.send(answering(provider, event, "so far"))
    await buyer.quote(await buyer.send(after(buyer.keys, links[-2].id, shop)))
    deep = await buyer.send(after(buyer.keys, links[-1].id, shop))
    assert (await buyer.feedback(deep, "error")).text.startswith("input-depth: ")


async def test_a_job_that_waits_for_itself_is_refused(
    shop: Workshop, buyer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id is a hash of what it names, so no honest event closes a circle; nothing here relies on that."""
    prior = asking(buyer.keys, ["x", "text"], provider=Keys.generate().pubkey)
    await buyer.send(prior)
    job = after(buyer.keys, prior.id, shop)
    monkeypatch.setattr("dvm.jobs.sources.chain._prior", lambda event: [job.id] if event.id == prior.id else [prior.id])
    await buyer.send(job)
    assert (await buyer.feedback(job.id, "error")).text.startswith("input-cycle: ")


async def test_what_was_made_in_secret_stays_so(shop: Workshop, buyer: Customer, relay: str) -> None:
    """Our key could open it for anyone; it is opened for its customer only, who asks in secret again."""
    prior = await buyer.ask("a secret", providers=[shop.keys.pubkey], scheme="nip44")
    await shop.pay(buyer, prior)
    await buyer.receipt(prior)
    result = (await buyer.result(prior)).event.id
    async with customer(relay) as thief:
        for named in (prior, result):
            job = await thief.send(after(thief.keys, named, shop))
            assert (await thief.feedback(job, "error")).text.startswith("input-unreadable: ")
    careless = await buyer.send(after(buyer.keys, prior, shop))
    assert (await buyer.feedback(careless, "error")).text.startswith("input-unreadable: ")


async def test_what_is_no_job_is_no_input_of_that_type(shop: Workshop, buyer: Customer) -> None:
    note = buyer.keys.sign(1, [], "hello", int(time.time()))
    await buyer.send(note)
    job = await buyer.send(after(buyer.keys, note.id, shop))
    assert (await buyer.feedback(job, "error")).text.startswith("input-type: ")
