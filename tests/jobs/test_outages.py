"""What many jobs meet while relays, wallet or model are away is a few lines in the log, not a few for each job."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dvm.ledger import JobState, Publication
from dvm.models import ModelError
from tests.standins.customer import Customer
from tests.standins.relay import TestRelay, running_relay
from tests.standins.scripted import answer
from tests.standins.waiting import until
from tests.standins.workshop import Workshop, workshop

MANY = 5


@pytest.fixture(autouse=True)
def everything_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dvm.jobs")


@pytest.fixture
async def place() -> AsyncIterator[TestRelay]:
    """A relay that can be stopped."""
    async with running_relay() as each:
        yield each


@pytest.fixture
def relay(place: TestRelay) -> str:
    return place.url


@pytest.fixture
async def shop(relay: str, tmp_path: Path) -> AsyncIterator[Workshop]:
    async with workshop(relay, data=tmp_path, publish_seconds=0.5) as each:
        yield each


def told(caplog: pytest.LogCaptureFixture, *words: str) -> list[logging.LogRecord]:
    """The records whose event has one of these words, by this text."""
    return [each for each in caplog.records if any(word in each.message for word in words)]


async def test_relays_that_are_away_are_told_of_once(
    place: TestRelay, shop: Workshop, buyer: Customer, caplog: pytest.LogCaptureFixture
) -> None:
    job = await buyer.ask("a question")
    await buyer.quote(job)
    shop.engine.outbox._every = 0.1  # what is refused is tried again after so many seconds
    await place.stop()
    events = [shop.keys.sign(7000, [["e", job], ["status", "error", str(n)]]) for n in range(MANY)]
    said = [Publication(event.id, f"error {n}", event.to_json()) for n, event in enumerate(events)]
    row = await shop.job(job)
    await shop.store.close_unpaid(
        job, to=JobState.CANCELLED, reason="test", publications=said, at=row.stamp, stamp=row.stamp + 1
    )
    shop.engine.outbox.send(said)
    await until(lambda: shop.engine.outbox.refused == MANY)
    away = told(caplog, "no relay took")
    assert [each.levelname for each in away] == ["WARNING"]
    assert place.url in vars(away[0])["reasons"]
    await place.start()
    assert await shop.pool.wait_connected(1, 10)
    while shop.engine.outbox.refused:
        await shop.engine.outbox.sweep()
        await asyncio.sleep(0.01)
    back = told(caplog, "relays take events again")
    assert [(each.levelname, vars(each)["failures"] >= MANY) for each in back] == [("INFO", True)]
    assert len(told(caplog, "no relay took")) == 1


async def test_a_wallet_that_is_away_is_told_of_once(
    shop: Workshop, buyer: Customer, caplog: pytest.LogCaptureFixture
) -> None:
    shop.wallet.faults.error = "unreachable"
    jobs = [await buyer.ask(f"question {n}") for n in range(MANY)]
    await until(lambda: shop.engine.quotes.open_quotes_total() == MANY)
    await until(lambda: told(caplog, "the wallet does not answer"))
    shop.wallet.faults.error = None
    for job in jobs:
        await buyer.quote(job)
    lines = [(each.levelname, each.message.partition(";")[0]) for each in told(caplog, "wallet")]
    assert lines == [("WARNING", "the wallet does not answer"), ("INFO", "the wallet answers again")]


async def test_a_model_whose_key_is_wrong_is_told_of_once_and_is_an_error(
    shop: Workshop, buyer: Customer, caplog: pytest.LogCaptureFixture
) -> None:
    shop.model.count = ModelError("unauthorized", "no such key")
    for n in range(MANY):
        await buyer.feedback(await buyer.ask(f"question {n}", providers=[shop.keys.pubkey]), "error")
    shop.model.count = 100
    await buyer.quote(await buyer.ask("a question"))
    lines = [(each.levelname, vars(each)["model"], each.message.partition(",")[0]) for each in told(caplog, "be used")]
    assert lines == [
        ("ERROR", shop.model.name, "the model cannot be used"),
        ("INFO", shop.model.name, "the model can be used again"),
    ]


async def test_a_model_that_breaks_down_is_told_of_once_and_each_failure_is_information(
    shop: Workshop, buyer: Customer, caplog: pytest.LogCaptureFixture
) -> None:
    shop.model.scripts = [[ModelError("unavailable", "overloaded")]] * 2 + [answer("well")]
    job = await buyer.ask("a question")
    await shop.pay(buyer, job)
    await buyer.receipt(job)
    lines = [(each.levelname, each.message.partition(";")[0]) for each in told(caplog, "the model")]
    assert sorted(lines) == [
        ("INFO", "the model answers again"),
        ("INFO", "the model failed"),
        ("INFO", "the model failed"),
        ("WARNING", "the model fails"),
    ]
