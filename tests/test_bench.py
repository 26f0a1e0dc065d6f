"""`scripts/bench` in its smallest form: every figure is there. How good they are is not for a test to say."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nostr_sdk", reason="the benchmarks' relay is an extra: pip install lightning-dvm[embedded]")
if not sys.platform.startswith("linux"):
    pytest.skip("processors are pinned and processes measured the way Linux offers it", allow_module_level=True)

from dvm.ledger.sqlite import FILE
from scripts.benchmarks.__main__ import ALONE, MEASURES
from scripts.benchmarks.history import check, write_history
from scripts.benchmarks.lookups import CASES
from scripts.benchmarks.mixed import CLASSES, KINDS, MIXES
from scripts.benchmarks.peers import OURS, PEERS, Unavailable, find_python
from scripts.benchmarks.report import FIGURES, notes, open_quotes_verdicts, show, times_better, verdicts

ROOT = Path(__file__).resolve().parents[1]
SMALLEST = {
    "jobs": 6,
    "rounds": 1,
    "warm-up": 2,
    "outstanding": 3,
    "at-rest": 2,
    "starts": 1,
    "quotes": 4,
    "history": 30,
    "sweep": 1,
    "sweeps": 2,
    "payments": 3,
    "mixed-jobs": 4,
    "lookup-jobs": 6,
}


async def bench(*options: str | Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "scripts.benchmarks"),
        *(str(part) for part in options),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


def smallest() -> list[str]:
    return [f"--{name}={value}" for name, value in SMALLEST.items()]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A shorter one than pytest's: the paper wallet's unix socket lies in it, whose path has some 100 bytes."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        yield Path(directory)


async def report_of(directory: Path, *options: str) -> dict[str, Any]:
    """What the smallest run of these measures finds; nothing else of it is left behind."""
    process = await bench(*smallest(), *options, "--json", directory / "found.json", "--directory", directory)
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert list(directory.iterdir()) == [directory / "found.json"]
    found: dict[str, Any] = json.loads((directory / "found.json").read_bytes())
    return found


async def test_the_smallest_run_has_every_figure_for_both_databases(tmp_path: Path) -> None:
    report = await report_of(tmp_path, *(f"--only={name}" for name in MEASURES if name not in ALONE))
    assert set(report["databases"]) == {"empty", "full"}
    for values in report["databases"].values():
        missing = [figure.name for figure in FIGURES if not isinstance(values.get(figure.name), int | float)]
        assert missing == []
        assert not any("holds less" in said for said in values["balance_log"])
        assert values["invoice_lost"]["jobs"] == values["balance_lost"]["jobs"] == 0
        assert values["quotes"] == SMALLEST["quotes"]
    for load in ("invoice", "balance"):
        assert report["databases"]["full"][f"{load}_rounds"][0]["jobs"] == SMALLEST["jobs"]
    assert {verdict["what"] for verdict in report["verdicts"]} >= {"empty: start to ready", "full/empty: start_seconds"}
    assert report["machine"]["python"]


async def test_open_quotes_are_paid_and_the_wallets_calls_are_counted(tmp_path: Path) -> None:
    report = await report_of(tmp_path, "--only=open-quotes")
    few, many = report["open_quotes"][0], report["open_quotes"][-1]
    assert (few["quotes"], many["quotes"]) == (1, SMALLEST["quotes"])
    for row in report["open_quotes"]:
        assert row["pushed"]["paid"] == row["lost"]["paid"] == SMALLEST["payments"]
        assert row["pushed"]["calls_per_payment"] == 1
        assert row["lost"]["start_p99_ms"] > 0
        assert all(row[case]["by_method"]["list_transactions"] > 0 for case in ("pushed", "lost", "restarted"))


async def test_of_mixed_jobs_each_class_is_served_and_its_cryptography_counted(tmp_path: Path) -> None:
    """As many signatures as answers, and everything encrypted where it was asked so."""
    mixed = (await report_of(tmp_path, "--only=mixed"))["mixed"]
    rows = {row["name"]: row for row in mixed["classes"]}
    assert set(rows) == {each.name for each in CLASSES} | set(MIXES)
    assert {each.kind for each in CLASSES} == set(KINDS)
    assert sum(each.share for each in CLASSES) == 100
    assert mixed["lost"]["jobs"] == 0
    for each in CLASSES:
        row, counts = rows[each.name], rows[each.name]["operations"]
        assert row["jobs"] == each.jobs(SMALLEST["mixed-jobs"])
        answers, uploads = 3 if each.invoice else 2, each.kind in (5100, 5250)
        assert row["answers"] >= answers  # more only where a busy machine made it say that it works
        assert counts["signed"] == answers + uploads
        assert counts["verified"] == 1 + (each.source == "event")
        assert counts["decrypted"] == (each.scheme is not None)
        assert counts["encrypted"] == (answers if each.scheme else 0)
        assert 0 < row["floor_us"] < row["daemon_us"]
    assert all(rows[name]["jobs"] >= len([each for each in CLASSES if wanted(each)]) for name, wanted in MIXES.items())


async def test_look_ups_of_customers_relays_are_measured_with_and_without(tmp_path: Path) -> None:
    lookups = (await report_of(tmp_path, "--only=look-ups"))["lookups"]
    assert [row["name"] for row in lookups["cases"]] == list(CASES)
    assert all(row["on_us"] > 0 and row["off_us"] > 0 for row in lookups["cases"])
    assert lookups["lost"]["jobs"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_run_that_is_ended_leaves_no_process_and_no_file(tmp_path: Path, number: signal.Signals) -> None:
    process = await bench("--only", "invoice", "--database", "empty", "--jobs", "20000", "--directory", tmp_path)
    assert process.stdout is not None
    while b"round 1" not in (line := await process.stdout.readline()):
        assert line, "it ended by itself"
    started = children(process.pid)
    assert len(started) == 2  # the relay and the daemon
    process.send_signal(number)
    said, _ = await process.communicate()
    assert process.returncode == 130, said.decode()
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)
    assert not list(tmp_path.iterdir())


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rsplit(")", 1)[1].split()[1]
        except OSError:  # it has ended meanwhile
            continue
        if int(parent) == pid:
            found.append(int(stat.parent.name))
    return found


async def test_the_books_of_a_made_up_past_are_in_order(tmp_path: Path) -> None:
    await write_history(tmp_path, 400)
    db = sqlite3.connect(tmp_path / FILE)
    try:
        check(db)
        states = dict(db.execute("SELECT state, count(*) FROM jobs GROUP BY 1"))
        assert sum(states.values()) == 400
        assert set(states) == {"delivered", "failed", "expired"}
        assert db.execute("SELECT count(*) FROM outbox WHERE sent_at IS NULL").fetchone() == (0,)
        db.execute("UPDATE accounts SET msat = msat + 1 WHERE name = 'revenue'")
        with pytest.raises(ValueError, match="not zero"):
            check(db)
    finally:
        db.close()


def report(**changes: Any) -> dict[str, Any]:
    machine = {"busy": False, "daemon_core": [0], "fsync_ms": 1.0}
    return {"machine": machine, "databases": {}, "peers": None, "sizes": {}, **changes}


def test_a_figure_is_judged_against_its_aim_and_against_the_empty_database() -> None:
    empty = {"invoice_jobs_per_second": 1200.0, "invoice_multiple": 7.0}
    full = {"invoice_jobs_per_second": 900.0, "invoice_multiple": 7.5}
    met = {verdict["what"]: verdict["met"] for verdict in verdicts({"empty": empty, "full": full}, None)}
    assert met == {
        "empty: jobs paid by invoice": True,
        "empty: that, as a multiple of the floor": True,
        "full: jobs paid by invoice": False,
        "full: that, as a multiple of the floor": True,
        "full/empty: invoice_jobs_per_second": False,
        "full/empty: invoice_multiple": True,
    }


def test_more_calls_with_more_open_quotes_miss_the_aim() -> None:
    few = {"number": 10, **{case: {"calls_per_minute": 3.0} for case in ("pushed", "lost", "restarted")}}
    many = {**few, "number": 10_000, "restarted": {"calls_per_minute": 7.0}}
    assert [verdict["met"] for verdict in open_quotes_verdicts([few, many])] == [True, True, False]


def test_the_better_peer_counts_and_a_skipped_one_does_not() -> None:
    rates = {OURS: {"jobs_per_second": 500.0}, "a": {"jobs_per_second": 40.0}, "b": {"skipped": "no Python"}}
    assert times_better(rates) == 12.5
    assert times_better({OURS: rates[OURS], "b": rates["b"]}) is None


def test_what_makes_figures_doubtful_is_said() -> None:
    machine = {"busy": True, "load_average": 3.0, "daemon_core": None, "fsync_ms": 0.0}
    lost = {"answers": 2, "requests": 0, "jobs": 1, "connections": 0}
    said = notes(report(machine=machine, databases={"empty": {"memory_lost": lost}}))
    for word in ("busy", "one processor", "memory disk", "1 jobs had no end"):
        assert any(word in note for note in said), word


def test_a_python_that_is_not_there_is_a_reason_to_skip_a_peer() -> None:
    assert os.access(find_python(None), os.X_OK)
    with pytest.raises(Unavailable, match=r"no python3\.99"):
        find_python("3.99")
    assert {peer.name for peer in PEERS} == {"nostr-dvm", "ezdvm"}
    assert callable(show)
