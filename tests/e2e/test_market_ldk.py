"""Everything that can be sold and paid back over real Lightning: the shop's and the customer's LDK node, with a
channel between them that is cut, and deadlines that blocks bring nearer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dvm.ledger import JobState, Payout, PayoutState
from dvm.lightning.base import InvoiceState, Payment, WalletError
from dvm.lightning.bolt11 import decode
from dvm.lightning.nwc import NwcWallet
from dvm.lightning.nwc_client import Options
from dvm.nip90 import Receipt
from tests.e2e.market import Market, Promise, Wallets, market
from tests.standins.customer import customer
from tests.standins.gemini import GeminiStandIn
from tests.standins.ldk import LdkNetwork, ldk_network, program
from tests.standins.relay import TestRelay, running_relay
from tests.standins.waiting import until

pytestmark = [pytest.mark.node, pytest.mark.asyncio(loop_scope="module")]

PATIENT = Options(timeout=20.0, pay_timeout=120.0, resend=0.5, backoff=0.05, poll=0.2)
PRICE = {"input": 10_000, "cached": 2_500, "output": 40_000, "max_output_tokens": 1024}
SLOW = {"provider": "echo", **PRICE, "chunk_tokens": 16, "delay_seconds": 0.5}  # a dozen words take half a second
LONG = 800  # words: half a minute
BROKEN = [("model", "broken")]  # the one that refuses to answer


@dataclass
class Street:
    """A relay, two nodes, and their wallets: the shop's, beside the daemon's own connection, and the customer's."""

    relay: TestRelay
    ldk: LdkNetwork
    shop: NwcWallet
    customer: NwcWallet

    async def pay(self, bolt11: str) -> Payment:
        payment = await self.customer.pay(bolt11, fee_limit_msat=10_000)
        if payment.state is not InvoiceState.SETTLED:
            raise WalletError("failed", f"the payment is {payment.state.value}")
        return payment

    async def invoice(self, msat: int) -> str:
        return (await self.customer.create_invoice(msat, description="mine", expiry=600)).bolt11

    def wallets(self, **table: Any) -> Wallets:
        return Wallets({"type": "nwc", **table}, {"DVM_NWC_URI": self.ldk.shop}, self.pay, self.invoice)

    async def balance(self, of: str) -> int:
        """What `shop` or `customer` has in the channel, msat."""
        return int((await self.ldk.state())["wallets"][of]["balance"])

    async def payments(self, of: str, payment_hash: str) -> list[tuple[str, str, int]]:
        """Direction, state and amount of all that this wallet knows of that hash."""
        known = (await self.ldk.state())["wallets"][of]["transactions"]
        return [(t["type"], t["state"], t["amount"]) for t in known if t["payment_hash"] == payment_hash]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def street() -> AsyncIterator[Street]:
    program()
    async with running_relay() as relay, ldk_network(relay.url) as ldk:
        shop, buyer = (NwcWallet(uri, options=PATIENT) for uri in (ldk.shop, ldk.customer))
        await shop.start()
        await buyer.start()
        yield Street(relay, ldk, shop, buyer)
        await shop.close()
        await buyer.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def patient_shop(street: Street, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Market]:
    """It sells on hold invoices, and takes its time."""
    async with GeminiStandIn() as gemini:
        wallets = street.wallets(hold=True)
        wallets.env = {**wallets.env, "GEMINI_API_KEY": gemini.key}
        broken = {"provider": "gemini", "model": "gemini-blocks", "base_url": gemini.url, **PRICE}
        tables = {
            "models": {"slow": SLOW, "broken": broken},
            "service": [{"kind": 5050, "models": ["slow", "broken"], "price": "per-token"}],
        }
        directory = tmp_path_factory.mktemp("shop") / "shop"
        async with market(directory, street.relay.url, wallets, tables=tables) as each:
            yield each


@pytest_asyncio.fixture(loop_scope="module")
async def each(patient_shop: Market, street: Street) -> AsyncIterator[Market]:
    """That shop, open, reachable, and with a customer who is new to it, whatever the last test has left."""
    await street.ldk.post("/reconnect")
    if not patient_shop.shop.running:
        await patient_shop.shop.start()
    async with customer(street.relay.url) as buyer:
        yield replace(patient_shop, buyer=buyer, paid=[])


async def test_jobs_zaps_top_ups_and_withdrawals_over_a_channel(street: Street, tmp_path: Path) -> None:
    before = {name: await street.balance(name) for name in ("shop", "customer")}
    async with market(tmp_path / "shop", street.relay.url, street.wallets()) as each:
        await each.buy()
        await each.buy_by_zap()
        await each.top_up(500_000)
        await each.spend()
        withdrawn = await each.withdraw(100_000)
        assert withdrawn.paid == -100_000  # there is nobody on the way who would take a fee
        payment_hash = withdrawn.payments[0].payment_hash
        assert await street.payments("customer", payment_hash) == [("incoming", "settled", 100_000)]
        accounts = await each.books_are_right()
        earned = 2 * 21_000 + 500_000 - 100_000
        assert accounts["wallet"] == -earned
        assert await street.balance("shop") == before["shop"] + earned
        assert await street.balance("customer") == before["customer"] - earned


# --- hold invoices -------------------------------------------------------------------------------------


async def test_an_accepted_payment_is_settled_with_the_answer_and_the_change_is_kept(
    street: Street, each: Market
) -> None:
    before = await street.balance("shop")
    async with each.promised(60) as promise:
        assert await street.payments("shop", promise.payment_hash) == [("incoming", "accepted", promise.msat)]
        receipt = await settled(each, promise)
    assert 0 < receipt.cost < promise.msat
    assert receipt.after == promise.msat - receipt.cost
    assert await street.balance("shop") == before + promise.msat


async def test_without_an_answer_the_payment_is_sent_back(street: Street, each: Market) -> None:
    async with going_back(street, each, JobState.FAILED, params=BROKEN) as promise:
        assert (await each.buyer.feedback(promise.job, "error")).text.startswith("blocked:")


async def test_a_job_that_its_customer_cancels_is_sent_back(street: Street, each: Market) -> None:
    async with going_back(street, each, JobState.CANCELLED) as promise:
        await each.buyer.feedback(promise.job, "processing")
        await each.buyer.cancel(promise.job)
        await each.buyer.feedback(promise.job, "error")


@pytest.mark.parametrize("short_of", [3, 0], ids=["nearly reached", "passed"])
async def test_at_the_deadline_the_run_ends_and_the_payment_is_sent_back(
    street: Street, each: Market, short_of: int
) -> None:
    async with going_back(street, each, JobState.FAILED) as promise:
        await each.buyer.feedback(promise.job, "processing")
        left = (await street.shop.lookup(promise.payment_hash)).blocks_left
        assert left is not None
        assert left > 100
        await street.ldk.post(f"/block?n={left - short_of}")
        assert (await each.buyer.feedback(promise.job, "error", 60)).text.startswith("payment-lost:")


async def test_killed_while_a_payment_waits_the_shop_settles_and_delivers_once(street: Street, each: Market) -> None:
    async with each.promised(100) as promise:
        await each.buyer.feedback(promise.job, "processing")
        await each.shop.kill()
        assert await state(each, promise.job) is JobState.RUNNING
        assert await street.payments("shop", promise.payment_hash) == [("incoming", "accepted", promise.msat)]
        await each.shop.start()
        await settled(each, promise)
    assert len(each.buyer.results(promise.job)) == 1


async def test_killed_and_started_after_the_deadline_the_shop_delivers_nothing(street: Street, each: Market) -> None:
    async with going_back(street, each, JobState.FAILED) as promise:
        await each.buyer.feedback(promise.job, "processing")
        left = (await street.shop.lookup(promise.payment_hash)).blocks_left
        assert left is not None
        await each.shop.kill()
        await street.ldk.post(f"/block?n={left}")
        await each.shop.start()
        assert (await each.buyer.feedback(promise.job, "error", 60)).text.startswith("payment-lost:")


async def test_what_a_zap_has_paid_for_is_not_paid_for_again_by_the_invoice(street: Street, each: Market) -> None:
    job = await each.ask(100)
    quote = await each.buyer.quote(job)
    assert quote.bolt11 is not None
    assert quote.msat is not None
    zapped = await each.zap(quote.msat, quote.event.id)
    before = await street.balance("customer")
    with pytest.raises(WalletError, match="the payment is failed"):
        await street.pay(quote.bolt11)
    receipt = await each.buyer.receipt(job, 60)
    assert [(p.source, p.payment_hash, p.msat) for p in receipt.payments] == [("zap", zapped, quote.msat)]
    assert (await each.buyer.result(job)).content
    await until(lambda: balances_are(street, {"customer": before}), 30)
    await until(lambda: promised_nothing(each), 30)
    await each.books_are_right()


async def test_a_zap_on_a_quote_whose_payment_waits_is_a_top_up(street: Street, each: Market) -> None:
    async with each.promised(100) as promise:
        quote = await each.buyer.quote(promise.job)
        await each.buyer.feedback(promise.job, "processing")
        await each.zap(promise.msat, quote.event.id)
        assert (await each.receipt_of(each.paid[0])).after == promise.msat
        receipt = await settled(each, promise)
    assert receipt.after == 2 * promise.msat - receipt.cost


async def test_the_link_is_cut_while_a_payment_waits_and_the_answer_comes(street: Street, each: Market) -> None:
    async with each.promised(100) as promise:
        await each.buyer.feedback(promise.job, "processing")
        await street.ldk.post("/disconnect")
        await each.buyer.result(promise.job, 60)
        assert not promise.paying.done()  # the payer's node cannot know yet
        await street.ldk.post("/reconnect")
        await settled(each, promise)


async def test_the_link_is_cut_while_a_payment_waits_and_the_job_is_cancelled(street: Street, each: Market) -> None:
    async with going_back(street, each, JobState.CANCELLED) as promise:
        await each.buyer.feedback(promise.job, "processing")
        await street.ldk.post("/disconnect")
        await each.buyer.cancel(promise.job)
        await each.buyer.feedback(promise.job, "error")
        assert not promise.paying.done()
        await street.ldk.post("/reconnect")


# --- withdrawals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [False, True], ids=["the shop waits", "the shop is killed"])
async def test_a_withdrawal_that_the_cut_link_keeps_in_flight_is_paid_once(
    street: Street, each: Market, killed: bool
) -> None:
    await each.top_up(500_000)
    before = await street.balance("customer")
    bolt11 = await each.wallets.invoice(200_000)
    payment_hash = decode(bolt11).payment_hash
    await street.ldk.post("/disconnect?how=stall")
    request = await each.ask_to_withdraw(bolt11)
    await each.answer(request, "processing")
    await until(lambda: in_flight(street, payment_hash), 30)
    if killed:
        await each.shop.kill()
        await each.shop.start()
    again = await each.ask_to_withdraw(bolt11)  # another request for the same invoice
    assert "invoice" in (await each.answer(again, "error")).text
    assert [(p.payment_hash, p.msat) for p in await reserved(each)] == [(payment_hash, 200_000)]
    assert await in_flight(street, payment_hash)
    await street.ldk.post("/disconnect")
    await street.ldk.post("/reconnect")
    answer = await each.answer(request, "success")
    assert answer.withdrawal is not None
    assert (answer.withdrawal.state, answer.withdrawal.msat) == ("paid", 200_000)
    receipt = await each.receipt_of(payment_hash)
    assert receipt.paid == -200_000
    assert await street.payments("customer", payment_hash) == [("incoming", "settled", 200_000)]
    assert await street.payments("shop", payment_hash) == [("outgoing", "settled", 200_000)]
    assert await street.balance("customer") == before + 200_000
    assert await reserved(each) == []
    await each.books_are_right()


async def in_flight(street: Street, payment_hash: str) -> bool:
    return (await street.shop.payment(payment_hash)).state is InvoiceState.PENDING


async def reserved(each: Market) -> list[Payout]:
    store = await each.shop.store()
    try:
        return await store.payouts((PayoutState.RESERVED,))
    finally:
        await store.close()


# --- how it ends ---------------------------------------------------------------------------------------


async def settled(each: Market, promise: Promise) -> Receipt:
    """Answer and receipt are there, the payer has the preimage, and the books are right. The receipt."""
    assert (await each.buyer.result(promise.job, 60)).content
    receipt = await each.buyer.receipt(promise.job, 60)
    paid = [(p.source, p.payment_hash, p.msat) for p in receipt.payments]
    assert paid == [("bolt11", promise.payment_hash, promise.msat)]
    payment = await promise.outcome()
    assert sha256(bytes.fromhex(payment.preimage)).hexdigest() == promise.payment_hash
    assert await state(each, promise.job) is JobState.DELIVERED
    each.paid.append(promise.payment_hash)
    await each.books_are_right()
    return receipt


@asynccontextmanager
async def going_back(street: Street, each: Market, end: JobState, **fields: Any) -> AsyncIterator[Promise]:
    """A payment for a long job that will be sent back: the customer has it again, and nothing was delivered."""
    before = {name: await street.balance(name) for name in ("shop", "customer")}
    async with each.promised(LONG, **fields) as promise:
        yield promise
        with pytest.raises(WalletError, match="the payment is failed"):
            await promise.outcome()
    await until(lambda: balances_are(street, before), 30)
    await until(lambda: promised_nothing(each), 30)
    assert await state(each, promise.job) is end
    assert each.buyer.results(promise.job) == set()
    assert each.buyer.chain() == []
    await each.books_are_right()


async def balances_are(street: Street, expected: dict[str, int]) -> bool:
    return {name: await street.balance(name) for name in expected} == expected


async def promised_nothing(each: Market) -> bool:
    store = await each.shop.store()
    try:
        return await store.promises() == []
    finally:
        await store.close()


async def state(each: Market, job: str) -> JobState | None:
    store = await each.shop.store()
    try:
        found = await store.job(job)
        return None if found is None else found.state
    finally:
        await store.close()
