"""What open quotes cost: the wallet's calls, the sweep's processor time, and the delay from settlement to start.

The same with few quotes and with many, each time with a shop and a wallet behind NIP-47 of their own. The quotes
that are paid are chosen by chance among all that are open, and each is replaced, so that their number stays.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import orjson

from scripts.benchmarks.client import PATIENCE, TIMEOUT, Customer, Times
from scripts.benchmarks.machine import cpu_seconds
from scripts.benchmarks.measures import Bench, complaints, customers, open_quotes, percentile, resident_at_rest
from scripts.benchmarks.processes import PER_REQUEST, Broken, PaperWallet, Stage, configure, daemon, paper_wallet, relay

FEW = 10
DEFAULT_SECONDS = 60  # limits.reconcile_seconds and limits.watchdog_seconds, if nobody changes them
_SWEEPS_GIVEN = 10  # what waits for a sweep is given up after so many
_MEMORY_FROM = 1_000  # quotes: of fewer, a shop's growth says nothing


async def compare(bench: Bench) -> list[dict[str, Any]]:
    """The figures with 10 open quotes, with a tenth of `quotes`, and with all of them."""
    many = bench.sizes.quotes
    return [await _measure(bench, number) for number in sorted({min(FEW, many), max(many // 10, 1), many})]


async def _measure(bench: Bench, number: int) -> dict[str, Any]:
    directory, cores, seconds = bench.place("open-quotes"), bench.cores, bench.sizes.sweep
    bench.say(f"{number:,} open quotes: asking for them")
    async with relay(directory, cores) as (url, its_relay), paper_wallet(directory / "wallet", cores) as wallet:
        limits = {"reconcile_seconds": seconds, "watchdog_seconds": seconds}
        keys, env = configure(directory, PER_REQUEST, url, wallet="nwc", limits=limits), {"DVM_NWC_URI": wallet.uri}
        with daemon(directory, keys, cores, env) as process:
            await process.said('"ready"')
            stage = Stage(url, process, its_relay, keys.pubkey, directory)
            found = await _open(bench, stage, wallet, number)
        with daemon(directory, keys, cores, env) as process:
            await process.said('"ready"')
            bench.say(f"{number:,} open quotes: after a restart")
            found["restarted"] = await _idle(bench, Stage(url, process, its_relay, keys.pubkey, directory), wallet)
    return found


async def _open(bench: Bench, stage: Stage, wallet: PaperWallet, number: int) -> dict[str, Any]:
    sizes = bench.sizes
    chance = random.Random(sizes.seed)
    async with Customer(stage.url, wallet.till, customers(), until="quote") as customer:
        for quoted in await customer.ask_all(customer.prepare(sizes.warm_up), sizes.outstanding):
            await customer.pay(quoted)
        before, open_before = await resident_at_rest(stage), open_quotes(stage)
        quotes = await customer.ask_all(customer.prepare(number), sizes.outstanding)
        grown = await resident_at_rest(stage) - before
        found: dict[str, Any] = {"number": number, "quotes": open_quotes(stage) - open_before}
        if not quotes:
            raise Broken("no quote was left open")
        if len(quotes) >= _MEMORY_FROM:
            found["bytes_per_quote"] = grown / len(quotes)
        for case, pushes in (("pushed", True), ("lost", False)):
            bench.say(f"{number:,} open quotes: pushes {'arrive' if pushes else 'are lost'}")
            await wallet.push(pushes)
            if not pushes:  # nothing arrives before the next sweep: that is no reason to ask the relay
                customer.patience = PATIENCE + 2 * sizes.sweep
                customer.timeout = TIMEOUT + _SWEEPS_GIVEN * sizes.sweep
            idle = await _idle(bench, stage, wallet)
            paid = await _pay(customer, quotes, sizes.payments, sizes.payments_per_second, chance)
            asked = await wallet.counts()
            found[case] = idle | _delays(stage, paid) | {"calls_while_paid": asked}
            found[case]["calls_per_payment"] = asked.get("lookup_invoice", 0) / sizes.payments
        return found | {"lost_on_the_way": asdict(customer.lost), "log": complaints(stage)}


async def _idle(bench: Bench, stage: Stage, wallet: PaperWallet) -> dict[str, Any]:
    """What the wallet is asked, and what processor time the daemon uses, while nobody does anything: from sweep to
    sweep, which is a minute unless configured otherwise."""
    sizes = bench.sizes
    await asyncio.sleep(2 * sizes.sweep)  # what was paid before is seen
    await stage.daemon.at_rest()
    await wallet.counts()
    used = cpu_seconds(stage.daemon.pid)
    await asyncio.sleep(sizes.sweeps * sizes.sweep)
    used, calls = cpu_seconds(stage.daemon.pid) - used, await wallet.counts()
    each = {method: count / sizes.sweeps for method, count in sorted(calls.items())}
    return {"calls_per_minute": sum(each.values()), "by_method": each, "sweep_ms": used / sizes.sweeps * 1e3}


async def _pay(customer: Customer, quotes: list[Times], number: int, rate: float, chance: random.Random) -> list[Times]:
    """Pay so many quotes, whichever, at random moments, so many a second on average; each is replaced by a new one.
    Those of which there was a result."""
    paid: list[Times | None] = []

    async def pay(quoted: Times) -> None:
        paid.append(await customer.pay(quoted))

    async def replace() -> None:
        if new := await customer.ask(customer.prepare(1)[0]):
            quotes.append(new)

    async with asyncio.TaskGroup() as group:
        for _ in range(number):
            await asyncio.sleep(chance.expovariate(rate))
            while not quotes:  # all have just been paid
                await asyncio.sleep(0.01)
            group.create_task(pay(quotes.pop(chance.randrange(len(quotes)))))
            group.create_task(replace())
    return [times for times in paid if times]


def _delays(stage: Stage, paid: Sequence[Times]) -> dict[str, Any]:
    """Milliseconds from the payment on: until the job was started, by the daemon's log, whose clock is ours, and until
    its result was read."""
    started = _started(stage)
    heard = [times for times in paid if not times.found and times.request.id in started]
    if not heard:
        raise Broken("no job that was paid came to its end")
    starts = sorted((started[times.request.id] - times.settled) * 1e3 for times in heard)
    results = sorted((times.answered - times.paid) * 1e3 for times in heard)
    figures: dict[str, Any] = {"paid": len(heard)}
    for what, took in (("start", starts), ("result", results)):
        for percent in (50, 99):
            figures[f"{what}_p{percent}_ms"] = percentile(took, percent)
    return figures


def _started(stage: Stage) -> dict[str, float]:
    """When each job was paid for in the daemon's books, and so started: unix seconds, to the millisecond."""
    found = {}
    for line in stage.daemon.lines():
        if '"paid"' in line:
            record = orjson.loads(line)
            if record.get("event") == "paid" and record.get("to_job"):
                found[record["job"]] = datetime.fromisoformat(record["time"]).timestamp()
    return found
