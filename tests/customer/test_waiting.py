"""Who waits is told what for and for how long: for a quote, an answer, a receipt, the own wallet."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from dvm.commands.ask_display import Words
from dvm.customer import Customer, Options, Update, Waiting, as_dict
from dvm.nip90 import Announcement, Input, JobRequest, announcement_draft
from dvm.nostr import Keys, RelayPool
from tests.customer.conftest import all_of, done, failed
from tests.customer.purse import BRISK, Purse
from tests.standins.provider import Provider, provider, wallet
from tests.standins.relay import TestRelay
from tests.standins.seller import seller

TALKATIVE = replace(BRISK, notice=0.05)
"""Says after a twentieth of a second what others say after five seconds."""


def waits(updates: list[Update]) -> list[str]:
    return [update.what for update in updates if isinstance(update, Waiting)]


def words(updates: list[Update]) -> str:
    return "\n".join(line for update in updates for line in Words().of(update))


@pytest.fixture
def buyer(pool: RelayPool, keys: Keys) -> Customer:
    return Customer(keys, pool, options=TALKATIVE)


async def test_a_quote_an_answer_and_a_receipt_are_waited_for_aloud(relay: TestRelay, buyer: Customer) -> None:
    told = asyncio.Event()

    async def act(p: Provider, job: JobRequest) -> None:
        await told.wait()
        told.clear()
        await p.say(p.answers(job).processing("", p.now()))
        await told.wait()
        await p.result(job)

    async with provider(relay.url, act) as p:
        updates: list[Update] = []
        async for update in buyer.ask("What?", max_msat=0, provider=p.npub):
            updates.append(update)
            if isinstance(update, Waiting) and update.what == "receipt":
                break
            if isinstance(update, Waiting):
                told.set()
    assert list(dict.fromkeys(waits(updates))) == ["quote", "answer", "receipt"]
    said = words(updates)
    for part in ("no quote yet", "no answer yet", "the receipt has not come yet", "seconds more at most"):
        assert part in said


async def test_the_pauses_grow_and_the_end_is_told(pool: RelayPool, keys: Keys) -> None:
    buyer = Customer(keys, pool, options=replace(TALKATIVE, quote=1.0, republish=60))
    before = time.time()
    updates = await all_of(buyer, provider=Keys.generate().npub)
    assert failed(updates).code == "no-answer"
    found = [update for update in updates if isinstance(update, Waiting)]
    assert 1 < len(found) <= 4, "after 0.05, 0.15, 0.35 and 0.75 seconds"
    assert {each.until for each in found} <= {int(before) + 1, int(before) + 2}
    assert as_dict(found[0]) == {"event": "waiting", "for": "quote", "until": found[0].until}


async def test_ones_own_wallet_that_does_not_answer_is_named_before_anything_is_asked(
    pool: RelayPool, keys: Keys
) -> None:
    class Slow(Purse):
        answered = asyncio.Event()

        async def info(self) -> Any:
            await self.answered.wait()
            return await super().info()

    slow = Slow(keys, pool, None, TALKATIVE)  # type: ignore[arg-type]
    async for update in slow.customer.ask("What?", max_msat=1_000):
        assert update == Waiting("wallet", None)
        assert "your wallet does not answer" in words([update])
        break


async def test_whoever_works_and_pays_promptly_hears_of_no_waiting(
    relay: TestRelay, pool: RelayPool, keys: Keys
) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        await p.result(job)

    async with provider(relay.url, act) as p:
        buyer = Customer(keys, pool, options=replace(BRISK, receipt=0.2))
        assert waits(await all_of(buyer, max_msat=0, provider=p.npub)) == []


@pytest.mark.parametrize(
    ("inputs", "least"), [([Input("https://x.example", "url")], 0.6), ([Input("f" * 64, "job")], 1.0), ([], 0.2)]
)
async def test_what_has_to_be_fetched_first_is_waited_for_longer(
    pool: RelayPool, keys: Keys, inputs: list[Input], least: float
) -> None:
    options = Options(quote=0.2, inputs=0.4, prior=0.8, poll=5)
    began = asyncio.get_running_loop().time()
    updates = await all_of(
        Customer(keys, pool, options=options), prompt=["What?", *inputs], provider=Keys.generate().npub
    )
    assert failed(updates).code == "no-answer"
    assert asyncio.get_running_loop().time() - began >= least


async def test_who_does_not_sell_that_kind_is_told_of_by_what_they_announce(
    relay: TestRelay, pool: RelayPool, keys: Keys
) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        """Nothing: it is for another kind."""

    async with provider(relay.url, act) as p:
        await p.say(announcement_draft(Announcement(d="d", kinds=(5001, 5050), name="A shop")).sign(p.keys, p.now()))
        customer = Customer(keys, pool, options=replace(BRISK, quote=0.3))
        last = failed(await all_of(customer, kind=5100, provider=p.npub))
    assert (
        last.text == "the provider has not answered within 0.3 seconds; it announces jobs of kind 5001, 5050, not 5100"
    )


async def test_a_broadcast_that_nobody_answers_says_how_to_hear_why(pool: RelayPool, keys: Keys) -> None:
    updates = await all_of(Customer(keys, pool, options=replace(BRISK, quote=0.2)))
    assert failed(updates).code == "no-answer"
    assert "with --provider you hear why" in words(updates)


async def test_prices_are_held_against_the_announcement_though_the_answer_came_at_once(
    relay: TestRelay, pool: RelayPool, keys: Keys
) -> None:
    async with seller([relay.url]) as shop:
        customer = Customer(keys, pool, payer=await wallet(shop.node), options=BRISK)
        await all_of(customer, provider=shop.keys.npub)
        updates = await all_of(customer)  # out of the change, and so quickly that no word goes before the result
    receipt = done(updates).receipt
    assert receipt is not None
    assert "announced prices" in receipt.checked
