"""`scripts/bench`: how fast, how large, how soon; docs/benchmarks.md says what each figure means."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from scripts.benchmarks import lookups, measures, mixed, open_quotes, peers
from scripts.benchmarks.history import write_history
from scripts.benchmarks.machine import describe, share_out
from scripts.benchmarks.measures import Bench, Sizes
from scripts.benchmarks.processes import Broken
from scripts.benchmarks.report import notes, open_quotes_verdicts, show, verdicts

MEASURES = ("start", "invoice", "latency", "balance", "memory", "open-quotes", "mixed", "look-ups", "peers")
ALONE = {"open-quotes", "mixed", "look-ups", "peers"}  # each has a shop of its own, and an empty database
QUICK = Sizes(
    seconds=2.0,
    rounds=1,
    warm_up=100,
    at_rest=40,
    starts=2,
    quotes=1000,
    history=5000,
    peer_rounds=1,
    sweep=1,
    sweeps=3,
    payments=40,
    mixed_jobs=60,
    lookup_jobs=100,
)


def main() -> int:
    options = _parser().parse_args()
    if not sys.platform.startswith("linux"):
        print("bench: processors are pinned and processes measured the way Linux offers it", file=sys.stderr)
        return 2
    try:
        report = asyncio.run(_run(options))
    except Broken as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("bench: ended before it was done", file=sys.stderr)
        return 130
    console = Console()
    show(report, console if console.is_terminal else Console(width=120))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that it works")
    parser.add_argument("--only", action="append", choices=MEASURES, help="just this measure; may be repeated")
    parser.add_argument("--peers", action="store_true", help="measure nostr-dvm and ezdvm too (installs them)")
    parser.add_argument("--database", choices=("empty", "full", "both"), default="both", help="(both)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    parser.add_argument("--directory", type=Path, help="where the databases lie meanwhile (the temporary directory)")
    for name, about in (
        ("jobs", "in each round of a load (as many as take some seconds)"),
        ("seconds", "of each round, where --jobs does not say how many"),
        ("rounds", "of each load, the median counting"),
        ("warm_up", "jobs before anything is measured"),
        ("outstanding", "jobs under way at a time"),
        ("at_rest", "jobs one at a time"),
        ("starts", "of the daemon"),
        ("quotes", "left open"),
        ("sweep", "seconds from one to the next, with open quotes"),
        ("sweeps", "while nobody pays a quote"),
        ("payments", "of open quotes"),
        ("payments_per_second", "of those"),
        ("mixed_jobs", "of each class of mixed jobs, in a round"),
        ("lookup_jobs", "with look-ups of customers' relays and without, in a round"),
        ("history", "finished jobs in the full database"),
        ("peer_jobs", "free jobs at once"),
        ("peer_rounds", "of those"),
        ("seed", "of chance"),
    ):
        default = getattr(Sizes(), name)
        shown = f"{about} ({default:g})" if default else about
        parser.add_argument(f"--{name.replace('_', '-')}", type=_positive, metavar="N", help=shown)
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _sizes(options: argparse.Namespace) -> Sizes:
    given = {name: value for name, value in vars(options).items() if name in asdict(QUICK) and value is not None}
    return replace(QUICK if options.quick else Sizes(), **given)


async def _run(options: argparse.Namespace) -> dict[str, Any]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    cores, sizes = share_out(), _sizes(options)
    wanted = set(options.only or MEASURES[:-1]) | ({"peers"} if options.peers else set())
    with tempfile.TemporaryDirectory(prefix="dvm-bench-", dir=options.directory) as base:
        report: dict[str, Any] = {"machine": describe(cores, Path(base)), "sizes": asdict(sizes), "databases": {}}
        if report["machine"]["busy"]:
            _say(f"the machine is busy (load average {report['machine']['load_average']}): these figures mean little")
        os.sched_setaffinity(0, cores.others)
        databases = ("empty", "full") if options.database == "both" else (options.database,)
        for name in databases if wanted - ALONE else ():
            place = await _empty(Path(base)) if name == "empty" else await _full(Path(base), sizes)
            report["databases"][name] = await _measure(Bench(cores, sizes, place, _prefixed(name)), wanted)
        place = await _empty(Path(base))
        compared = Bench(cores, sizes, place, _say)
        report["open_quotes"] = await open_quotes.compare(compared) if "open-quotes" in wanted else None
        report["mixed"] = await mixed.compare(compared) if "mixed" in wanted else None
        report["lookups"] = await lookups.compare(compared) if "look-ups" in wanted else None
        report["peers"] = await peers.compare(compared) if "peers" in wanted else None
    report["verdicts"] = verdicts(report["databases"], report["peers"])
    report["verdicts"] += open_quotes_verdicts(report["open_quotes"]) if report["open_quotes"] else []
    report["notes"] = notes(report)
    return report


async def _measure(bench: Bench, wanted: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "start" in wanted:
        bench.say("starting up")
        found |= await measures.start_up(bench)
    if wanted & {"invoice", "latency"}:
        found |= await measures.invoices(bench, latency="latency" in wanted)
    if "balance" in wanted:
        found |= await measures.balances(bench)
    if "memory" in wanted:
        bench.say(f"memory: {bench.sizes.quotes:,} open quotes")
        found |= await measures.memory(bench)
    return found


async def _empty(base: Path) -> Callable[[str], Path]:
    """Each measure has a directory of its own."""

    def place(name: str) -> Path:
        directory = base / name
        shutil.rmtree(directory, ignore_errors=True)
        (directory / "data").mkdir(parents=True, mode=0o700)
        return directory

    return place


async def _full(base: Path, sizes: Sizes) -> Callable[[str], Path]:
    """All measures have the same directory, one after the other; only the paper wallet, which no real
    shop has, starts afresh."""
    directory = base / "full"
    (directory / "data").mkdir(parents=True, mode=0o700)
    _say(f"full: writing {sizes.history:,} finished jobs")
    await write_history(directory / "data", sizes.history, sizes.seed)

    def place(_name: str) -> Path:
        for left in (directory / "data").glob("paper*"):
            left.unlink()
        return directory

    return place


def _prefixed(name: str) -> Callable[[str], None]:
    return lambda text: _say(f"{name}: {text}")


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
