"""The same free echo job through this daemon and through its peers, on the same relay and processor.

Each peer lives in a virtual environment of its own, outside the tree, made on first use.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from dvm.nostr import Keys
from scripts.benchmarks.client import Customer
from scripts.benchmarks.machine import Cores, cpu_seconds, resident_bytes
from scripts.benchmarks.measures import Bench, percentile
from scripts.benchmarks.processes import FREE, Broken, Child, child, configure, daemon, relay

PROGRAMS = Path(__file__).parent / "peer_programs"
INSTALL_SECONDS = 900.0
READY_SECONDS = 60.0
WARM_UP = 20
OURS = "lightning-dvm"


@dataclass(frozen=True, slots=True)
class Peer:
    """Somebody else's daemon: what pip installs for it, and on which Python (None: any that we run on)."""

    name: str
    requirements: tuple[str, ...]
    program: str
    python: str | None = None


PEERS = (
    Peer("nostr-dvm", ("nostr-dvm==1.1.8",), "echo_nostr_dvm.py"),
    Peer("ezdvm", ("ezdvm==0.1.2", "nostr-sdk==0.36.*"), "echo_ezdvm.py", python="3.12"),
)


class Unavailable(Exception):
    """The peer cannot be had on this machine; the text says why."""


async def compare(bench: Bench) -> dict[str, dict[str, Any]]:
    """By condition ("one" processor for the daemon, as in all other measures; "all" of them, which suits
    peers with many threads), by name: what was measured, or `{"skipped": why}`."""
    everything = Cores(bench.cores.daemon | bench.cores.others, bench.cores.others)
    conditions = {"one": bench.cores, "all": everything} if bench.cores.pinned else {"all": everything}
    return {name: await _compare(replace(bench, cores=cores), name) for name, cores in conditions.items()}


async def _compare(bench: Bench, condition: str) -> dict[str, Any]:
    say, prefix = bench.say, "one processor" if condition == "one" else "all processors"
    bench = replace(bench, say=lambda text: say(f"{prefix}: {text}"))
    found = {OURS: await _measure(bench, None, None)}
    for peer in PEERS:
        try:
            bench.say(f"{peer.name}: preparing its environment")
            python = await environment(peer)
            found[peer.name] = await _measure(bench, peer, python)
        except (Unavailable, Broken) as error:
            found[peer.name] = {"skipped": str(error)}
    return found


async def _measure(bench: Bench, peer: Peer | None, python: Path | None) -> dict[str, Any]:
    """Rounds of free jobs, all asked for at once."""
    sizes = bench.sizes
    name = peer.name if peer else OURS
    directory = bench.place(f"peer-{name}")
    async with relay(directory, bench.cores) as (url, _):
        with _started(bench, directory, url, peer, python) as process:
            # The request names the relay to answer on: a peer need not look the customer's up.
            async with Customer(url, None, [Keys.generate()], until="result", relays=(url,), timeout=2.0) as customer:
                await _answering(customer, process, name)
            async with Customer(url, None, [Keys.generate()], until="result", relays=(url,)) as customer:
                await customer.ask_all(customer.prepare(WARM_UP), WARM_UP)
                rounds = []
                for number in range(sizes.peer_rounds):
                    bench.say(f"{name}: round {number + 1} of {sizes.peer_rounds}, {sizes.peer_jobs} free jobs at once")
                    await process.at_rest(3.0)
                    rounds.append(await _round(customer, process, sizes.peer_jobs))
                lost = customer.lost
            resident = resident_bytes(process.pid)
    middle = {key: median(each[key] for each in rounds) for key in rounds[0]}
    return {**middle, "resident": resident, "lost": lost.jobs, "found_late": lost.answers, "rounds": rounds}


@contextmanager
def _started(bench: Bench, directory: Path, url: str, peer: Peer | None, python: Path | None) -> Iterator[Child]:
    if peer is None or python is None:
        with daemon(directory, configure(directory, FREE, url), bench.cores) as process:
            yield process
        return
    arguments: list[str | Path] = [python, PROGRAMS / peer.program, url]
    with child(arguments, directory / f"{peer.name}.log", bench.cores.daemon, cwd=directory) as process:
        yield process


async def _answering(customer: Customer, process: Child, name: str) -> None:
    """Return once a job was answered: none of them all says when it is ready. Raises Broken."""
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        if process.ended:
            break
        if await customer.ask(customer.prepare(1)[0]):
            return
    said = " / ".join(line for line in process.lines()[-5:])
    raise Broken(f"{name} answered nothing within {READY_SECONDS:.0f} s; its last words: {said[-400:]}")


async def _round(customer: Customer, process: Child, jobs: int) -> dict[str, float]:
    requests = customer.prepare(jobs)
    used, began = cpu_seconds(process.pid), time.perf_counter()
    done = await customer.ask_all(requests, jobs)
    if not done:
        raise Broken("not one job of a round was answered")
    # What was given up is not waited for in the rate; it is counted as lost.
    took = max(times.answered for times in done) - began
    waited = sorted((times.answered - times.asked) * 1e3 for times in done)
    return {
        "jobs": len(done),
        "jobs_per_second": len(done) / took,
        "result_p50_ms": percentile(waited, 50),
        "daemon_us": (cpu_seconds(process.pid) - used) / len(done) * 1e6,
    }


# ── their environments ────────────────────────────────────────────────────────────────────────────


async def environment(peer: Peer) -> Path:
    """The Python of the peer's environment, made if it is not there. Raises Unavailable."""
    base = find_python(peer.python)
    key = hashlib.sha256("\n".join((str(base), *peer.requirements)).encode()).hexdigest()[:8]
    place = _cache() / f"bench-{peer.name}-{key}"
    python, stamp = place / "bin" / "python", place / ".complete"
    if stamp.exists() and _answers(python):
        return python
    shutil.rmtree(place, ignore_errors=True)
    try:
        await _run([str(base), "-m", "venv", str(place)])
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        await _run([*pip, *peer.requirements])
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    stamp.touch()
    return python


def find_python(version: str | None) -> Path:
    """A Python of that version ("3.12") that starts and can make environments; without one, our own.

    Raises Unavailable.
    """
    if version is None:
        return Path(getattr(sys, "_base_executable", sys.executable))
    name = f"python{version}"
    managed = (
        (Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions", f"{version}*/bin/{name}"),
        (Path(os.environ.get("UV_PYTHON_INSTALL_DIR", Path.home() / ".local/share/uv/python")), f"*/bin/{name}"),
    )
    candidates = [Path(found) for found in (shutil.which(name),) if found]
    candidates += [path for root, pattern in managed for path in sorted(root.glob(pattern), reverse=True)]
    for candidate in candidates:
        if _answers(candidate):
            return candidate
    raise Unavailable(f"there is no {name} (with venv) on this machine")


def _answers(python: Path) -> bool:
    """Tried by running: a version manager's shim exists for versions that it will not start."""
    try:
        done = subprocess.run(
            [python, "-c", "import sys, venv, ensurepip"], capture_output=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


async def _run(command: list[str]) -> None:
    """One step, silent unless it fails; it ends with us. Raises Unavailable."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "__PYVENV"))}
    process = await asyncio.create_subprocess_exec(
        *command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    step = " ".join(command[1:4])
    try:
        async with asyncio.timeout(INSTALL_SECONDS):
            said, _ = await process.communicate()
    except TimeoutError:
        raise Unavailable(f"{step} took more than {INSTALL_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        last = said.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise Unavailable(f"{step} failed: {''.join(last)[:300]}")


def _cache() -> Path:
    """Where environments are kept between runs, outside the tree."""
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base if base else Path.home() / ".cache") / "lightning-dvm"
