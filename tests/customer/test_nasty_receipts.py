"""Receipts that lie: the answer is there all the same, and what is wrong is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dvm.customer import (
    Customer,
    examine,
)
from dvm.nip90 import Announcement, JobRequest, announcement_draft
from dvm.nostr import Event, Keys, RelayPool
from tests.customer.conftest import all_of, done
from tests.customer.purse import BRISK, HASTY, Purse
from tests.standins.provider import PRICES, Money, Provider, provider
from tests.standins.relay import TestRelay


async def test_a_result_without_a_receipt_is_an_answer_that_nobody_can_check(relay: TestRelay, buyer: Purse) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        await p.paid(await p.quote(job))
        await p.result(job)

    buyer.customer = Customer(buyer.customer.keys, buyer.customer.relays, payer=buyer, options=HASTY)
    async with provider(relay.url, act, node=buyer.node) as p:
        last = done(await all_of(buyer.customer, provider=p.npub))
        assert (last.text, last.verified, last.receipt) == ("the answer", None, None)


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ({"cost": 199}, "usage times price is 200"),
        ({"cost": 201}, "usage times price is 200"),
        ({"cost": 5_001, "place": {"after": -1}}, "more than the 5000 that were agreed"),
        ({"change": {"output_sha256": "0" * 64}}, "output_sha256 is not the hash of what was delivered"),
        ({"change": {"input_sha256": "0" * 64}}, "input_sha256 is not the hash of what was asked"),
        ({"change": {"result": "0" * 64}}, "it names another result"),
        ({"change": {"prices": {"input": 2_000_000, "output": 0}}}, "announced was 1000000"),
        ({"place": {"payments": [Money("bolt11", "0" * 64, 5_000)]}}, "it does not name the payment"),
        ({"place": {"before": 700}}, "begins with 700 msat from nowhere"),
        ({"place": {"seq": 2, "prev": None}}, "number 1, and it alone"),
    ],
)
async def test_a_receipt_that_lies_is_told_and_the_answer_is_there_all_the_same(
    relay: TestRelay, buyer: Purse, lie: dict[str, Any], says: str
) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        invoice = await p.quote(job)
        await p.paid(invoice)
        await p.receipt(job, await p.result(job), invoice, **lie)

    async with provider(relay.url, act, node=buyer.node) as p:
        said = Announcement(d="x", kinds=(5050,), name="x", prices={"m": PRICES})
        await p.say(announcement_draft(said).sign(p.keys, p.now()))
        last = done(await all_of(buyer.customer, provider=p.npub))
        assert last.text == "the answer"
        assert last.verified is False
        assert any(says in problem for problem in last.problems), last.problems


async def test_a_receipt_that_credits_less_than_was_paid_is_told(relay: TestRelay, buyer: Purse) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        invoice = await p.quote(job)
        await p.paid(invoice)
        less = [Money("bolt11", invoice.payment_hash, 4_000)]
        await p.receipt(job, await p.result(job), invoice, place={"payments": less})

    async with provider(relay.url, act, node=buyer.node) as p:
        last = done(await all_of(buyer.customer, provider=p.npub))
        assert last.problems == ("it credits 4000 msat for the payment of 5000",)


async def test_a_fork_of_the_chain_is_told(relay: TestRelay, buyer: Purse) -> None:
    """Twice number 1: the change of the first job has vanished."""

    async def act(p: Provider, job: JobRequest) -> None:
        await p.sell(job)

    async with provider(relay.url, act, node=buyer.node) as p:
        assert done(await all_of(buyer.customer, "one", provider=p.npub)).verified is True
        last = done(await all_of(buyer.customer, "two", provider=p.npub))
        assert last.problems == ("receipt 1: there are two of that number",)
        account = await buyer.customer.account(p.npub)
        assert account.problems == ("receipt 1: there are two of that number",)


async def test_a_balance_that_does_not_follow_from_the_last_receipt_is_told(relay: TestRelay, buyer: Purse) -> None:
    previous: list[Event] = []

    async def act(p: Provider, job: JobRequest) -> None:
        invoice = await p.quote(job)
        await p.paid(invoice)
        place = {"seq": 2, "prev": previous[0].id, "before": 17} if previous else {}
        previous.append(await p.receipt(job, await p.result(job), invoice, place=place))

    async with provider(relay.url, act, node=buyer.node) as p:
        await all_of(buyer.customer, "one", provider=p.npub)
        last = done(await all_of(buyer.customer, "two", provider=p.npub))
        assert last.problems == ("receipt 2: it begins with 17 msat, not 4800",)


async def test_of_a_long_account_each_job_checks_the_newest_part(relay: TestRelay, pool: RelayPool, keys: Keys) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        """Nothing: the receipts are made below."""

    async with provider(relay.url, act) as p:
        await all_of(Customer(keys, pool, options=replace(BRISK, quote=0.2)), provider=p.npub)
        made: list[Event] = []
        for seq in range(1, 8):
            prev = made[-1].id if made else None
            before = 9_000 if seq == 3 else 1_000 * (seq - 1)  # number 3 does not follow
            paid = [Money("zap", f"{seq:064x}", 1_000)]
            place = {"seq": seq, "prev": prev, "before": before, "cost": 0, "payments": paid}
            made.append(await p.receipt(p.requests[0], None, None, place=place, change={"job": f"{seq:064x}"}))
        whole = examine(p.keys.pubkey, keys.pubkey, made, keys)
        assert [problem[:10] for problem in whole.problems] == ["receipt 3:", "receipt 4:"]
        part = examine(p.keys.pubkey, keys.pubkey, made, keys, recent=4)
        assert ([r.seq for r in part.receipts], part.problems, part.missing) == ([4, 5, 6, 7], (), ())
        gap = examine(p.keys.pubkey, keys.pubkey, [made[3], made[6]], keys, recent=4)
        assert gap.missing == ((5, 6),)


async def test_a_receipt_that_cannot_be_read_is_told(relay: TestRelay, buyer: Purse) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        await p.paid(await p.quote(job))
        await p.result(job)
        await p.say(p.keys.sign(7090, [["e", job.id, "", "customer"], ["p", job.customer]], "", p.now()))

    async with provider(relay.url, act, node=buyer.node) as p:
        last = done(await all_of(buyer.customer, provider=p.npub))
        assert last.verified is False
        assert "its receipt cannot be read" in last.problems[0]


async def test_a_job_out_of_the_balance_may_not_cost_more_than_the_limit(relay: TestRelay, buyer: Purse) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        await p.say(p.answers(job).processing("", p.now()))
        much = {"usage": None, "prices": {"request": 60_000}}
        await p.receipt(job, await p.result(job), None, cost=60_000, change=much, place={"before": 60_000})

    async with provider(relay.url, act, node=buyer.node) as p:
        last = done(await all_of(buyer.customer, provider=p.npub))
        assert "it costs 60000 msat, more than the limit of 50000" in last.problems
        assert buyer.paid == []
