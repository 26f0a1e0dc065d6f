"""What money.md tells of jobs that run: overruns, breaks, stops, usage, and what is then billed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dvm.ledger import JobState, Metered, Store, StoreError
from dvm.models import Chunk, ModelError, Usage, approximate_tokens, estimate_tokens
from dvm.nostr.encryption import EncryptError
from dvm.pricing import PerToken, cost
from tests.standins.customer import Customer
from tests.standins.scripted import STALL, answer
from tests.standins.waiting import until
from tests.standins.workshop import PRICE, Workshop

ONE = [("max_tokens", "10")]  # with 100 tokens of input: a quote of 140 sats


async def test_money_01_a_model_that_overruns_is_stopped_when_the_cost_meets_the_hold(
    shop: Workshop, buyer: Customer
) -> None:
    over = [Chunk(f"{n} ", usage=Usage(input=100, output=4 * n)) for n in range(1, 50)]
    go = asyncio.Event()
    shop.model.scripts = [[go, *over], [go, *answer("other", Usage(100, 0, 10))]]
    greedy, other = await buyer.ask("a", params=ONE), await buyer.ask("b", params=ONE)
    await shop.pay(buyer, greedy)
    await shop.pay(buyer, other)
    await until(lambda: shop.model.running == 2)
    go.set()
    receipts = [await buyer.receipt(each) for each in (greedy, other)]
    assert [receipt.cost for receipt in receipts] == [140_000, 140_000]
    assert sorted(str(receipt.finish) for receipt in receipts) == ["length", "stop"]
    assert shop.model.stopped == 1
    assert (await shop.balanced())["revenue"] == 280_000


async def test_money_02_the_lease_of_a_long_stream_is_renewed_and_the_stream_billed(
    shop: Workshop, buyer: Customer
) -> None:
    shop.set(lease_seconds=1)
    await shop.reopen()
    go = asyncio.Event()
    shop.model.script = ["begun ", go, *answer("and done")]
    job = await buyer.ask("a", params=[("max_tokens", "60")])
    await shop.pay(buyer, job)
    await until(lambda: shop.model.running)
    lease = (await shop.job(job)).lease_until
    assert lease is not None
    async with asyncio.timeout(10):
        while ((await shop.job(job)).lease_until or 0) <= lease:
            await asyncio.sleep(0.05)
    go.set()
    assert (await buyer.receipt(job)).cost == 300_000
    assert (await shop.job(job)).lease_until is None


class FailingPost:
    """The store, whose `post` fails as long as it is told to."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.failing = True
        self.posts = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def post(self, *arguments: Any, **named: Any) -> Any:
        self.posts += 1
        if self.failing:
            raise StoreError("the disk is full")
        return await self._store.post(*arguments, **named)


async def test_money_03_an_answer_that_cannot_be_billed_does_not_leave(shop: Workshop, buyer: Customer) -> None:
    failing: list[FailingPost] = []

    def around(store: Store) -> FailingPost:
        failing.append(FailingPost(store))
        return failing[-1]

    shop.around = around
    await shop.reopen()
    job = await buyer.ask("a")
    await shop.pay(buyer, job)
    await until(lambda: failing[0].posts)
    assert await shop.state(job) is JobState.RUNNING
    assert not [each for each in await shop.store.outbox(100) if each.role in ("result", "receipt")]
    shop.around = lambda store: store
    await shop.reopen()
    await buyer.receipt(job)
    assert len(buyer.results(job)) == 1
    assert (await shop.balanced())["revenue"] == 300_000


async def test_money_04_a_job_cancelled_in_mid_stream_is_billed_for_what_was_used(
    shop: Workshop, buyer: Customer
) -> None:
    shop.model.script = [0.02, Chunk("half an ", usage=Usage(100, 0, 5)), STALL]
    job = await buyer.ask("a")
    paid = await shop.pay(buyer, job)
    await buyer.feedback(job, "partial")
    await buyer.cancel(job)
    receipt = await buyer.receipt(job)
    assert (receipt.cost, receipt.finish, receipt.result) == (120_000, "cancelled", None)
    assert "error cancelled" in " ".join(buyer.said(job))
    assert shop.model.stopped == 1
    assert buyer.check_chain(paid) == (await shop.store.balance(buyer.keys.pubkey)).available
    assert (await shop.balanced())["held"] == 0


async def test_money_04_a_customer_who_only_goes_away_is_billed_and_finds_the_answer_later(
    shop: Workshop, buyer: Customer, relay: str
) -> None:
    go = asyncio.Event()
    shop.model.script = [go, *answer("done")]
    job = await buyer.ask("a")
    await shop.pay(buyer, job)
    await until(lambda: shop.model.running)
    await buyer.pool.close()
    go.set()
    back = Customer([relay], buyer.keys)
    await back.start()
    assert (await back.result(job)).content == "done"
    assert (await back.receipt(job)).cost == 300_000
    await back.pool.close()


async def test_money_05_a_time_out_bills_what_was_used(shop: Workshop, buyer: Customer) -> None:
    shop.set(job_seconds=0.2)
    await shop.reopen()
    shop.model.script = [Chunk("as far as ", usage=Usage(100, 0, 3)), STALL]
    job = await buyer.ask("a")
    await shop.pay(buyer, job)
    receipt = await buyer.receipt(job)
    assert (receipt.cost, receipt.finish) == (112_000, "timeout")
    assert (await buyer.result(job)).content == "as far as "


async def test_money_05_a_time_out_without_an_answer_bills_nothing(shop: Workshop, buyer: Customer) -> None:
    shop.set(job_seconds=0.05, attempts=2)
    await shop.reopen()
    shop.model.script = [STALL]
    job = await buyer.ask("a")
    paid = await shop.pay(buyer, job)
    assert (await buyer.receipt(job)).cost in (0, None)
    assert shop.model.stopped == 2
    assert buyer.check_chain(paid) == (await shop.job(job)).quote_msat
    assert (await shop.balanced())["revenue"] == 0


async def test_money_06_the_price_that_was_quoted_is_billed_whatever_it_is_by_now(
    shop: Workshop, buyer: Customer
) -> None:
    job = await buyer.ask("a")
    await buyer.quote(job)
    shop.prices = {"flash": PerToken(9_000_000_000, 9_000_000_000, 9_000_000_000)}
    await shop.reopen()
    await shop.pay(buyer, job)
    receipt = await buyer.receipt(job)
    assert receipt.cost == 300_000
    assert receipt.prices == {"input": PRICE.input, "cached": PRICE.cached, "output": PRICE.output}


async def test_money_10_cached_tokens_cost_their_own_price_and_thoughts_what_output_costs(
    shop: Workshop, buyer: Customer
) -> None:
    used = Usage(input=20, cached=80, output=5, thoughts=7)
    shop.model.script = answer("well", used)
    job = await buyer.ask("a")
    await shop.pay(buyer, job)
    receipt = await buyer.receipt(job)
    assert receipt.cost == cost(PRICE, used) == 20_000 + 20_000 + 12 * 4_000
    assert receipt.usage == {"input": 20, "cached": 80, "output": 5, "thoughts": 7}


async def test_money_11_usage_that_is_missing_is_counted_by_us_and_said_to_be(shop: Workshop, buyer: Customer) -> None:
    shop.model.script = answer("four words of answer", None)
    job = await buyer.ask("a")
    await shop.pay(buyer, job)
    receipt = await buyer.receipt(job)
    assert receipt.estimated == {"input", "output"}
    assert receipt.usage["output"] > 0
    assert receipt.usage["input"] == 100


async def test_money_11_a_bound_that_was_quoted_for_want_of_a_count_is_not_billed_as_one(
    shop: Workshop, buyer: Customer
) -> None:
    prompt = "a prompt of some length, " * 10
    shop.model.script = answer("four words of answer", None)
    shop.model.count = estimate_tokens  # as a model says that cannot count: no text has more tokens than bytes
    job = await buyer.ask(prompt)
    await shop.pay(buyer, job)
    receipt = await buyer.receipt(job)
    assert receipt.estimated == {"input", "output"}
    assert receipt.usage["input"] == approximate_tokens(shop.model.prompts[-1])
    assert receipt.usage["input"] < (await shop.job(job)).input_tokens / 3


async def test_money_11_a_true_zero_is_not_replaced(shop: Workshop, buyer: Customer) -> None:
    shop.model.script = answer("from the cache", Usage(input=0, cached=100, output=0))
    job = await buyer.ask("a")
    await shop.pay(buyer, job)
    receipt = await buyer.receipt(job)
    assert (receipt.cost, receipt.estimated) == (25_000, frozenset())


async def test_money_12_the_usage_of_an_answer_that_was_blocked_or_broke_off_is_kept(
    shop: Workshop, buyer: Customer
) -> None:
    shop.model.scripts = [
        [Chunk("so ", usage=Usage(100, 0, 1)), ModelError("blocked", "safety", usage=Usage(100, 0, 2))],
        [Chunk("I may say ", usage=Usage(100, 0, 3), finish="safety")],
    ]
    blocked = await buyer.ask("a")
    await shop.pay(buyer, blocked)
    receipt = await buyer.receipt(blocked)
    assert (receipt.usage.get("output"), receipt.cost, receipt.finish) == (2, 0, "error")
    cut = await buyer.ask("b", params=[("max_tokens", "1000")])
    receipt = await buyer.receipt(cut)
    assert (receipt.usage["output"], receipt.cost, receipt.finish) == (3, 112_000, "safety")
    rows = [(row.input, row.output, row.msat, row.billed) for row in await shop.store.report(0)]
    assert rows == [(100, 3, 112_000, True), (100, 2, 0, False)]


async def test_money_12_thoughts_that_used_up_the_customers_limit_are_billed(shop: Workshop, buyer: Customer) -> None:
    shop.model.script = [Chunk("", usage=Usage(100, thoughts=40), finish="length")]
    job = await buyer.ask("a")
    await shop.pay(buyer, job)
    receipt = await buyer.receipt(job)
    assert (receipt.result, receipt.usage["thoughts"], receipt.cost, receipt.finish) == (None, 40, 260_000, "length")
    assert (await buyer.feedback(job, "error")).text.startswith("no-answer: ")
    assert shop.model.prompts == shop.model.prompts[:1]


@pytest.mark.parametrize("count", [Usage(-100, 0, 5), Usage(100, 0, -50), Usage(100, -1, 5), Usage(0, 0, 5, -9)])
async def test_money_24_a_model_that_reports_negative_usage_pays_nobody(
    shop: Workshop, buyer: Customer, count: Usage
) -> None:
    shop.model.script = [Chunk("well", usage=count, finish="stop")]
    job = await buyer.ask("a")
    paid = await shop.pay(buyer, job)
    await buyer.receipt(job)
    quote = (await shop.job(job)).quote_msat
    left = buyer.check_chain(paid)
    assert 0 <= left <= quote
    assert (await shop.balanced())["revenue"] == quote - left


async def test_money_24_no_negative_amount_is_taken(shop: Workshop, buyer: Customer) -> None:
    job = await buyer.ask("a")
    await buyer.quote(job)
    with pytest.raises(ValueError, match="positive"):
        await shop.store.deposit("00" * 32, -1, 0, lambda link: pytest.fail("credited"))
    with pytest.raises(ValueError, match="not negative"):
        await shop.store.post(
            job, to=JobState.DELIVERED, cost=-1, used=Metered("flash"), publications=(),
            receipt=lambda link: pytest.fail("billed"), at=0, stamp=0,
        )  # fmt: skip
    for bid in ("-1", "-999999999999"):
        refused = await buyer.ask("b", providers=[shop.keys.pubkey], params=[("max_tokens", bid)])
        await buyer.feedback(refused, "error")


async def test_money_26_a_job_that_was_running_at_a_crash_is_not_taken_for_done(
    shop: Workshop, buyer: Customer
) -> None:
    shop.model.script = [STALL]
    job = await buyer.ask("a")
    await shop.pay(buyer, job)
    await until(lambda: shop.model.running)
    shop.set(shutdown_seconds=0)
    shop.engine.runner._shop.settings = shop.settings  # it gets no time to finish, as after SIGKILL
    await shop.close()
    shop.model.script = answer("at last")
    await shop.open()
    assert (await buyer.result(job)).content == "at last"
    await buyer.receipt(job)
    assert (await shop.balanced())["revenue"] == 300_000


@pytest.mark.parametrize("broken", [["answers"], ["answers", "receipts"]])
async def test_money_27_what_cannot_be_encrypted_is_neither_sent_nor_billed(
    shop: Workshop, buyer: Customer, monkeypatch: pytest.MonkeyPatch, broken: list[str]
) -> None:
    go = asyncio.Event()
    shop.model.script = ["the secret ", go, *answer("answer")]
    job = await buyer.ask("a private question", providers=[shop.keys.pubkey], scheme="nip44")
    await shop.pay(buyer, job)
    await until(lambda: shop.model.running)
    tried = 0

    def refuse(*_: object) -> str:
        nonlocal tried
        tried += 1
        raise EncryptError("the library is broken")

    for module in broken:
        monkeypatch.setattr(f"dvm.nip90.{module}.encrypt", refuse)
    go.set()
    await until(lambda: tried and not shop.engine.runner._tasks)
    monkeypatch.undo()
    await shop.store.published([], 0)
    job_row = await shop.job(job)
    balance = await shop.store.balance(buyer.keys.pubkey)
    if broken == ["answers"]:
        assert job_row.state is JobState.FAILED
        assert (balance.available, balance.held) == (job_row.quote_msat, 0)
        await buyer.receipt(job)
    else:  # not even that can be said: the money stays behind the job, which goes on after a restart
        assert (balance.available, balance.held) == (0, job_row.quote_msat)
        await shop.reopen()
        await buyer.result(job)
    events = [event for each in buyer.heard.values() for event in each]
    assert not [event for event in events if "secret" in event.to_json()]
    await shop.balanced()
