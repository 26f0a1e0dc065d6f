"""Of whatever providers ask and a wallet answers, the customer pays at most once, and knows it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from dvm.customer import (
    Customer,
    Declined,
    Due,
    Options,
    Paid,
    PaymentUnclear,
    Quoted,
    Update,
)
from dvm.lightning.base import InvoiceState, Payment, WalletError
from dvm.lightning.paper_node import PaperNode
from dvm.nip90 import Announcement, JobRequest, announcement_draft
from dvm.nostr import Keys, RelayPool
from tests.customer.conftest import all_of, done, failed
from tests.customer.purse import BRISK, HASTY, Purse
from tests.customer.test_nasty_quotes import larger_invoice
from tests.standins.provider import Provider, provider, wallet
from tests.standins.relay import TestRelay
from tests.standins.waiting import until


async def test_a_second_quote_is_not_paid(relay: TestRelay, buyer: Purse) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        invoice = await p.quote(job)
        await p.quote(job)
        await p.quote(job, 1_000)
        await p.paid(invoice)
        await p.receipt(job, await p.result(job), invoice)

    async with provider(relay.url, act, node=buyer.node) as p:
        updates = await all_of(buyer.customer, provider=p.npub)
        assert done(updates).verified is True, done(updates).problems
        assert len([u for u in updates if isinstance(u, Quoted)]) == 1
        assert len(buyer.paid) == 1


async def test_a_quote_after_the_payment_is_not_paid(relay: TestRelay, buyer: Purse) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        invoice = await p.quote(job)
        await p.paid(invoice)
        await p.quote(job, 6_000)
        await p.quote(job, 5_000)
        await p.receipt(job, await p.result(job), invoice)

    async with provider(relay.url, act, node=buyer.node) as p:
        assert done(await all_of(buyer.customer, provider=p.npub)).verified is True
        assert len(buyer.paid) == 1


async def test_of_many_offers_for_a_broadcast_exactly_the_cheapest_is_paid(relay: TestRelay, buyer: Purse) -> None:
    prices = iter([9_000, 3_000, 6_000])

    async def act(p: Provider, job: JobRequest) -> None:
        await p.sell(job, next(prices))

    buyer.customer = Customer(
        buyer.customer.keys, buyer.customer.relays, payer=buyer, options=replace(BRISK, window=1.5)
    )
    async with (
        provider(relay.url, act, node=buyer.node),
        provider(relay.url, act, node=buyer.node),
        provider(relay.url, act, node=buyer.node),
    ):
        updates = await all_of(buyer.customer)
        assert sorted(u.msat for u in updates if isinstance(u, Quoted)) == [3_000, 6_000, 9_000]
        assert [u.quote.msat for u in updates if isinstance(u, Due)] == [3_000]
        assert done(updates).msat == 3_000
        assert len(buyer.paid) == 1


async def test_a_bad_offer_for_a_broadcast_does_not_stand_in_the_way_of_a_good_one(
    relay: TestRelay, buyer: Purse
) -> None:
    async def honest(p: Provider, job: JobRequest) -> None:
        await until(lambda: liar.said)
        await p.sell(job)

    async with (
        provider(relay.url, larger_invoice, node=buyer.node) as liar,
        provider(relay.url, honest, node=buyer.node) as p,
    ):
        updates = await all_of(buyer.customer)
        assert done(updates).provider == p.keys.pubkey
        assert [u.provider for u in updates if isinstance(u, Declined)] == [liar.keys.pubkey]
        assert len(buyer.paid) == 1


async def test_who_works_without_payment_is_preferred_to_who_wants_money(relay: TestRelay, buyer: Purse) -> None:
    async def free(p: Provider, job: JobRequest) -> None:
        await until(lambda: dear.said)
        await p.say(p.answers(job).processing("on it", p.now()))
        await p.result(job, "for nothing")

    async def wants_money(p: Provider, job: JobRequest) -> None:
        await p.quote(job)

    patient = Options(quote=20, window=10, receipt=0.3, poll=0.2)
    buyer.customer = Customer(buyer.customer.keys, buyer.customer.relays, payer=buyer, options=patient)
    async with provider(relay.url, wants_money, node=buyer.node) as dear, provider(relay.url, free) as p:
        last = done(await all_of(buyer.customer))
        assert (last.provider, last.text, last.msat) == (p.keys.pubkey, "for nothing", 0)
        assert buyer.paid == []


async def test_who_says_that_it_works_and_falls_silent_makes_room_for_an_offer(relay: TestRelay, buyer: Purse) -> None:
    async def says_so(p: Provider, job: JobRequest) -> None:
        # Its prices are not those of the receipt, which is another's.
        said = Announcement(d="x", kinds=(5050,), name="x", prices={"m": {"input": 1}})
        await p.say(announcement_draft(said).sign(p.keys, p.now()))
        await p.say(p.answers(job).processing("soon", p.now()))

    async def sells(p: Provider, job: JobRequest) -> None:
        await until(lambda: silent.said)
        await p.sell(job)

    options = replace(BRISK, silence=0.5)
    buyer.customer = Customer(buyer.customer.keys, buyer.customer.relays, payer=buyer, options=options)
    async with provider(relay.url, says_so) as silent, provider(relay.url, sells, node=buyer.node) as p:
        last = done(await all_of(buyer.customer))
        assert (last.provider, last.verified) == (p.keys.pubkey, True)


async def test_first_at_work_and_then_a_quote_is_a_quote(relay: TestRelay, buyer: Purse) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        await p.say(p.answers(job).processing("heard you", p.now()))
        await p.sell(job)

    async with provider(relay.url, act, node=buyer.node) as p:
        assert done(await all_of(buyer.customer, provider=p.npub)).verified is True
        assert len(buyer.paid) == 1


class Unsure(Purse):
    """A wallet that pays and does not know it, or refuses."""

    outcome: Payment | WalletError | RuntimeError = Payment(InvoiceState.UNKNOWN)
    moves = True

    async def pay(self, bolt11: str, *, fee_limit_msat: int) -> Payment:
        self.paid.append(bolt11)
        if self.moves:
            await (await wallet(self.node)).pay(bolt11, fee_limit_msat=fee_limit_msat)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize("outcome", [Payment(InvoiceState.UNKNOWN), RuntimeError("a wallet's own mistake")])
async def test_an_unclear_payment_is_not_repeated_and_the_result_is_waited_for(
    relay: TestRelay, pool: RelayPool, keys: Keys, node: PaperNode, outcome: Any
) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        invoice = await p.quote(job)
        await p.paid(invoice)
        await p.quote(job)
        await p.receipt(job, await p.result(job), invoice)

    buyer = Unsure(keys, pool, node, BRISK)
    buyer.outcome = outcome
    async with provider(relay.url, act, node=node) as p:
        updates = await all_of(buyer.customer, provider=p.npub)
        assert any(isinstance(u, PaymentUnclear) for u in updates)
        assert not any(isinstance(u, Paid) for u in updates)
        assert done(updates).verified is True
        assert len(buyer.paid) == 1


async def test_an_unclear_payment_without_a_result_says_that_money_may_have_moved(
    relay: TestRelay, pool: RelayPool, keys: Keys, node: PaperNode
) -> None:
    buyer = Unsure(keys, pool, node, HASTY)
    buyer.moves = False

    async def act(p: Provider, job: JobRequest) -> None:
        await p.quote(job)

    async with provider(relay.url, act, node=node) as p:
        last = failed(await all_of(buyer.customer, provider=p.npub, timeout=0.5))
        assert (last.code, last.msat) == ("timeout", 5_000)
        assert "not known whether the wallet paid" in last.text
        assert len(buyer.paid) == 1


@pytest.mark.parametrize("outcome", [WalletError("insufficient", "too little"), Payment(InvoiceState.FAILED)])
async def test_a_wallet_that_does_not_pay_ends_the_job_and_is_not_asked_again(
    relay: TestRelay, pool: RelayPool, keys: Keys, node: PaperNode, outcome: Any
) -> None:
    buyer = Unsure(keys, pool, node, BRISK)
    buyer.outcome, buyer.moves = outcome, False

    async def act(p: Provider, job: JobRequest) -> None:
        await p.quote(job)
        await p.quote(job)

    async with provider(relay.url, act, node=node) as p:
        last = failed(await all_of(buyer.customer, provider=p.npub))
        assert (last.code, last.msat) == ("payment-failed", 0)
        assert len(buyer.paid) == 1
        await until(lambda: p.deletions)


async def test_a_result_may_be_quicker_than_the_wallets_own_answer(
    relay: TestRelay, pool: RelayPool, keys: Keys, node: PaperNode
) -> None:
    arrived = asyncio.Event()

    class Slow(Purse):
        async def pay(self, bolt11: str, *, fee_limit_msat: int) -> Payment:
            payment = await super().pay(bolt11, fee_limit_msat=fee_limit_msat)
            await arrived.wait()
            return payment

    async def act(p: Provider, job: JobRequest) -> None:
        await p.sell(job)

    buyer = Slow(keys, pool, node, BRISK)
    async with provider(relay.url, act, node=node) as p:
        updates: list[Update] = []
        async for update in buyer.customer.ask("What?", max_msat=50_000, provider=p.npub):
            updates.append(update)
            if type(update).__name__ == "Answered":
                arrived.set()
        assert done(updates).verified is True
        assert any(isinstance(u, Paid) for u in updates)
