"""What is measured of the daemon: start-up, paid jobs, latency, memory."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from dvm.ledger.sqlite import read
from dvm.nostr import Keys
from scripts.benchmarks.client import Customer, Lost, Times
from scripts.benchmarks.floor import BALANCE_SIGNATURES, INVOICE_SIGNATURES, Floor, time_floor
from scripts.benchmarks.history import write_balances
from scripts.benchmarks.machine import Cores, cpu_seconds, resident_bytes
from scripts.benchmarks.processes import PER_REQUEST, PER_TOKEN, Broken, Stage, configure, daemon, relay, shop

CUSTOMERS = 50
BALANCE_MSAT = 100_000_000  # of each customer that pays from it: more than any run spends
SETTLE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. `jobs` 0: so many that a round takes `seconds`."""

    jobs: int = 0
    seconds: float = 7.0
    rounds: int = 3
    warm_up: int = 500
    outstanding: int = 64
    at_rest: int = 200
    pause: float = 0.03
    starts: int = 5
    quotes: int = 10_000
    sweep: int = 5
    sweeps: int = 4
    payments: int = 300
    payments_per_second: int = 10
    mixed_jobs: int = 300
    lookup_jobs: int = 600
    history: int = 100_000
    peer_jobs: int = 200
    peer_rounds: int = 3
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measure needs: the processors, the sizes, and a directory whose database is the one meant."""

    cores: Cores
    sizes: Sizes
    place: Callable[[str], Path]
    say: Callable[[str], None]


async def start_up(bench: Bench) -> dict[str, Any]:
    """Seconds from the process's start to its `ready`. The first start, which finds cold files, is not counted."""
    directory = bench.place("start")
    took = []
    async with relay(directory, bench.cores) as (url, _):
        keys = configure(directory, PER_REQUEST, url)
        for _ in range(1 + bench.sizes.starts):
            with daemon(directory, keys, bench.cores) as process:
                await process.said('"ready"')
                took.append(time.perf_counter() - process.began)
    return {"start_seconds": median(took[1:]), "start_rounds": took}


async def invoices(bench: Bench, *, latency: bool) -> dict[str, Any]:
    """Jobs of exactly 21 sats, an invoice each; and with `latency`, how long quote and result take."""
    sizes = bench.sizes
    async with (
        shop(bench.place("invoice"), PER_REQUEST, bench.cores) as stage,
        Customer(stage.url, stage.till, customers()) as customer,
    ):
        found = await _load(bench, stage, customer, "invoice", INVOICE_SIGNATURES)
        if latency:
            bench.say("latency at rest")
            await stage.daemon.at_rest()
            alone = []
            for request in customer.prepare(sizes.at_rest):
                await asyncio.sleep(sizes.pause)
                if times := await customer.ask(request):
                    alone.append(times)
            found |= _latencies("rest", alone)
            rate = max(1.0, found["invoice_jobs_per_second"] / 2)
            count = sizes.jobs or math.ceil(rate * sizes.seconds)
            bench.say(f"latency at half load: {rate:.0f} jobs/s")
            await stage.daemon.at_rest()
            loaded = await customer.ask_at(customer.prepare(count), rate, random.Random(sizes.seed))
            found |= _latencies("half", loaded)
            found["half_rate"] = rate
        return found | _aftermath("invoice", stage, customer.lost)


async def balances(bench: Bench) -> dict[str, Any]:
    """Jobs priced by the token and paid from a balance: no invoice, no quote."""
    directory = bench.place("balance")
    keys = customers()
    await write_balances(directory / "data", [each.pubkey for each in keys], BALANCE_MSAT)
    async with (
        shop(directory, PER_TOKEN, bench.cores) as stage,
        Customer(stage.url, None, keys) as customer,
    ):
        found = await _load(bench, stage, customer, "balance", BALANCE_SIGNATURES)
        return found | _aftermath("balance", stage, customer.lost)


async def memory(bench: Bench) -> dict[str, Any]:
    """How many bytes the daemon grows by with each quote that nobody pays."""
    sizes = bench.sizes
    async with shop(bench.place("memory"), PER_REQUEST, bench.cores) as stage:
        keys = customers()
        # What the daemon needs once, whatever comes, it shall need before the first reading.
        async with Customer(stage.url, stage.till, keys) as customer:
            await customer.ask_all(customer.prepare(sizes.warm_up), sizes.outstanding)
        before, open_before = await resident_at_rest(stage), open_quotes(stage)
        async with Customer(stage.url, None, keys, until="quote") as customer:
            await customer.ask_all(customer.prepare(sizes.quotes), sizes.outstanding)
            lost = customer.lost
        after, quotes = await resident_at_rest(stage), open_quotes(stage) - open_before
        if quotes <= 0:
            raise Broken("no quote was left open")
        return {
            "bytes_per_quote": (after - before) / quotes,
            "quotes": quotes,
            "resident_before": before,
            "resident_after": after,
        } | _aftermath("memory", stage, lost)


# ── a load ────────────────────────────────────────────────────────────────────────────────────────


async def _load(bench: Bench, stage: Stage, customer: Customer, name: str, signatures: int) -> dict[str, Any]:
    """Closed loop, always `outstanding` jobs under way: the medians of some rounds."""
    sizes = bench.sizes
    bench.say(f"paid by {name}: warming up")
    floor = time_floor(bench.cores)
    began = time.perf_counter()
    await customer.ask_all(customer.prepare(sizes.warm_up), sizes.outstanding)
    rate = sizes.warm_up / (time.perf_counter() - began)
    rounds = []
    for number in range(sizes.rounds):
        count = sizes.jobs or max(100, math.ceil(rate * sizes.seconds))
        bench.say(f"paid by {name}: round {number + 1} of {sizes.rounds}, {count} jobs")
        rounds.append(await _round(stage, customer, count, sizes.outstanding))
        rate = rounds[-1]["jobs_per_second"]
    await stage.daemon.at_rest()
    floors = sorted((floor, time_floor(bench.cores)), key=lambda each: each.of(signatures))
    return _summary(name, rounds, floors[0], signatures)


async def _round(stage: Stage, customer: Customer, count: int, outstanding: int) -> dict[str, Any]:
    requests = customer.prepare(count)
    await stage.daemon.at_rest()
    pids = {"daemon": stage.daemon.pid, "relay": stage.relay.pid}
    used = {who: cpu_seconds(pid) for who, pid in pids.items()}
    own, began = time.process_time(), time.perf_counter()
    done = await customer.ask_all(requests, outstanding)
    # To the last answer, not to the moment when the customer gives up a job that the relay lost.
    took, own = max((times.receipted for times in done), default=began) - began, time.process_time() - own
    if not done:
        raise Broken("not one job of a round was answered")
    busy = (cpu_seconds(stage.daemon.pid) - used["daemon"]) / took
    await stage.daemon.at_rest()  # what the jobs leave to be done afterwards is theirs as well
    spent = {who: (cpu_seconds(pid) - used[who]) / len(done) * 1e6 for who, pid in pids.items()}
    return {
        "jobs": len(done),
        "seconds": took,
        "jobs_per_second": len(done) / took,
        "daemon_us": spent["daemon"],
        "relay_us": spent["relay"],
        "customer_us": own / len(done) * 1e6,
        "daemon_busy": busy,
        "found_late": sum(times.found for times in done),
    }


def _summary(name: str, rounds: list[dict[str, Any]], floor: Floor, signatures: int) -> dict[str, Any]:
    middle = {key: median(each[key] for each in rounds) for key in rounds[0]}
    others = (middle["relay_us"] + middle["customer_us"]) / 1e6 * middle["jobs_per_second"]
    return {
        f"{name}_jobs_per_second": middle["jobs_per_second"],
        f"{name}_daemon_us": middle["daemon_us"],
        f"{name}_floor_us": floor.of(signatures) * 1e6,
        f"{name}_multiple": middle["daemon_us"] / (floor.of(signatures) * 1e6),
        f"{name}_daemon_busy": middle["daemon_busy"],
        f"{name}_relay_us": middle["relay_us"],
        f"{name}_customer_us": middle["customer_us"],
        f"{name}_others_busy": others,
        f"{name}_verify_us": floor.verify * 1e6,
        f"{name}_sign_us": floor.sign * 1e6,
        f"{name}_rounds": rounds,
    }


def _latencies(name: str, jobs: Sequence[Times]) -> dict[str, Any]:
    """Milliseconds. Jobs that the relay lost something of are left out (and counted): theirs is its delay."""
    heard = [times for times in jobs if not times.found]
    if not heard:
        raise Broken("no answer came by itself")
    quotes = sorted((times.quoted - times.asked) * 1e3 for times in heard)
    results = sorted((times.answered - times.paid) * 1e3 for times in heard)
    figures: dict[str, Any] = {f"{name}_jobs": len(heard), f"{name}_left_out": len(jobs) - len(heard)}
    for what, took in (("quote", quotes), ("result", results)):
        for percent in (50, 95, 99):
            figures[f"{name}_{what}_p{percent}_ms"] = percentile(took, percent)
    return figures


def percentile(ordered: Sequence[float], percent: int) -> float:
    """By nearest rank."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _aftermath(name: str, stage: Stage, lost: Lost) -> dict[str, Any]:
    """What the relay lost, and what the daemon complained of."""
    return {f"{name}_lost": asdict(lost), f"{name}_log": complaints(stage)}


def complaints(stage: Stage) -> dict[str, int]:
    """What the daemon's log has beyond what is usual, and how often."""
    said: Counter[str] = Counter()
    for line in stage.daemon.lines():
        if '"level":"info"' not in line and line.startswith("{"):
            record = orjson.loads(line)
            if record.get("level") != "info":
                said[f"{record.get('level')}: {record.get('event')}"] += 1
    return dict(said.most_common(20))


# ── the daemon's state ────────────────────────────────────────────────────────────────────────────


async def resident_at_rest(stage: Stage) -> int:
    """The daemon's resident memory, once its outbox is empty and it has come to rest."""
    until = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < until and read(stage.data, _unsent):
        await asyncio.sleep(0.1)
    await stage.daemon.at_rest()
    return resident_bytes(stage.daemon.pid)


def _unsent(db: Any) -> int:
    return int(db.execute("SELECT count(*) FROM outbox WHERE sent_at IS NULL").fetchone()[0])


def open_quotes(stage: Stage) -> int:
    """How many are open, by the daemon's books."""
    query = "SELECT count(*) FROM jobs WHERE state = 'quoted'"
    return int(read(stage.data, lambda db: db.execute(query).fetchone()[0]))


def customers() -> list[Keys]:
    """Fifty customers' keys."""
    return [Keys.generate() for _ in range(CUSTOMERS)]
