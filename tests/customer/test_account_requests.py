"""A customer asks a provider what they own, and takes it back; whatever the provider says to that."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dvm.customer import AccountFailed, Archive, Customer
from dvm.lightning.paper_node import PaperNode
from dvm.nip90 import AccountRequest, StatedBalance, StatedEntry, make_account_answer
from dvm.nostr import Keys, RelayPool
from tests.customer.purse import BRISK
from tests.standins.desk import Act, Desk, desk, foreign, silent
from tests.standins.provider import foreign_invoice
from tests.standins.relay import TestRelay

HASTY = replace(BRISK, quote=1.5, money=1.5, receipt=0.5)
"""For what does not come."""
FEE = 12
MINE = StatedBalance(21_000, 500, 10_000)


def customer_of(keys: Keys, pool: RelayPool, **more: Any) -> Customer:
    more.setdefault("options", BRISK)
    return Customer(keys, pool, **more)


async def refused(work: Any) -> AccountFailed:
    with pytest.raises(AccountFailed) as failed:
        await work
    return failed.value


# --- asking ----------------------------------------------------------------------------------------------


async def test_the_balance_is_what_the_provider_answers(pool: RelayPool, relay: TestRelay, keys: Keys) -> None:
    async def act(d: Desk, request: AccountRequest) -> None:
        await d.answer(request, balance=MINE)

    async with desk(relay.url, act) as there:
        answer = await customer_of(keys, pool).balance(there.keys.npub)
        assert (answer.balance, answer.provider) == (MINE, there.keys.pubkey)
        assert there.requests[0].method == "balance"
        assert there.requests[0].scheme == "nip44"


async def test_the_statement_has_the_entries_asked_for(pool: RelayPool, relay: TestRelay, keys: Keys) -> None:
    entries = tuple(StatedEntry(n, "ab" * 32, 5, 1, 0, 7, None) for n in (6, 5))

    async def act(d: Desk, request: AccountRequest) -> None:
        await d.answer(request, balance=MINE, entries=entries)

    async with desk(relay.url, act) as there:
        answer = await customer_of(keys, pool).statement(there.keys.npub, limit=2, before=7)
        assert answer.entries == entries
        assert [(r.method, r.limit, r.before) for r in there.requests] == [("statement", 2, 7)]


async def test_an_error_is_told_with_its_code(pool: RelayPool, relay: TestRelay, keys: Keys) -> None:
    async def act(d: Desk, request: AccountRequest) -> None:
        await d.answer(request, status="error", code="rate-limited", text="later")

    async with desk(relay.url, act) as there:
        failed = await refused(customer_of(keys, pool).balance(there.keys.npub))
        assert (failed.code, failed.text, str(failed)) == ("rate-limited", "later", "rate-limited: later")


async def test_nobody_else_can_answer(pool: RelayPool, relay: TestRelay, keys: Keys) -> None:
    async def act(d: Desk, request: AccountRequest) -> None:
        await d.answer(request, by=Keys.generate(), balance=MINE)  # a stranger
        other = make_account_answer(d.keys, (request.id, Keys.generate().pubkey, "nip44"), int(time.time()))
        await d.say(other)  # to another customer
        in_nip04 = make_account_answer(d.keys, (request.id, request.customer, "nip04"), int(time.time()), balance=MINE)
        await d.say(in_nip04)  # weaker than what was asked for
        await d.say(d.keys.sign(7092, [["p", request.customer], ["e", request.id]], "in clear"))

    async with desk(relay.url, act) as there:
        failed = await refused(customer_of(keys, pool, options=HASTY).balance(there.keys.npub))
        assert failed.code == "no-answer"
        assert len(there.said) == 4


async def test_a_provider_that_comes_late_finds_the_request(pool: RelayPool, relay: TestRelay, keys: Keys) -> None:
    async def act(d: Desk, request: AccountRequest) -> None:
        await d.answer(request, balance=MINE)

    provider = Keys.generate()
    customer = customer_of(keys, pool, options=replace(BRISK, quote=0.2))
    assert (await refused(customer.balance(provider.pubkey))).code == "no-answer"
    async with desk(relay.url, act, keys=provider) as there:
        answer = await customer_of(keys, pool).balance(provider.pubkey)
        assert answer.balance == MINE
        assert len(there.requests) == 2


async def test_what_no_relay_takes_is_said(keys: Keys, pool: RelayPool, relay: TestRelay) -> None:
    await pool.close()
    options = replace(HASTY, publish=0.3)
    assert (await refused(customer_of(keys, pool, options=options).balance(keys.npub))).code == "unpublished"


# --- withdrawing -----------------------------------------------------------------------------------------


def paying(node: PaperNode, *, fee: int = FEE, taken: int | None = None, **lies: Any) -> Act:
    """Processing, payment, success, receipt. `taken` is what the receipt takes, `lies` change the answer."""

    async def act(d: Desk, request: AccountRequest) -> None:
        await d.answer(request, status="processing")
        assert request.bolt11 is not None
        invoice = node.pay(request.bolt11)
        await d.receipt(request.customer, 100_000, "ab" * 32)
        await d.receipt(request.customer, -(invoice.msat + fee if taken is None else taken), invoice.payment_hash)
        told = {"msat": invoice.msat, "fee_msat": fee, "payment_hash": invoice.payment_hash} | lies
        await d.done(request, **told)

    return act


async def test_a_withdrawal_to_an_invoice_is_paid_and_receipted(
    pool: RelayPool, relay: TestRelay, keys: Keys, tmp_path: Path
) -> None:
    node, invoice = foreign(5_000)
    archive, heard = Archive(tmp_path), []
    async with desk(relay.url, paying(node)) as there:
        customer = customer_of(keys, pool, archive=archive)
        withdrawn = await customer.withdraw(there.keys.npub, to=invoice.bolt11, processing=heard.append)
        assert (withdrawn.msat, withdrawn.fee_msat, withdrawn.problems) == (5_000, FEE, ())
        assert withdrawn.payment_hash == invoice.payment_hash
        assert withdrawn.request == there.requests[0].id
        assert node.balance("payee") == 5_000
        assert withdrawn.receipt is not None
        assert (withdrawn.receipt.receipt.paid, withdrawn.receipt.receipt.after) == (-5_000 - FEE, 95_000 - FEE)
        assert set(withdrawn.receipt.checked) == {"signature", "payment", "chain of 2 receipts"}
        assert len(await archive.load(keys.pubkey, there.keys.pubkey)) == 2
        assert all(answer.status == "processing" for answer in heard)


@pytest.mark.parametrize(
    ("lie", "problem"),
    [
        ({"taken": 5_000 + FEE + 1}, "it takes 5013 msat, not 5012"),
        ({"msat": 4_000, "fee_msat": 1_012}, "says that it has paid 4000 msat"),
    ],
)
async def test_a_withdrawal_that_takes_too_much_is_found(
    pool: RelayPool, relay: TestRelay, keys: Keys, lie: dict[str, Any], problem: str
) -> None:
    node, invoice = foreign(5_000)
    async with desk(relay.url, paying(node, **lie)) as there:
        withdrawn = await customer_of(keys, pool).withdraw(there.keys.npub, to=invoice.bolt11)
        assert any(problem in each for each in withdrawn.problems), withdrawn.problems


async def test_a_withdrawal_said_to_be_paid_to_another_is_found(pool: RelayPool, relay: TestRelay, keys: Keys) -> None:
    async def act(d: Desk, request: AccountRequest) -> None:
        await d.done(request, 5_000, 0, "cd" * 32)
        await d.receipt(request.customer, -5_000, "cd" * 32, before=10_000)

    async with desk(relay.url, act) as there:
        withdrawn = await customer_of(keys, pool).withdraw(there.keys.npub, to=foreign(5_000)[1].bolt11)
        assert any("cdcd" in problem for problem in withdrawn.problems)


async def test_a_receipt_that_breaks_the_chain_is_found(pool: RelayPool, relay: TestRelay, keys: Keys) -> None:
    _, invoice = foreign(5_000)

    async def act(d: Desk, request: AccountRequest) -> None:
        await d.receipt(request.customer, 100_000, "ab" * 32)
        await d.receipt(request.customer, -5_000, invoice.payment_hash, before=50_000)
        await d.done(request, 5_000, 0, invoice.payment_hash)

    async with desk(relay.url, act) as there:
        withdrawn = await customer_of(keys, pool).withdraw(there.keys.npub, to=invoice.bolt11)
        assert any("it begins with 50000 msat, not 100000" in problem for problem in withdrawn.problems)


async def test_without_a_receipt_in_time_it_is_paid_all_the_same(pool: RelayPool, relay: TestRelay, keys: Keys) -> None:
    _, invoice = foreign(5_000)

    async def act(d: Desk, request: AccountRequest) -> None:
        await d.done(request, 5_000, 0, invoice.payment_hash)

    async with desk(relay.url, act) as there:
        customer = customer_of(keys, pool, options=replace(BRISK, receipt=0.3))
        withdrawn = await customer.withdraw(there.keys.npub, to=invoice.bolt11)
        assert (withdrawn.receipt, withdrawn.problems) == (None, ())


@pytest.mark.parametrize("to", [None, "name@example.com"])
async def test_a_withdrawal_to_an_address_or_to_the_one_in_the_profile(
    pool: RelayPool, relay: TestRelay, keys: Keys, to: str | None
) -> None:
    async def act(d: Desk, request: AccountRequest) -> None:
        assert (request.amount_msat, request.bolt11, request.lud16) == (7_000, None, to)
        await d.receipt(request.customer, -7_000, "ab" * 32, before=8_000)
        await d.done(request, 7_000, 0, "ab" * 32)

    async with desk(relay.url, act) as there:
        withdrawn = await customer_of(keys, pool).withdraw(there.keys.npub, to=to, msat=7_000)
        assert withdrawn.msat == 7_000


async def test_a_refused_withdrawal_has_its_reason(pool: RelayPool, relay: TestRelay, keys: Keys) -> None:
    async def act(d: Desk, request: AccountRequest) -> None:
        await d.answer(request, status="processing")
        await d.answer(request, status="error", code="insufficient", text="your balance is 5 msat")

    async with desk(relay.url, act) as there:
        failed = await refused(customer_of(keys, pool).withdraw(there.keys.npub, msat=7_000))
        assert (failed.code, failed.text) == ("insufficient", "your balance is 5 msat")


async def test_a_withdrawal_that_nobody_answers_may_still_be_paid(
    pool: RelayPool, relay: TestRelay, keys: Keys
) -> None:
    async with desk(relay.url, silent) as there:
        failed = await refused(customer_of(keys, pool, options=HASTY).withdraw(there.keys.npub, msat=7_000))
        assert failed.code == "no-answer"
        until = time.strftime("%H:%M", time.gmtime(there.requests[0].event.created_at + 600))
        assert until in failed.text
        assert "do not ask again before" in failed.text


async def test_a_withdrawal_whose_end_nobody_knows_is_unclear(pool: RelayPool, relay: TestRelay, keys: Keys) -> None:
    async def act(d: Desk, request: AccountRequest) -> None:
        await d.answer(request, status="processing")

    async with desk(relay.url, act) as there:
        failed = await refused(customer_of(keys, pool, options=HASTY).withdraw(there.keys.npub, msat=7_000))
        assert failed.code == "unclear"
        assert there.requests[0].id in failed.text
        assert len(there.requests) == 1, "asked once"


async def test_a_success_that_says_nothing_is_unclear(pool: RelayPool, relay: TestRelay, keys: Keys) -> None:
    async def act(d: Desk, request: AccountRequest) -> None:
        await d.answer(request)

    async with desk(relay.url, act) as there:
        assert (await refused(customer_of(keys, pool).withdraw(there.keys.npub, msat=7_000))).code == "unclear"


@pytest.mark.parametrize(
    ("to", "msat", "why"),
    [
        (None, None, "how much"),
        ("name@example.com", None, "how much"),
        ("name@example.com", 1_500, "whole number of sats"),
        ("name@example.com", 0, "whole number of sats"),
        ("name@example.com", -1_000, "whole number of sats"),
        ("nonsense", 1_000, "neither a Lightning address"),
        (foreign_invoice(0, "regtest"), 1_000, "leaves the amount open"),
        (foreign_invoice(5_000, "regtest"), 6_000, "over 5000 msat, and 6000"),
    ],
)
async def test_what_cannot_be_withdrawn_is_not_even_asked(
    pool: RelayPool, relay: TestRelay, keys: Keys, to: str | None, msat: int | None, why: str
) -> None:
    async with desk(relay.url) as there:
        with pytest.raises(ValueError, match=why):
            await customer_of(keys, pool).withdraw(there.keys.npub, to=to, msat=msat)
        assert there.requests == []
