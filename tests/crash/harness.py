"""Kills the daemon (SIGKILL) at random moments under a load of paid jobs, then holds all books against each other.

`scripts/crash --kills 200 --seed 1 --json` is the long form; tests/crash/test_crash.py the short one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dvm.lightning.zaps import ZAP_RECEIPT
from dvm.nip90 import RECEIPT
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.keys import Keys
from tests.crash.audit import Books, Node, audit, missing_of, open_matters
from tests.crash.load import RESULT, Load
from tests.standins.daemon import ECHO, DaemonProcess, configure, daemon
from tests.standins.process import Process
from tests.standins.relay import free_port, running_relay

CARELESS = ("--drop", "0.3", "--double", "0.3", "--late", "0.3", "--silent", "0.05")
# Dear enough for a quote to be more than a sat, so that balances are used up and invoices paid.
SLOW_ECHO = {**ECHO, "input": 20_000, "output": 40_000, "chunk_tokens": 8, "delay_seconds": 0.03}
LIMITS = {
    "jobs_per_minute": 0,
    "jobs_per_minute_total": 0,
    "open_quotes": 0,
    "open_quotes_total": 0,
    "max_age_minutes": 2,
    "watchdog_seconds": 2,
}
QUIET_SECONDS = 180.0


@dataclass
class Outcome:
    """What a run showed. `wrong` is empty when every msat and every job is accounted for."""

    seed: int
    kills: dict[str, int] = field(default_factory=dict)
    wallet_kills: int = 0
    seconds: float = 0.0
    quiet_after: float = 0.0
    figures: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


async def crash(
    directory: Path, *, kills: int, seed: int = 0, customers: int = 8, width: int = 12, say: bool = False
) -> Outcome:
    """Kill the daemon `kills` times; the books afterwards."""
    chance = random.Random(seed).random
    outcome, keys, began = Outcome(seed), Keys.generate(), time.monotonic()
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(running_relay())
        wallet = _wallet(relay.url, directory / "wallet", seed)
        await wallet.spawn()
        stack.push_async_callback(_end, wallet)
        said = json.loads(await wallet.line("{"))
        address = f"127.0.0.1:{free_port()}"
        configuration = _configuration(address)
        shop = await stack.enter_async_context(
            daemon(directory, [relay.url], keys=keys, env={"DVM_NWC_URI": said["shop"]}, start=False, **configuration)
        )
        load = Load(
            relay.url,
            keys.pubkey,
            Path(said["socket"]),
            gateway=f"http://{address}",
            wallet=said["customer"],
            customers=customers,
            width=width,
            seed=seed,
        )
        stack.push_async_callback(load.close)
        await load.start()
        for number in range(kills):
            # The operator changes their mind between two lives: what was sold on the other terms is kept to.
            configuration["wallet"]["hold"] = chance() < 0.5
            configure(directory, [relay.url], **configuration)
            moment = await _one_life(shop, chance)
            outcome.kills[moment] = outcome.kills.get(moment, 0) + 1
            if chance() < 0.03:
                await wallet.kill()
                await wallet.spawn()
                outcome.wallet_kills += 1
            if say and (number + 1) % 20 == 0:
                print(f"{number + 1} kills, {len(load.jobs)} jobs", file=sys.stderr, flush=True)
        configuration["wallet"]["hold"] = True
        configure(directory, [relay.url], **configuration)
        await shop.start()
        await load.stop()
        await _one_of_each(load, shop.data)
        await _quiet(shop, directory, outcome)
        await shop.end()
        outcome.figures, outcome.wrong = audit(await _books(load, directory, keys))
        outcome.wrong += _complaints(shop)
    outcome.seconds = round(time.monotonic() - began, 1)
    return outcome


def _configuration(address: str) -> dict[str, Any]:
    return {
        "wallet": {"type": "nwc", "timeout_seconds": 3, "hold": False},
        "model": SLOW_ECHO,
        "limits": LIMITS,
        "identity": {"lud16": f"shop@{address}"},
        "tables": {
            "gateway": {"listen": address, "url": f"http://{address}"},
            "payouts": {"min_sats": 1, "day_sats": 0},
        },
    }


async def _one_life(shop: DaemonProcess, chance: Callable[[], float]) -> str:
    """Start the daemon and kill it: while it starts, just as it has started, or at work. Which it was."""
    await shop.begin()
    if chance() < 0.4:
        await asyncio.sleep(chance())
    else:
        await shop.said("ready")
        await asyncio.sleep(chance() ** 2 * 2)
    ready = any(record["event"] == "ready" for record in shop.log[shop.begun :])
    await shop.kill()
    return "at work" if ready else "starting"


async def _one_of_each(load: Load, data: Path) -> None:
    """So that even a short run has seen a zap, a withdrawal, and a hold invoice to its good end."""
    async with asyncio.timeout(QUIET_SECONDS):
        keys, topped_up = load.keys[0], False
        while missing := missing_of(data):
            if not topped_up:
                topped_up = await load.money.zap(keys, 200_000)
            if "withdrawals paid" in missing:
                await load.money.withdraw(load.pool, keys)
            if "hold invoices settled" in missing:
                await load.one()
            await asyncio.sleep(0.2)


async def _quiet(shop: DaemonProcess, directory: Path, outcome: Outcome) -> None:
    """Wait until nothing is left to do."""
    began = time.monotonic()
    while left := open_matters(shop.data, Node.read(directory / "wallet" / "paper.jsonl")):
        if time.monotonic() - began > QUIET_SECONDS:
            outcome.wrong.append(f"after {QUIET_SECONDS:.0f} s there is still {left}")
            break
        await asyncio.sleep(0.1)
    outcome.quiet_after = round(time.monotonic() - began, 1)


async def _books(load: Load, directory: Path, keys: Keys) -> Books:
    """What the relay has in the end, and what the customers were ever sent: the same, or it is told."""
    stored: dict[str, Event] = {}
    for customer in load.keys:
        for kind in (RESULT, RECEIPT):
            wanted = Filter(kinds=[kind], authors=[keys.pubkey], tags={"p": [customer.pubkey]}, limit=5000)
            stored |= {event.id: event for event in await load.pool.query(wanted)}
    for receipts in load.receipts.values():
        stored |= receipts
    results = [event for event in stored.values() if event.kind == RESULT]
    seen = {result for job in load.jobs.values() for result in job.results}
    assert seen <= {event.id for event in results}
    return Books(
        database=directory / "data",
        node=Node.read(directory / "wallet" / "paper.jsonl"),
        requests={key: job.request for key, job in load.jobs.items()},
        results=results,
        receipts=[event for event in stored.values() if event.kind == RECEIPT],
        keys={keys.pubkey: keys for keys in load.keys},
        zaps=load.money.zaps,
        withdrawals=load.money.withdrawals,
        zap_receipts=await load.pool.query(Filter(kinds=[ZAP_RECEIPT], authors=[keys.pubkey], limit=5000)),
    )


def _complaints(shop: DaemonProcess) -> list[str]:
    """A daemon that is killed has nothing to explain: no exception, no line that is not of the log."""
    told = [f"logged: {record['event']}: {record.get('error')}" for record in shop.log if "traceback" in record]
    return [*told, *(f"wrote: {line[:200]}" for line in shop.strange)]


def _wallet(relay: str, data: Path, seed: int) -> Process:
    return Process(
        ["-m", "tests.standins.paper_wallet", "--relay", relay, "--data", str(data), "--seed", str(seed), *CARELESS]
    )


async def _end(process: Process) -> None:
    if process.running:
        await process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/crash", description="SIGKILL under a load of paid jobs.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dvm-crash-") as directory:
        outcome = asyncio.run(crash(Path(directory), kills=options.kills, seed=options.seed, say=not options.json))
    if options.json:
        print(json.dumps(asdict(outcome), indent=2))
    else:
        kills = ", ".join(f"{count} {when}" for when, count in outcome.kills.items())
        print(f"\nseed {outcome.seed}: killed {kills}, the wallet {outcome.wallet_kills} times, in {outcome.seconds} s")
        print(f"quiet {outcome.quiet_after} s after the last start")
        for name, figure in sorted(outcome.figures.items()):
            print(f"{figure:>12,}  {name}")
        print("\n".join(outcome.wrong) or "every msat and every job is accounted for")
    sys.exit(1 if outcome.wrong else 0)


if __name__ == "__main__":
    main()
