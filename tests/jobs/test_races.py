"""What two things that happen at once, or a store that fails for a while, must not leave behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dvm.jobs.admission import standard_policies
from dvm.ledger import JobState, Store, StoreError
from dvm.models import Chunk, ModelError
from dvm.nip90 import cancel_draft, request_draft
from tests.standins.customer import KIND, Customer
from tests.standins.scripted import STALL, answer
from tests.standins.waiting import until
from tests.standins.workshop import Workshop, workshop


class Gates:
    """The store; before or after an operation that is named in `before` or `after` something else happens."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.before: dict[str, Callable[[], Any]] = {}
        self.after: dict[str, Callable[[], Any]] = {}

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._store, name)

        async def gated(*arguments: Any, **named: Any) -> Any:
            if happening := self.before.pop(name, None):
                await happening()
            outcome = await operation(*arguments, **named)
            if happening := self.after.pop(name, None):
                await happening()
            return outcome

        return gated if callable(operation) else operation


@pytest.fixture
def gates() -> list[Gates]:
    """The last is that of the shop as it is open now."""
    return []


@pytest.fixture
async def shop(relay: str, tmp_path: Path, gates: list[Gates]) -> AsyncIterator[Workshop]:
    def around(store: Store) -> Gates:
        gates.append(Gates(store))
        return gates[-1]

    async with workshop(relay, data=tmp_path, around=around, lease_seconds=1) as each:
        yield each


async def paid(shop: Workshop, buyer: Customer) -> str:
    job = await buyer.ask("a", params=[("max_tokens", "60")])
    await shop.pay(buyer, job)
    return job


async def delete(shop: Workshop, buyer: Customer, job: str) -> None:
    """As if the deletion had just come."""
    await shop.engine._delete(cancel_draft(job, KIND).sign(buyer.keys, int(time.time())))


def stamps(buyer: Customer, job: str) -> list[int]:
    return [event.created_at for event in buyer.heard[job]]


@pytest.mark.parametrize("storing", ["release", "unbilled"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_deletion_between_two_attempts_is_never_lost(
    shop: Workshop, buyer: Customer, gates: list[Gates], storing: str, when: str
) -> None:
    shop.model.scripts = [["in the middle of", ModelError("broken_off", "gone")]]
    job = await buyer.ask("a", params=[("max_tokens", "60")])
    getattr(gates[-1], when)[storing] = lambda: delete(shop, buyer, job)
    await shop.pay(buyer, job)
    receipt = await buyer.receipt(job)
    assert (receipt.cost, receipt.after) == (0, receipt.paid)
    assert await shop.state(job) is JobState.CANCELLED
    assert len(shop.model.prompts) == 1
    assert sum(row.jobs for row in await shop.store.report(0)) == 1
    assert stamps(buyer, job) == sorted(set(stamps(buyer, job)))


async def test_a_deletion_that_meets_a_failing_attempt_ends_the_job(
    shop: Workshop, buyer: Customer, gates: list[Gates]
) -> None:
    shop.model.scripts = [[ModelError("unavailable", "down")]]
    job = await buyer.ask("a", params=[("max_tokens", "60")])
    await buyer.quote(job)
    gates[-1].before["release"] = lambda: delete(shop, buyer, job)
    payment = await shop.pay(buyer, job)
    await buyer.receipt(job)
    assert await shop.state(job) is JobState.CANCELLED
    assert buyer.check_chain(payment) == (await shop.job(job)).quote_msat


async def test_a_deletion_that_meets_the_claim_stops_the_model(
    shop: Workshop, buyer: Customer, gates: list[Gates]
) -> None:
    """Its row said "paid" when it was read: the hold must not be returned while the model runs."""
    shop.model.script = [Chunk("so much "), STALL]
    job = await buyer.ask("a", params=[("max_tokens", "60")])
    await buyer.quote(job)
    deleting: list[asyncio.Task[None]] = []
    claimed = asyncio.Event()

    async def slowly() -> None:
        deleting.append(asyncio.create_task(delete(shop, buyer, job)))
        await until(lambda: "void" not in gates[-1].before)

    async def late() -> None:
        await claimed.wait()

    gates[-1].before |= {"claim": slowly, "void": late}
    await shop.pay(buyer, job)
    await until(lambda: shop.model.running)
    claimed.set()
    await deleting[0]
    await buyer.receipt(job)
    await until(lambda: not shop.model.running)
    assert await shop.state(job) is JobState.CANCELLED
    assert (await shop.balanced())["held"] == 0


async def test_a_deletion_that_comes_between_the_claim_and_the_run_ends_the_job(
    shop: Workshop, buyer: Customer, gates: list[Gates]
) -> None:
    shop.model.script = [STALL]
    job = await buyer.ask("a", params=[("max_tokens", "60")])
    await buyer.quote(job)
    gates[-1].after["claim"] = lambda: delete(shop, buyer, job)
    payment = await shop.pay(buyer, job)
    await buyer.receipt(job)
    assert await shop.state(job) is JobState.CANCELLED
    assert buyer.check_chain(payment) == (await shop.job(job)).quote_msat
    assert shop.model.prompts == []


async def test_a_deletion_that_meets_the_quote_leaves_no_quote_counted(
    shop: Workshop, buyer: Customer, gates: list[Gates]
) -> None:
    quoting = asyncio.Event()
    deleting: list[asyncio.Task[None]] = []

    async def slowly() -> None:
        deleting.append(asyncio.create_task(delete(shop, buyer, job)))
        await until(lambda: "close_unpaid" not in gates[-1].before)

    gates[-1].before |= {"quote": slowly, "close_unpaid": quoting.wait}
    counted = asyncio.Event()
    shop.model.count = counted
    job = await buyer.ask("a")
    counted.set()
    await buyer.quote(job)
    quoting.set()
    await deleting[0]
    await buyer.feedback(job, "error")
    assert await shop.state(job) is JobState.CANCELLED
    assert shop.engine.quotes.open_quotes_total() == 0
    assert len(set(stamps(buyer, job))) == 2


async def test_a_deletion_that_meets_its_job_on_the_way_in_counts(
    shop: Workshop, buyer: Customer, gates: list[Gates]
) -> None:
    counted = asyncio.Event()
    shop.model.count = counted

    async def ask() -> None:
        await buyer.send(request)
        async with asyncio.timeout(10):
            while await shop.store.job(request.id) is None:
                await asyncio.sleep(0.01)

    request = request_draft(KIND, ["a"], keys=buyer.keys).sign(buyer.keys, int(time.time()))
    gates[-1].before["cancel_before"] = ask
    await delete(shop, buyer, request.id)
    counted.set()
    assert (await buyer.feedback(request.id, "error")).text == "cancelled"
    assert await shop.state(request.id) is JobState.CANCELLED


async def test_a_deletion_of_a_thousand_jobs_costs_no_more_than_one_of_twenty(
    shop: Workshop, buyer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    look_up = shop.store.job

    async def counting(job_id: str) -> Any:
        looked.append(job_id)
        return await look_up(job_id)

    monkeypatch.setattr(shop.store, "job", counting)
    deletion = buyer.keys.sign(5, [["e", f"{n:064x}"] for n in range(1000)], "", int(time.time()))
    await shop.engine._delete(deletion)
    assert len(looked) <= 60


@pytest.mark.parametrize("operation", ["claim", "post", "release", "void", "quote"])
async def test_a_store_that_fails_once_leaves_no_job_lying(
    shop: Workshop, buyer: Customer, gates: list[Gates], operation: str
) -> None:
    """A disk that was full for a moment: the job goes on by itself, not only after a restart."""

    async def full() -> None:
        raise StoreError("the disk is full")

    failure = {"release": "unavailable", "void": "blocked"}.get(operation)
    if failure is not None:
        shop.model.scripts = [[ModelError(failure, "no")]]  # type: ignore[arg-type]
    gates[-1].before[operation] = full
    job = await paid(shop, buyer)
    await buyer.receipt(job)
    assert gates[-1].before == {}
    assert await shop.state(job) is JobState.DELIVERED
    assert (await shop.balanced())["held"] == 0
    assert shop.engine.quotes.open_quotes_total() == 0


async def test_no_two_events_of_a_job_have_the_same_second_over_its_attempts(shop: Workshop, buyer: Customer) -> None:
    go = asyncio.Event()
    shop.set(processing_seconds=0, partial_seconds=0)
    await shop.reopen()
    grown = [Chunk("word " * 3**n) for n in range(4)]
    shop.model.scripts = [[*grown, go, ModelError("unavailable", "down")], [0.01, *grown, *answer("done")]]
    job = await paid(shop, buyer)
    await until(lambda: len(stamps(buyer, job)) >= 4)
    go.set()
    await buyer.receipt(job)
    assert len(set(stamps(buyer, job))) == len(stamps(buyer, job))


async def test_quotes_that_are_asked_for_and_deleted_again_and_again_are_bounded(
    shop: Workshop, buyer: Customer
) -> None:
    """Deleting a quote takes no invoice back: the wallet keeps it, and it is watched."""
    await shop.close()
    shop.policies = standard_policies(per_minute=0, quotes=1, quotes_total=3)
    await shop.open()
    for n in range(3):
        job = await buyer.ask(f"question {n}")
        await buyer.quote(job)
        await buyer.cancel(job)
        await buyer.feedback(job, "error")
    refused = await buyer.ask("once more", providers=[shop.keys.pubkey])
    assert (await buyer.feedback(refused, "error")).text.startswith("busy:")
    shop.later += shop.settings.quote_seconds
    assert shop.engine.quotes.deleted_quotes() == 0
