"""Providers that lie, and strangers that meddle: no forgery, disorder or silence is taken for an answer."""

from __future__ import annotations

from dataclasses import replace

from dvm.customer import (
    Customer,
    Partial,
    Quoted,
)
from dvm.nip90 import JobRequest
from dvm.nostr import Keys, RelayPool
from tests.customer.conftest import all_of, done, failed
from tests.customer.purse import BRISK, HASTY, Purse
from tests.standins.provider import PRICES, Provider, provider
from tests.standins.relay import TestRelay
from tests.standins.waiting import until


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
