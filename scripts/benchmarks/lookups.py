"""What it costs to look up where customers read (NIP-65): the same free jobs with that switched on and off, in turn.

Of one customer who asks again and again, of customers who are all new and have no list, and of such whose list names
a relay that the shop does not know, to which their answers then go as well.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from statistics import median
from typing import Any

from dvm.nip90 import RELAY_LIST
from dvm.nostr import Keys
from scripts.benchmarks.client import Customer
from scripts.benchmarks.machine import cpu_seconds
from scripts.benchmarks.measures import Bench, complaints
from scripts.benchmarks.processes import FREE, Broken, Stage, relay, shop

CASES = ("one, again and again", "new ones, without a list", "new ones, with a list that names another relay")


async def compare(bench: Bench) -> dict[str, Any]:
    """Processor time of a job and jobs a second, with and without; the medians of some rounds, and the spread of what a
    look-up adds."""
    off, on, other = (bench.place(f"lookups-{name}") for name in ("off", "on", "other"))
    async with (
        relay(other, bench.cores) as (elsewhere, _),
        shop(off, FREE, bench.cores, customer_relays=False) as without,
        shop(on, FREE, bench.cores) as with_them,
    ):
        found: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
        lost: Counter[str] = Counter()
        for number in range(bench.sizes.rounds + 1):
            bench.say(f"look-ups: {f'round {number} of {bench.sizes.rounds}' if number else 'warming up'}")
            for case in CASES:
                each = {}
                for name, stage in (("off", without), ("on", with_them)):
                    each |= {
                        f"{key}_{name}": value
                        for key, value in (await _round(bench, stage, case, elsewhere, lost)).items()
                    }
                if number:
                    found[case].append(each)
        log = Counter(complaints(without)) + Counter(complaints(with_them))
    return {"cases": [_summary(case, rounds) for case, rounds in found.items()], "lost": dict(lost), "log": dict(log)}


async def _round(bench: Bench, stage: Stage, case: str, elsewhere: str, lost: Counter[str]) -> dict[str, float]:
    jobs = bench.sizes.lookup_jobs
    keys = [Keys.generate() for _ in range(1 if case == CASES[0] else jobs)]
    async with Customer(stage.url, None, keys) as customer:
        if case == CASES[2]:
            for each in keys:
                await customer.publish(each.sign(RELAY_LIST, [["r", elsewhere]], "", int(time.time())))
        await stage.daemon.at_rest()
        used, began = cpu_seconds(stage.daemon.pid), time.perf_counter()
        done = await customer.ask_all(customer.prepare(jobs), bench.sizes.outstanding)
        if not done:
            raise Broken("not one job of a round was answered")
        took = max(times.receipted for times in done) - began
        await stage.daemon.at_rest()
        lost.update(asdict(customer.lost))
    return {"us": (cpu_seconds(stage.daemon.pid) - used) / len(done) * 1e6, "rate": len(done) / took}


def _summary(case: str, rounds: list[dict[str, float]]) -> dict[str, Any]:
    more = [each["us_on"] - each["us_off"] for each in rounds]
    return {
        "name": case,
        "off_us": median(each["us_off"] for each in rounds),
        "on_us": median(each["us_on"] for each in rounds),
        "rate_off": median(each["rate_off"] for each in rounds),
        "rate_on": median(each["rate_on"] for each in rounds),
        "more_us": median(more),
        "more_least": min(more),
        "more_most": max(more),
        "rounds": rounds,
    }
