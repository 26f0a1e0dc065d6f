"""Providers that lie, and strangers that meddle: the customer pays at most once, and tells what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from dvm.customer import (
    Customer,
    Declined,
    Due,
    Options,
    Paid,
    Partial,
    PaymentUnclear,
    Quoted,
    Update,
    examine,
)
from dvm.lightning.base import InvoiceState, Payment, WalletError
from dvm.lightning.paper import PaperWallet
from dvm.lightning.paper_node import PaperNode
from dvm.nip90 import Announcement, JobRequest, announcement_draft
from dvm.nostr import Event, Keys, RelayPool
from tests.customer.conftest import BRISK, all_of, done, failed
from tests.standins.provider import PRICES, Money, Provider, foreign_invoice, provider, wallet
from tests.standins.relay import TestRelay
from tests.standins.waiting import until

HASTY = replace(BRISK, receipt=0.5)
"""For what never comes."""


class Purse:
    """A customer with a paper wallet that counts what it is asked to pay."""

    def __init__(self, keys: Keys, pool: RelayPool, node: PaperNode, options: Options) -> None:
        self.node = node
        self.paid: list[str] = []
        self.customer = Customer(keys, pool, payer=self, options=options)

    async def info(self) -> Any:
        return await PaperWallet(self.node, "customer").info()

    async def pay(self, bolt11: str, *, fee_limit_msat: int) -> Payment:
        self.paid.append(bolt11)
        return await (await wallet(self.node)).pay(bolt11, fee_limit_msat=fee_limit_msat)


@pytest.fixture
def node() -> PaperNode:
    return PaperNode()


@pytest.fixture
def buyer(pool: RelayPool, keys: Keys, node: PaperNode) -> Purse:
    return Purse(keys, pool, node, BRISK)


# --- quotes that must not be paid --------------------------------------------------------------------------


async def smaller_invoice(p: Provider, job: JobRequest) -> None:
    await p.quote(job, 9_000, invoice_msat=5_000)


async def larger_invoice(p: Provider, job: JobRequest) -> None:
    await p.quote(job, 5_000, invoice_msat=9_000)


async def above_the_limit(p: Provider, job: JobRequest) -> None:
    await p.quote(job, 51_000)


async def of_another_network(p: Provider, job: JobRequest) -> None:
    await p.say(p.answers(job).payment_required(5_000, foreign_invoice(5_000, "mainnet"), "pay", p.now()))


async def without_an_amount(p: Provider, job: JobRequest) -> None:
    await p.say(p.answers(job).payment_required(5_000, foreign_invoice(0, "regtest"), "pay", p.now()))


async def no_invoice_at_all(p: Provider, job: JobRequest) -> None:
    await p.say(p.answers(job).payment_required(5_000, None, "zap me", p.now()))


async def a_damaged_invoice(p: Provider, job: JobRequest) -> None:
    bolt11 = p.invoice(5_000).bolt11
    await p.say(
        p.answers(job).payment_required(5_000, bolt11[:-1] + ("q" if bolt11[-1] != "q" else "p"), "pay", p.now())
    )


async def an_expired_invoice(p: Provider, job: JobRequest) -> None:
    await p.say(p.answers(job).payment_required(5_000, p.invoice(5_000, expiry=1).bolt11, "pay", p.now()))


@pytest.mark.parametrize(
    ("lie", "code", "says"),
    [
        (smaller_invoice, "unpayable", "asks for 9000 msat, and its invoice is over 5000"),
        (larger_invoice, "unpayable", "asks for 5000 msat, and its invoice is over 9000"),
        (above_the_limit, "too-dear", "the limit is 50000 msat"),
        (of_another_network, "unpayable", "is for mainnet, and the wallet is on regtest"),
        (without_an_amount, "unpayable", "leaves the amount open"),
        (no_invoice_at_all, "unpayable", "has no invoice"),
        (a_damaged_invoice, "unpayable", "cannot be read"),
        (an_expired_invoice, "unpayable", "has expired"),
    ],
)
async def test_a_quote_that_does_not_hold_is_not_paid(
    relay: TestRelay, buyer: Purse, lie: Callable[[Provider, JobRequest], Awaitable[None]], code: str, says: str
) -> None:
    async with provider(relay.url, lie, node=buyer.node) as p:
        last = failed(await all_of(buyer.customer, provider=p.npub))
        assert (last.code, last.msat) == (code, 0)
        assert says in last.text
        assert buyer.paid == []
        # The provider need not keep the quote open.
        await until(lambda: p.deletions)
        assert p.deletions[0].tag("e") == p.requests[0].id


# --- paying once -------------------------------------------------------------------------------------------


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


# --- forgeries and disorder --------------------------------------------------------------------------------


async def test_a_strangers_result_error_and_quote_count_for_nothing(relay: TestRelay, buyer: Purse) -> None:
    async def meddle(p: Provider, job: JobRequest) -> None:
        await p.quote(job, 1_000)
        await p.result(job, "forged")
        await p.say(p.answers(job).error("cancelled", "", p.now()))
        await p.receipt(job, None, None, cost=0)

    async def act(p: Provider, job: JobRequest) -> None:
        await until(lambda: len(stranger.said) == 4)
        await p.sell(job)

    async with provider(relay.url, act, node=buyer.node) as p, provider(relay.url, meddle, node=buyer.node) as stranger:
        # Asked of p alone; the stranger answers all the same.
        stranger.uninvited = True
        updates = await all_of(buyer.customer, provider=p.npub)
        last = done(updates)
        assert (last.provider, last.text, last.verified) == (p.keys.pubkey, "the answer", True)
        assert {u.provider for u in updates if isinstance(u, Quoted)} == {p.keys.pubkey}


async def test_after_the_payment_of_a_broadcast_only_the_payee_answers(relay: TestRelay, buyer: Purse) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        invoice = await p.quote(job)
        await p.paid(invoice)
        await until(lambda: any(e.kind == 6050 for e in stranger.said))
        await p.receipt(job, await p.result(job), invoice)

    async def meddle(p: Provider, job: JobRequest) -> None:
        await until(lambda: buyer.paid)
        await p.result(job, "forged")

    async with provider(relay.url, meddle) as stranger, provider(relay.url, act, node=buyer.node):
        last = done(await all_of(buyer.customer))
        assert (last.text, last.verified) == ("the answer", True)


async def test_partials_in_disorder_never_run_backwards(relay: TestRelay, buyer: Purse) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        answers, start = p.answers(job), p.now()
        for second, text in [(2, "one two"), (1, "one"), (4, "one two three four"), (3, "one two three")]:
            await p.say(answers.partial(text, start + second, [["remaining", str(9 - second), "5"]]))
        await p.say(answers.partial("one two three four five", start + 5, [["remaining", "-1", "none"]]))
        await p.result(job, "one two three four five six")

    options = replace(BRISK, receipt=0.3)
    async with provider(relay.url, act) as p:
        updates = await all_of(Customer(buyer.customer.keys, buyer.customer.relays, options=options), provider=p.npub)
        partials = [u for u in updates if isinstance(u, Partial)]
        assert [p.text for p in partials] == ["one two", "one two three four", "one two three four five"]
        assert [p.remaining_msat for p in partials] == [7, 5, None]


async def test_a_provider_that_is_paid_and_never_answers_is_a_time_out(relay: TestRelay, buyer: Purse) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        await p.quote(job)

    buyer.customer = Customer(buyer.customer.keys, buyer.customer.relays, payer=buyer, options=HASTY)
    async with provider(relay.url, act, node=buyer.node) as p:
        last = failed(await all_of(buyer.customer, provider=p.npub, timeout=0.5))
        assert (last.code, last.msat, last.provider) == ("timeout", 5_000, p.keys.pubkey)
        await until(lambda: p.deletions)


async def test_an_error_after_the_payment_comes_with_the_receipt_of_the_credit(relay: TestRelay, buyer: Purse) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        invoice = await p.quote(job)
        await p.paid(invoice)
        await p.say(p.answers(job).error("unavailable", "the model is away", p.now()))
        await p.receipt(job, None, invoice, cost=0, change={"usage": None, "prices": PRICES, "finish": "error"})

    async with provider(relay.url, act, node=buyer.node) as p:
        last = failed(await all_of(buyer.customer, provider=p.npub))
        assert last.code == "refused"
        assert "the model is away" in last.text
        assert last.receipt is not None
        assert last.receipt.problems == ()
        assert last.receipt.receipt.after == 5_000


async def test_nobody_pays_the_invoice_that_was_shown(relay: TestRelay, pool: RelayPool, keys: Keys) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        await p.quote(job)

    async with provider(relay.url, act) as p:
        customer = Customer(keys, pool, options=replace(HASTY, by_hand=0.3))
        last = failed(await all_of(customer, provider=p.npub))
        assert (last.code, last.msat) == ("unpaid", 0)
        assert "nobody paid the invoice in time" in last.text
        await until(lambda: p.deletions)


# --- encryption --------------------------------------------------------------------------------------------


async def test_an_answer_in_clear_to_an_encrypted_job_is_wrong(relay: TestRelay, buyer: Purse) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        invoice = await p.quote(job)
        await p.paid(invoice)
        tags = [["e", job.id], ["p", job.customer], ["status", "success"]]
        result = await p.say(p.keys.sign(6050, tags, "the answer", p.now()))
        await p.receipt(job, result, invoice)

    async with provider(relay.url, act, node=buyer.node) as p:
        last = done(await all_of(buyer.customer, provider=p.npub, encrypted=True))
        assert last.text == "the answer"
        assert last.verified is False
        assert last.problems == ("the result came in clear, and the job was asked in NIP-44",)


async def test_an_answer_in_another_encryption_is_wrong(relay: TestRelay, buyer: Purse) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        answers = p.answers(job)
        answers.scheme = "nip04"
        invoice = p.invoice(5_000)
        await p.say(answers.payment_required(5_000, invoice.bolt11, "pay", p.now()))
        await p.paid(invoice)
        result = await p.say(answers.result("the answer", p.now()))
        await p.receipt(job, result, invoice, scheme=None)

    async with provider(relay.url, act, node=buyer.node) as p:
        last = done(await all_of(buyer.customer, provider=p.npub, encrypted="nip44"))
        assert last.verified is False
        assert "the quote came in NIP-04, and the job was asked in NIP-44" in last.problems
        assert "the result came in NIP-04, and the job was asked in NIP-44" in last.problems
        assert "the job was encrypted and the receipt is not" in last.problems


async def test_a_result_that_cannot_be_decrypted_is_no_answer(relay: TestRelay, buyer: Purse) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        invoice = await p.quote(job)
        await p.paid(invoice)
        tags = [["e", job.id], ["p", job.customer], ["encrypted"]]
        await p.say(p.keys.sign(6050, tags, "not base64 at all", p.now()))

    buyer.customer = Customer(buyer.customer.keys, buyer.customer.relays, payer=buyer, options=HASTY)
    async with provider(relay.url, act, node=buyer.node) as p:
        last = failed(await all_of(buyer.customer, provider=p.npub, encrypted=True))
        assert (last.code, last.msat) == ("unreadable", 5_000)


# --- receipts ----------------------------------------------------------------------------------------------


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
