"""What money.md tells of payments: late, lost, doubled, unknown, and what a restart must not forget."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pytest

from dvm.jobs.admission import standard_policies
from dvm.ledger import JobState
from dvm.lightning.base import InvoiceState, Lookup
from dvm.lightning.paper import PaperWallet
from dvm.models.echo import EchoModel
from dvm.nip90 import FEEDBACK, request_draft
from tests.standins.customer import KIND, Customer, customer
from tests.standins.relay import local_relay
from tests.standins.scripted import ScriptedModel
from tests.standins.waiting import until
from tests.standins.workshop import Workshop, workshop


class TalkingWallet(PaperWallet):
    """Counts what it is asked, and says of invoices what `says` has, by payment hash."""

    def __init__(self, wallet: PaperWallet) -> None:
        super().__init__(wallet.node)
        self.calls: Counter[str] = Counter()
        self.says: dict[str, Lookup] = {}
        self.always: InvoiceState | None = None

    async def lookup(self, payment_hash: str) -> Lookup:
        self.calls["lookup"] += 1
        return (await self._found([payment_hash]))[payment_hash]

    async def lookup_many(
        self, payment_hashes: Collection[str], since: int, holds: Collection[str] | None = None
    ) -> dict[str, Lookup]:
        self.calls["lookup_many"] += 1
        return await self._found(payment_hashes)

    async def _found(self, payment_hashes: Collection[str]) -> dict[str, Lookup]:
        found = await super().lookup_many(payment_hashes, 0)
        if self.always is not None:
            return dict.fromkeys(payment_hashes, Lookup(self.always))
        return found | {key: self.says[key] for key in payment_hashes if key in self.says}


@pytest.fixture
async def wallet(shop: Workshop) -> TalkingWallet:
    """The shop's wallet, in the place of the plain one."""
    await shop.close()
    talking = TalkingWallet(shop.wallet)
    shop.wallet = talking
    await shop.open()
    return talking


async def state_becomes(shop: Workshop, job: str, state: JobState) -> None:
    async with asyncio.timeout(10):
        while await shop.state(job) is not state:
            await asyncio.sleep(0.01)


async def available(shop: Workshop, buyer: Customer) -> int:
    return (await shop.store.balance(buyer.keys.pubkey)).available


async def test_money_08_a_payment_that_nobody_reports_is_found(shop: Workshop, buyer: Customer) -> None:
    shop.wallet.faults.drop_settlements = True
    job = await buyer.ask("a")
    await shop.pay(buyer, job)
    assert (await buyer.result(job)).content == "well"


async def test_money_08_a_payment_during_downtime_is_found_at_the_start(shop: Workshop, buyer: Customer) -> None:
    job = await buyer.ask("a")
    await buyer.quote(job)
    await shop.close()
    shop.wallet.faults.drop_settlements = True
    await shop.pay(buyer, job)
    shop.set(reconcile_seconds=3600)  # the sweep at the start has to find it
    await shop.open()
    assert (await buyer.result(job)).content == "well"


async def test_money_09_the_balance_that_is_shown_admits_the_job_to_the_msat(shop: Workshop, buyer: Customer) -> None:
    first = await buyer.ask("a", params=[("max_tokens", "225")])  # 1000 sats, of which 300 are used
    await shop.pay(buyer, first)
    shown = (await buyer.receipt(first)).after
    assert shown == await available(shop, buyer) == 700_000
    fits = await buyer.ask("b", params=[("max_tokens", "150")])
    assert (await buyer.receipt(fits)).before == shown
    assert shown - 300_000 == await available(shop, buyer)
    one_sat_more = await buyer.ask("c", params=[("max_tokens", "76")])
    assert (await buyer.quote(one_sat_more)).msat == 404_000


async def test_money_14_what_the_wallet_cannot_say_is_neither_paid_nor_expired(
    shop: Workshop, buyer: Customer, wallet: TalkingWallet
) -> None:
    job = await buyer.ask("a")
    await buyer.quote(job)
    wallet.always = InvoiceState.UNKNOWN
    shop.later = shop.settings.quote_seconds + 60
    calls = wallet.calls["lookup_many"]
    await until(lambda: wallet.calls["lookup_many"] > calls + 2)
    assert await shop.state(job) is JobState.QUOTED
    shop.wallet.faults.error = "unreachable"  # nor does an error say anything
    wallet.always = None
    calls = wallet.calls["lookup_many"]
    await until(lambda: wallet.calls["lookup_many"] > calls + 2)
    assert await shop.state(job) is JobState.QUOTED
    shop.wallet.faults.error = None
    await shop.pay(buyer, job)
    await buyer.result(job)


@pytest.mark.parametrize("state", [InvoiceState.PENDING, InvoiceState.FAILED])
async def test_money_14_what_the_wallet_says_is_unpaid_expires_when_its_time_is_up_and_not_before(
    shop: Workshop, buyer: Customer, wallet: TalkingWallet, state: InvoiceState
) -> None:
    job = await buyer.ask("a")
    await buyer.quote(job)
    wallet.always = state
    calls = wallet.calls["lookup_many"]
    await until(lambda: wallet.calls["lookup_many"] > calls + 2)
    assert await shop.state(job) is JobState.QUOTED
    shop.later = shop.settings.quote_seconds + 60
    await state_becomes(shop, job, JobState.EXPIRED)


async def test_money_15_a_payment_that_settles_after_all_stands_on_the_balance(
    shop: Workshop, buyer: Customer, wallet: TalkingWallet
) -> None:
    job = await buyer.ask("a")
    wallet.always = InvoiceState.FAILED
    await buyer.quote(job)
    shop.later = shop.settings.quote_seconds + 60
    await state_becomes(shop, job, JobState.EXPIRED)
    wallet.always = None
    paid = await shop.pay(buyer, job)
    receipt = await buyer.receipt("")
    assert (receipt.job, receipt.after) == (None, 4_100_000)
    assert await available(shop, buyer) == buyer.check_chain(paid) == 4_100_000
    await shop.balanced()


async def test_money_15_a_wallet_that_never_learns_of_it_keeps_the_quote_open_for_a_day_only(
    shop: Workshop, buyer: Customer, wallet: TalkingWallet
) -> None:
    wallet.always = InvoiceState.UNKNOWN
    job = await buyer.ask("a")
    await buyer.quote(job)
    shop.later = shop.settings.quote_seconds + 86_400 + 60
    await state_becomes(shop, job, JobState.EXPIRED)
    wallet.always = None
    await shop.pay(buyer, job)
    assert (await buyer.receipt("")).after == 4_100_000


@pytest.mark.parametrize("sats", [1, 4_099])
async def test_money_16_too_little_is_credited_and_the_job_is_not_run(
    shop: Workshop, buyer: Customer, wallet: TalkingWallet, sats: int
) -> None:
    shop.wallet.faults.drop_settlements = True
    job = await buyer.ask("a")
    await buyer.quote(job)
    payment = (await shop.store.watched(0))[0]
    wallet.says[payment.payment_hash] = Lookup(InvoiceState.SETTLED, sats * 1000, int(time.time()))
    assert (await buyer.receipt("")).after == sats * 1000
    assert await shop.state(job) is JobState.QUOTED
    assert shop.model.prompts == []


async def test_money_16_too_much_runs_the_job_and_the_rest_is_change(
    shop: Workshop, buyer: Customer, wallet: TalkingWallet
) -> None:
    shop.wallet.faults.drop_settlements = True
    job = await buyer.ask("a")
    await buyer.quote(job)
    payment = (await shop.store.watched(0))[0]
    wallet.says[payment.payment_hash] = Lookup(InvoiceState.SETTLED, 9_000_000, int(time.time()))
    receipt = await buyer.receipt(job)
    assert (receipt.paid, receipt.cost, receipt.after) == (9_000_000, 300_000, 8_700_000)
    assert await available(shop, buyer) == 8_700_000


async def test_money_16_one_invoice_reported_many_times_is_credited_once(shop: Workshop, buyer: Customer) -> None:
    shop.wallet.faults.duplicate_settlements = 20
    job = await buyer.ask("a")
    paid = await shop.pay(buyer, job)
    await buyer.receipt(job)
    shop.node.announce(shop.node.find((await buyer.quote(job)).bolt11 or ""))
    await shop.engine.settlements.reconcile()
    assert buyer.check_chain(paid) == await available(shop, buyer) == 3_800_000
    assert (await shop.balanced())["wallet"] == -4_100_000


async def test_money_16_a_payment_after_cancelling_stands_on_the_balance(shop: Workshop, buyer: Customer) -> None:
    job = await buyer.ask("a")
    await buyer.quote(job)
    await buyer.cancel(job)
    await state_becomes(shop, job, JobState.CANCELLED)
    paid = await shop.pay(buyer, job)
    await buyer.receipt("")
    assert buyer.check_chain(paid) == await available(shop, buyer) == 4_100_000


async def test_money_19_a_restart_forgets_no_quote(shop: Workshop, buyer: Customer) -> None:
    jobs = [await buyer.ask(f"question {n}") for n in range(5)]
    for job in jobs:
        await buyer.quote(job)
    await shop.reopen()
    for job in jobs:
        await shop.pay(buyer, job)
    for job in jobs:
        await buyer.result(job)
    assert shop.engine.quotes.open_quotes_total() == 0


async def test_money_19_a_request_that_came_while_nobody_listened_is_heard(shop: Workshop, buyer: Customer) -> None:
    await shop.close()
    job = await buyer.ask("a", at=int(time.time()) - 300)
    await shop.open()
    await shop.pay(buyer, job)
    await buyer.result(job)


async def test_money_19_what_was_asked_before_a_restart_takes_no_place_of_a_new_job(
    relay: str, tmp_path: Path, buyer: Customer
) -> None:
    async with workshop(relay, data=tmp_path, opened=False) as shop:
        shop.policies = standard_policies(per_minute=6, quotes=0, quotes_total=0)
        await shop.open()
        # Signed a little earlier, as after a restart.
        before = [await buyer.ask(str(n), at=int(time.time()) - 5, providers=[shop.keys.pubkey]) for n in range(5)]
        for job in before:
            await buyer.quote(job)
        shop.policies = standard_policies(per_minute=2, quotes=0, quotes_total=0)
        await shop.reopen()
        new = await buyer.ask("new", providers=[shop.keys.pubkey])
        await buyer.quote(new)
        assert [len(buyer.heard[job]) for job in before] == [1] * 5


async def test_money_20_nothing_expires_before_its_payment_can_arrive(shop: Workshop, buyer: Customer) -> None:
    job = await buyer.ask("a")
    quote = await buyer.quote(job)
    assert quote.event.tag("expiration") is None
    shop.later = shop.settings.quote_seconds - 60  # at the last moment
    await shop.pay(buyer, job)
    result, receipt = await buyer.result(job), await buyer.receipt(job)
    assert result.event.tag("expiration") is None
    assert receipt.event.tag("expiration") is None


async def test_money_28_a_hundred_unpaid_quotes_cost_one_question_a_sweep(
    shop: Workshop, wallet: TalkingWallet, relay: str
) -> None:
    shop.policies = ()
    async with customer(relay) as many:
        jobs = [await many.ask(f"question {n}") for n in range(100)]
        for job in jobs:
            await many.quote(job)
        wallet.calls.clear()
        await until(lambda: wallet.calls["lookup_many"] >= 3)
        assert wallet.calls["lookup"] == 0
        await shop.pay(many, jobs[50])
        await many.result(jobs[50])
        assert wallet.calls["lookup"] <= 1


async def test_money_25_one_slow_invoice_delays_nobody(shop: Workshop, buyer: Customer, relay: str) -> None:
    release = asyncio.Event()
    make = shop.wallet.create_invoice
    slow: list[str] = []

    async def create_invoice(msat: int, **named: object) -> object:
        if not slow:
            slow.append("this one")
            await release.wait()
        return await make(msat, **named)  # type: ignore[arg-type]

    shop.wallet.create_invoice = create_invoice  # type: ignore[assignment,method-assign]
    first = await buyer.ask("a")
    await until(lambda: slow)
    second = await buyer.ask("b")
    await shop.pay(buyer, second)
    await buyer.result(second)
    assert buyer.heard[first] == []
    release.set()
    await buyer.quote(first)


async def test_money_25_a_request_that_cannot_be_counted_stops_no_other(shop: Workshop, buyer: Customer) -> None:
    hang = asyncio.Event()
    shop.model.count = hang
    stuck = await buyer.ask("a")
    await until(lambda: shop.engine.quotes.open_quotes_total() == 1)
    shop.model.count = 100
    fine = await buyer.ask("b")
    await shop.pay(buyer, fine)
    await buyer.result(fine)
    hang.set()
    await buyer.quote(stuck)


async def test_money_21_a_job_that_comes_by_many_ways_is_run_once(tmp_path: Path) -> None:
    async with (
        local_relay() as one,
        local_relay() as two,
        customer(one, two, connections=2) as buyer,
        workshop(one, two, data=tmp_path) as shop,
    ):
        request = request_draft(KIND, ["a"], keys=buyer.keys).sign(buyer.keys, int(time.time()))
        for _ in range(5):
            await buyer.send(request)
        await shop.pay(buyer, request.id)
        await buyer.receipt(request.id)
        await shop.reopen()
        await buyer.send(request)
        other = await buyer.ask("b", params=[("max_tokens", "10")])  # heard after the repeated one
        await buyer.result(other)
        model = shop.model
        assert isinstance(model, ScriptedModel)
        assert len(model.prompts) == 2
        quotes = {event.id for event in buyer.heard[request.id] if event.kind == FEEDBACK and event.tag("amount")}
        assert len(quotes) == 1
        assert len(buyer.results(request.id)) == 1


async def test_money_22_no_answer_reaches_another_job_and_none_passes_through_a_file(
    shop: Workshop, buyer: Customer, tmp_path: Path
) -> None:
    shop.models = {"flash": EchoModel("flash", chunk_tokens=1, max_output_tokens=100)}
    await shop.reopen()
    texts = {await buyer.ask(f"the answer for customer number {n}"): n for n in range(30)}
    for job in texts:
        await shop.pay(buyer, job)
    for job, n in texts.items():
        assert (await buyer.result(job)).content == f"the answer for customer number {n}"
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == {"dvm.db"}
