"""Jobs on hold invoices: settled and delivered, or sent back and not delivered; never anything between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from dvm.jobs.payments.promises import preimage_of
from dvm.ledger import JobState, StoreError
from dvm.lightning.base import InvoiceState, Lookup, WalletError
from dvm.models import Chunk, ModelError, Usage
from dvm.nostr.keys import Keys
from tests.jobs.test_races import Gates
from tests.standins.customer import RESULT, Customer
from tests.standins.scripted import STALL, USED, answer
from tests.standins.waiting import until
from tests.standins.workshop import Workshop, workshop

COST = 100 * 1_000 + 50 * 4_000  # msat of USED at the workshop's prices
QUOTE = 100 * 1_000 + 60 * 4_000
LIMIT = [("max_tokens", "60")]


@pytest.fixture
def gates() -> list[Gates]:
    return []


@pytest.fixture
async def shop(relay: str, tmp_path: Path, gates: list[Gates]) -> AsyncIterator[Workshop]:
    def around(store: Any) -> Gates:
        gates.append(Gates(store))
        return gates[-1]

    async with workshop(relay, data=tmp_path, around=around, hold=True, lease_seconds=1) as each:
        yield each


async def promised(shop: Workshop, buyer: Customer, text: str = "a", **fields: Any) -> tuple[str, str]:
    """A job, asked for and paid with money that waits: its id and its payment hash."""
    job = await buyer.ask(text, params=LIMIT, **fields)
    return job, await shop.pay(buyer, job)


def paper(shop: Workshop, payment_hash: str) -> Any:
    invoice = shop.node.get(payment_hash)
    assert invoice is not None
    return invoice


async def sent_back(shop: Workshop, payment_hash: str) -> None:
    """The money is with the payer again, nothing was earned, and nobody watches for it any more."""
    await until(lambda: paper(shop, payment_hash).cancelled_at is not None)
    await until(lambda: _forgotten(shop))
    assert shop.node.balance("shop") == 0
    accounts = await shop.balanced()
    assert not any(accounts.values())


async def _forgotten(shop: Workshop) -> bool:
    return not await shop.store.promises()


async def test_an_answer_is_settled_for_and_what_was_not_used_stays(shop: Workshop, buyer: Customer) -> None:
    job, payment_hash = await promised(shop, buyer)
    assert "charged once the answer is there" in (await buyer.quote(job)).text
    result = await buyer.result(job)
    assert result.content == "well"
    receipt = await buyer.receipt(job)
    assert (receipt.cost, receipt.paid, receipt.after) == (COST, QUOTE, QUOTE - COST)
    assert [p.payment_hash for p in receipt.payments] == [payment_hash]
    assert buyer.check_chain(payment_hash) == QUOTE - COST
    assert paper(shop, payment_hash).settled_at is not None
    assert await shop.state(job) is JobState.DELIVERED
    assert (await shop.balanced())["revenue"] == COST


async def test_nothing_of_an_answer_is_seen_before_it_is_settled(
    shop: Workshop, buyer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.model.script = ["one ", "two ", "three ", "four ", Chunk("five", usage=USED, finish="stop")]
    settle, refused = shop.wallet.settle_hold, asyncio.Event()

    async def away(_preimage: str) -> None:
        refused.set()
        raise WalletError("unreachable", "no answer")

    monkeypatch.setattr(shop.wallet, "settle_hold", away)
    job, _ = await promised(shop, buyer)
    await refused.wait()
    assert await shop.state(job) is JobState.SETTLING
    assert not [each for each in buyer.said(job) if each.startswith(("partial", str(RESULT)))]
    monkeypatch.setattr(shop.wallet, "settle_hold", settle)
    assert (await buyer.result(job)).content == "one two three four five"
    assert not [each for each in buyer.said(job) if each.startswith("partial")]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ([ModelError("blocked", "no")], "blocked"),
        ([ModelError("unavailable", "down")], "unavailable"),
        ([Chunk("", usage=Usage(input=100, thoughts=60), finish="length")], "no-answer"),
    ],
    ids=["refuses", "is down", "only thinks"],
)
async def test_without_an_answer_the_money_goes_back(
    shop: Workshop, buyer: Customer, script: list[Any], code: str
) -> None:
    shop.model.script = script
    job, payment_hash = await promised(shop, buyer)
    said = await buyer.feedback(job, "error")
    assert said.text.startswith(f"{code}:")
    await sent_back(shop, payment_hash)
    assert await shop.state(job) is JobState.FAILED
    assert buyer.results(job) == set()


async def test_a_cancelled_job_is_not_charged(shop: Workshop, buyer: Customer) -> None:
    shop.model.script = ["begun", STALL]
    job, payment_hash = await promised(shop, buyer)
    await until(lambda: shop.model.running)
    await buyer.cancel(job)
    await buyer.feedback(job, "error")
    await sent_back(shop, payment_hash)
    assert await shop.state(job) is JobState.CANCELLED


async def test_a_job_cancelled_while_it_waits_for_its_turn_is_sent_back(
    relay: str, tmp_path: Path, buyer: Customer
) -> None:
    async with workshop(relay, data=tmp_path, hold=True, concurrency=1) as shop:
        shop.model.script = [STALL]
        first, first_hash = await promised(shop, buyer)
        await until(lambda: shop.model.running)
        second, second_hash = await promised(shop, buyer, "b")
        await until(lambda: paper(shop, second_hash).held)
        await buyer.cancel(second)
        await until(lambda: paper(shop, second_hash).cancelled_at is not None)
        assert paper(shop, first_hash).held
        await buyer.cancel(first)
        await sent_back(shop, first_hash)


async def test_an_unpaid_quote_that_is_cancelled_cannot_be_paid_any_more(shop: Workshop, buyer: Customer) -> None:
    job = await buyer.ask("a", params=LIMIT)
    quote = await buyer.quote(job)
    assert quote.bolt11 is not None
    await buyer.cancel(job)
    await buyer.feedback(job, "error")
    payment_hash = shop.node.find(quote.bolt11).payment_hash
    await until(lambda: paper(shop, payment_hash).cancelled_at is not None)
    with pytest.raises(WalletError):
        shop.node.pay(quote.bolt11)


async def test_a_run_ends_before_the_money_goes_back_by_itself(shop: Workshop, buyer: Customer) -> None:
    shop.model.script = ["begun", STALL]
    job, payment_hash = await promised(shop, buyer)
    await until(lambda: shop.model.running)
    left = paper(shop, payment_hash).deadline - shop.node.height
    shop.node.mine(left - shop.settings.hold_margin_blocks)
    said = await buyer.feedback(job, "error")
    assert said.text.startswith("payment-lost:")
    await sent_back(shop, payment_hash)
    assert shop.model.stopped == 1


async def test_money_that_waits_too_short_is_not_worked_for(shop: Workshop, buyer: Customer) -> None:
    job = await buyer.ask("a", params=LIMIT)
    quote = await buyer.quote(job)
    assert quote.bolt11 is not None
    await shop.close()
    payment_hash = shop.node.pay(quote.bolt11).payment_hash
    shop.node.mine(paper(shop, payment_hash).deadline - shop.node.height - 1)
    await shop.open()
    await until(lambda: paper(shop, payment_hash).cancelled_at is not None)
    assert shop.model.prompts == []
    assert await shop.state(job) is JobState.QUOTED


async def test_an_answer_that_cannot_be_settled_in_time_is_not_delivered(
    shop: Workshop, buyer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_preimage: str) -> None:
        raise WalletError("unreachable", "no answer")

    monkeypatch.setattr(shop.wallet, "settle_hold", away)
    job, payment_hash = await promised(shop, buyer)
    await until(lambda: _in(shop, job, JobState.SETTLING))
    shop.node.mine(paper(shop, payment_hash).deadline - shop.node.height)
    await buyer.feedback(job, "error")
    await sent_back(shop, payment_hash)
    assert await shop.state(job) is JobState.FAILED
    assert buyer.results(job) == set()


async def _in(shop: Workshop, job: str, state: JobState) -> bool:
    return await shop.state(job) is state


async def test_money_that_came_while_the_shop_was_closed_is_worked_for(shop: Workshop, buyer: Customer) -> None:
    job = await buyer.ask("a", params=LIMIT)
    quote = await buyer.quote(job)
    assert quote.bolt11 is not None
    await shop.close()
    shop.node.pay(quote.bolt11)
    await shop.open()
    assert (await buyer.result(job)).content == "well"
    assert (await buyer.receipt(job)).cost == COST


@pytest.mark.parametrize("moment", ["before accept", "after accept", "before finish", "after finish", "before settle"])
async def test_a_store_that_fails_between_two_steps_changes_nothing_of_the_end(
    shop: Workshop, buyer: Customer, gates: list[Gates], moment: str
) -> None:
    when, operation = moment.split()

    async def fail() -> None:
        raise StoreError("the disk is full")

    getattr(gates[-1], when)[operation] = fail
    job, payment_hash = await promised(shop, buyer)
    await until(lambda: operation not in getattr(gates[-1], when))
    await shop.reopen()
    assert (await buyer.result(job)).content == "well"
    await buyer.receipt(job)
    assert len(buyer.results(job)) == 1
    assert paper(shop, payment_hash).settled_at is not None
    assert (await shop.balanced())["revenue"] == COST


async def test_a_settlement_that_nobody_has_confirmed_is_confirmed_after_a_restart(
    shop: Workshop, buyer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = shop.wallet.settle_hold

    async def done_and_silent(preimage: str) -> None:
        await settle(preimage)
        shop.wallet.faults.error = "unreachable"  # from now on: nor is any look-up answered
        raise WalletError("unreachable", "no answer")

    monkeypatch.setattr(shop.wallet, "settle_hold", done_and_silent)
    job, payment_hash = await promised(shop, buyer)
    await until(lambda: paper(shop, payment_hash).settled_at is not None)
    await shop.close()
    assert buyer.results(job) == set()
    monkeypatch.setattr(shop.wallet, "settle_hold", settle)
    shop.wallet.faults.error = None
    await shop.open()
    assert (await buyer.result(job)).content == "well"
    assert (await shop.balanced())["revenue"] == COST


async def test_a_settlement_of_nothing_delivers_nothing_and_is_asked_about_again(
    shop: Workshop, buyer: Customer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lookup, lied = shop.wallet.lookup, asyncio.Event()

    async def nothing(payment_hash: str) -> Lookup:
        found = await lookup(payment_hash)
        if found.state is InvoiceState.SETTLED:
            lied.set()
            return Lookup(InvoiceState.SETTLED, 0)
        return found

    monkeypatch.setattr(shop.wallet, "lookup", nothing)
    job, _ = await promised(shop, buyer)
    await lied.wait()
    await until(lambda: "nothing was received" in str([vars(each) for each in caplog.records]))
    assert await shop.state(job) is JobState.SETTLING
    assert buyer.results(job) == set()
    monkeypatch.setattr(shop.wallet, "lookup", lookup)
    assert (await buyer.result(job)).content == "well"
    assert "unexpected error" not in caplog.text


async def test_a_refund_that_failed_is_made_up_for(
    shop: Workshop, buyer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel, tried = shop.wallet.cancel_hold, asyncio.Event()

    async def away(_payment_hash: str) -> None:
        tried.set()
        raise WalletError("unreachable", "no answer")

    shop.model.script = [ModelError("blocked", "no")]
    monkeypatch.setattr(shop.wallet, "cancel_hold", away)
    job, payment_hash = await promised(shop, buyer)
    await buyer.feedback(job, "error")
    await tried.wait()
    await shop.close()
    assert paper(shop, payment_hash).held
    monkeypatch.setattr(shop.wallet, "cancel_hold", cancel)
    await shop.open()
    await sent_back(shop, payment_hash)


async def test_a_wallet_without_hold_invoices_sells_on_plain_ones(
    shop: Workshop, buyer: Customer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def lacking(*_: Any, **__: Any) -> None:
        raise WalletError("unsupported", "make_hold_invoice: the wallet lacks it")

    monkeypatch.setattr(shop.wallet, "create_hold_invoice", lacking)
    job, payment_hash = await promised(shop, buyer)
    assert (await buyer.result(job)).content == "well"
    assert paper(shop, payment_hash).hold is None
    assert "the wallet makes no hold invoices" in caplog.text


async def test_a_lie_about_money_that_waits_starts_nothing(shop: Workshop, buyer: Customer) -> None:
    job = await buyer.ask("a", params=LIMIT)
    quote = await buyer.quote(job)
    assert quote.bolt11 is not None
    payment_hash = shop.node.find(quote.bolt11).payment_hash
    shop.wallet._hints.tell(payment_hash)
    await until(lambda: payment_hash not in shop.engine.settlements._checking)
    assert await shop.state(job) is JobState.QUOTED
    assert shop.model.prompts == []


async def test_an_encrypted_job_stays_so(shop: Workshop, buyer: Customer) -> None:
    shop.model.scripts = [answer("a secret")]
    job, _ = await promised(shop, buyer, providers=[shop.keys.pubkey], scheme="nip44")
    assert (await buyer.result(job)).content == "a secret"
    receipt = await buyer.receipt(job)
    assert receipt.scheme == "nip44"
    assert all("a secret" not in event.to_json() for event in buyer.heard[job])


def test_a_preimage_is_made_again_from_the_key_alone() -> None:
    keys, job = Keys.generate(), "ab" * 32
    secret = keys.derive(f"hold invoice:{job}:77")
    payment_hash = sha256(secret).hexdigest()
    assert preimage_of(keys, job, payment_hash) == secret.hex()
    assert preimage_of(keys, "cd" * 32, payment_hash) is None
    assert preimage_of(Keys.generate(), job, payment_hash) is None
