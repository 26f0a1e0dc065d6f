"""Quotes that must not be paid."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from dvm.nip90 import JobRequest
from tests.customer.conftest import all_of, failed
from tests.customer.purse import Purse
from tests.standins.provider import Provider, foreign_invoice, provider
from tests.standins.relay import TestRelay
from tests.standins.waiting import until


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
