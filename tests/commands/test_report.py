"""`dvm report` adds up what the ledger holds, beside the daemon that writes it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path

from dvm.ledger import JobState, Metered, SqliteStore
from tests.commands.running import Runner
from tests.ledger.books import post, publication, receipt_for, running

DAY = 86_400
NOW = int(time.time())
TODAY = time.strftime("%Y-%m-%d", time.gmtime(NOW))


async def sold(store: SqliteStore, jobs: Iterable[tuple[Metered, int, int]]) -> None:
    """Answered jobs: usage, cost in msat, how many days ago."""
    for number, (used, cost, days) in enumerate(jobs):
        job = await running(store, ("report", number), 50_000)
        await store.post(
            job.id,
            to=JobState.DELIVERED,
            cost=cost,
            used=used,
            publications=(publication("result", job.id),),
            receipt=receipt_for(job.customer),
            at=NOW - days * DAY,
            stamp=NOW,
        )


JOBS = (
    (Metered("flash", input=100, cached=10, output=200, thoughts=5), 1_500, 0),
    (Metered("flash", input=1, output=2), 500, 0),
    (Metered("local", input=7, output=8), 21_000, 29),
    (Metered("local", input=1_000, output=1_000), 30_000, 30),
)


async def test_rows_and_totals_are_those_of_the_ledger(here: Path, dvm: Runner) -> None:
    store = await SqliteStore.open(here / "data")
    try:
        await sold(store, JOBS)
        told = (await asyncio.to_thread(dvm, "report", "--json")).json  # while the store is open
    finally:
        await store.close()
    assert [(row["day"], row["kind"], row["model"], row["jobs"], row["msat"]) for row in told["rows"]] == [
        (time.strftime("%Y-%m-%d", time.gmtime(NOW - 29 * DAY)), 5050, "local", 1, 21_000),
        (TODAY, 5050, "flash", 2, 2_000),
    ]
    assert told["total"] == {"jobs": 3, "input": 108, "cached": 10, "output": 210, "thoughts": 5, "msat": 23_000}
    assert told["models"]["flash"]["input"] == 101
    assert told["accounts"]["revenue"] == 53_000
    assert told["accounts"]["wallet"] == 200_000
    assert told["accounts"]["customers"] == 147_000


async def test_what_nobody_was_billed_for_stands_by_itself(here: Path, dvm: Runner) -> None:
    store = await SqliteStore.open(here / "data")
    await sold(store, JOBS[:2])
    job = await running(store, "x", 10_000)
    await store.unbilled(job.id, [Metered("flash", input=300, estimated="input output", finish="stalled")], NOW)
    await store.close()
    told = (await asyncio.to_thread(dvm, "report", "--json")).json
    assert (told["total"]["input"], told["models"]["flash"]["input"]) == (101, 101)
    assert told["unbilled"] == {"jobs": 1, "input": 300, "cached": 0, "output": 0, "thoughts": 0, "msat": 0}
    assert [(row["input"], row["billed"]) for row in told["rows"]] == [(101, True), (300, False)]
    lines = (await asyncio.to_thread(dvm, "report")).out.splitlines()
    assert next(line for line in lines if "total" in line).split()[1:3] == ["2", "101"]
    assert [line.split()[-4:] for line in lines if "not billed" in line] == [["0", "0", "not", "billed"]] * 2


async def test_since_counts_whole_days_today_included(here: Path, dvm: Runner) -> None:
    store = await SqliteStore.open(here / "data")
    await sold(store, JOBS)
    await store.close()
    for days, jobs in ((1, 2), (29, 2), (30, 3), (31, 4)):
        told = (await asyncio.to_thread(dvm, "report", "--since", str(days), "--json")).json
        assert told["total"]["jobs"] == jobs


async def test_the_table_is_for_people(here: Path, dvm: Runner) -> None:
    store = await SqliteStore.open(here / "data")
    await sold(store, JOBS)
    await store.close()
    out = (await asyncio.to_thread(dvm, "report", "--since", "31")).out
    total = next(line for line in out.splitlines() if "total" in line)
    assert total.split() == ["total", "4", "1,108", "10", "1,210", "5", "53", "sat"]
    assert "53 sat earned; 147 sat are the customers' own" in out


async def test_an_empty_ledger_reports_nothing(here: Path, dvm: Runner) -> None:
    await (await SqliteStore.open(here / "data")).close()
    ran = await asyncio.to_thread(dvm, "report")
    assert (ran.code, "No job" in ran.out) == (0, True)


async def test_only_what_was_earned_counts(here: Path, dvm: Runner) -> None:
    store = await SqliteStore.open(here / "data")
    job = await running(store, "x", 10_000)
    await post(store, job, 99_000)  # never more than the hold
    await store.close()
    told = (await asyncio.to_thread(dvm, "report", "--json", "--since", "36500")).json
    assert told["total"]["msat"] == 10_000


def test_no_database_is_said_so(here: Path, dvm: Runner) -> None:
    ran = dvm("report")
    assert ran.code == 1
    assert "dvm run" in ran.err


def test_a_file_that_is_no_database_is_said_so(here: Path, dvm: Runner) -> None:
    (here / "data").mkdir()
    (here / "data/dvm.db").write_text("not a database" * 100)
    ran = dvm("report")
    assert ran.code == 1
    assert "Traceback" not in ran.err
