"""A kind of the operator's own with a mistake in it: its customers have their money back, and the others their jobs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dvm.jobs import KINDS
from dvm.jobs.kinds import Ask, Gathered
from dvm.ledger import JobState
from dvm.nip90 import JobRequest
from tests.standins.customer import Customer
from tests.standins.workshop import workshop

BROKEN, SOUND = 5999, 5050


async def sells(buyer: Customer) -> None:
    """Another kind, out of the money that came back."""
    await buyer.result(await buyer.ask("a question", kind=SOUND))


async def test_a_check_that_fails_costs_the_customer_nothing_and_ends(
    relay: str, tmp_path: Path, buyer: Customer, caplog: pytest.LogCaptureFixture
) -> None:
    def check(answer: str, cut: bool) -> str:
        raise KeyError("a mistake")

    kind = replace(KINDS[SOUND], kind=BROKEN, converses=False, checks={"text/plain": check})
    async with workshop(relay, data=tmp_path, opened=False, lease_seconds=1, attempts=2) as shop:
        shop.kinds = (kind, KINDS[SOUND])
        await shop.open()
        job = await buyer.ask("a question", kind=BROKEN)
        await shop.pay(buyer, job)
        assert (await buyer.feedback(job, "error")).text.startswith("interrupted: ")
        receipt = await buyer.receipt(job)
        assert (receipt.cost, receipt.after) == (0, receipt.paid)
        assert len(shop.model.prompts) == 2
        assert "a mistake" in caplog.text
        # Nobody has paid for what the model did, twice; the operator has, and the day's limit knows.
        rows = await shop.store.report(0)
        assert [(row.billed, row.jobs) for row in rows] == [(False, 2)]
        await sells(buyer)
        await shop.balanced()


async def test_a_read_that_fails_when_it_runs_costs_the_customer_nothing_and_ends(
    relay: str, tmp_path: Path, buyer: Customer
) -> None:
    priced: list[str] = []

    def read(request: JobRequest, gathered: Gathered, system: str | None) -> Ask:
        if request.id in priced:
            raise KeyError("a mistake")
        priced.append(request.id)
        return KINDS[SOUND].read(request, gathered, system)

    kind = replace(KINDS[SOUND], kind=BROKEN, converses=False, read=read)
    async with workshop(relay, data=tmp_path, opened=False, lease_seconds=1, attempts=2) as shop:
        shop.kinds = (kind, KINDS[SOUND])
        await shop.open()
        job = await buyer.ask("a question", kind=BROKEN)
        await shop.pay(buyer, job)
        await buyer.feedback(job, "error")
        receipt = await buyer.receipt(job)
        assert (receipt.cost, receipt.after) == (0, receipt.paid)
        assert await shop.state(job) is JobState.FAILED
        assert shop.model.prompts == []
        await sells(buyer)


async def test_a_read_that_fails_when_it_is_priced_is_told_once_and_stops_nobody_else(
    relay: str, tmp_path: Path, buyer: Customer, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def read(request: JobRequest, gathered: Gathered, system: str | None) -> Ask:
        asked.append(request.id)
        raise KeyError("a mistake")

    kind = replace(KINDS[SOUND], kind=BROKEN, converses=False, read=read)
    async with workshop(relay, data=tmp_path, opened=False) as shop:
        shop.kinds = (kind, KINDS[SOUND])
        await shop.open()
        job = await buyer.ask("a question", kind=BROKEN, providers=[shop.keys.pubkey])
        said = await buyer.feedback(job, "error")
        assert said.text.startswith("unavailable: ")
        assert "mistake" not in said.text
        assert await shop.state(job) is JobState.REJECTED
        assert [job] == [each.__dict__["job"] for each in caplog.records if each.exc_info]
        await shop.reopen()
        await buyer.quote(await buyer.ask("a question", kind=SOUND))
        assert shop.engine.quotes.open_quotes_total() == 1
        assert asked == [job]
