"""The processes of a run: started on their processors, listened to, and never left behind."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from dvm.nostr import Keys
from scripts.benchmarks.history import fund
from scripts.benchmarks.machine import Cores, cpu_seconds

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 15.0
PER_REQUEST = "{ per_request = 21 }"
PER_TOKEN = '"per-token"'
FREE = '"free"'
RATES = "input = 300\ncached = 75\noutput = 2500\n"
ECHO = f'[models.echo]\nprovider = "echo"\n{RATES}max_output_tokens = 1000\n'

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


class Broken(Exception):
    """The benchmark cannot go on: a process ended or never became ready, or answers with errors."""


class Child:
    """One process. Everything that it says goes to the file `log`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, began: float) -> None:
        self._process = process
        self._log = log
        self.began = began

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    async def said(self, text: str, timeout: float = START_SECONDS) -> str:
        """The first line that contains `text`, waited for. Raises Broken."""
        until = time.monotonic() + timeout
        while True:
            for line in self.lines():
                if text in line:
                    return line
            if self.ended or time.monotonic() > until:
                raise Broken(f"{self._log.stem} did not start:\n" + "\n".join(list(self.lines())[-20:]))
            await asyncio.sleep(0.002)

    def tell(self, line: str) -> None:
        """A line to its stdin, for a process that listens."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def lines(self) -> list[str]:
        """What it has said so far, whole lines only."""
        return self._log.read_text("utf-8", "replace").split("\n")[:-1]

    async def at_rest(self, timeout: float = 10.0) -> None:
        """Return once it uses next to no processor time, or after `timeout` seconds."""
        until = time.monotonic() + timeout
        used = cpu_seconds(self.pid)
        while time.monotonic() < until:
            await asyncio.sleep(0.2)
            now = cpu_seconds(self.pid)
            if now - used < 0.004:
                return
            used = now

    def stop(self) -> None:
        """End it; by force, where asking does not help. Blocks until it is gone."""
        try:
            with suppress(ProcessLookupError):
                self._process.terminate()
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._process.kill()
            self._process.wait()


@contextmanager
def child(
    arguments: Sequence[str | Path],
    log: Path,
    cores: Iterable[int],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[Child]:
    """A process on `cores`, as long as the block lasts. Of our environment it gets no secret."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    began = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(part) for part in arguments],
            cwd=cwd,
            env={**kept, "PYTHONUNBUFFERED": "1", **(env or {})},
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is ours: we end them, in their order
            preexec_fn=_leash(frozenset(cores)),
        )
    running = Child(process, log, began)
    try:
        yield running
    finally:
        running.stop()


def _leash(cores: frozenset[int]) -> Callable[[], None]:
    """What a new process does first: it moves to its processors, and asks to die when we do, however we do."""

    def before_it_begins() -> None:
        os.sched_setaffinity(0, cores)
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return before_it_begins


@dataclass(frozen=True, slots=True)
class Stage:
    """A daemon that is ready, at a relay that has nothing yet."""

    url: str
    daemon: Child
    relay: Child
    pubkey: str
    directory: Path

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def till(self) -> Path:
        """Where the paper wallet's invoices are paid."""
        return self.data / "paper.sock"


@asynccontextmanager
async def relay(directory: Path, cores: Cores) -> AsyncIterator[tuple[str, Child]]:
    """A fresh relay: its address, and itself."""
    directory.mkdir(parents=True, exist_ok=True)
    arguments = [sys.executable, "-m", "scripts.benchmarks.relay"]
    with child(arguments, directory / "relay.log", cores.others, cwd=ROOT) as process:
        yield await process.said("ws://"), process


@asynccontextmanager
async def shop(
    directory: Path,
    price: str,
    cores: Cores,
    *,
    sold: str | None = None,
    env: Mapping[str, str] | None = None,
    customer_relays: bool = True,
) -> AsyncIterator[Stage]:
    """`dvm run` with the paper wallet on its processor, at a relay of its own. It sells what `configure` says.

    `directory/data` may hold a database already.
    """
    await fund(directory / "data")
    async with relay(directory, cores) as (url, its_relay):
        keys = configure(directory, price, url, sold=sold, limits={"customer_relays": customer_relays})
        with daemon(directory, keys, cores, env) as process:
            await process.said('"ready"')
            yield Stage(url, process, its_relay, keys.pubkey, directory)


class PaperWallet:
    """The paper wallet's process: `uri` connects to it, at the socket `till` anybody pays."""

    def __init__(self, process: Child, uri: str, till: Path) -> None:
        self.uri, self.till = uri, till
        self._process = process
        self._asked = 0

    async def push(self, on: bool) -> None:
        """Whether it tells what was paid, or its word is lost on the way."""
        wanted = "on" if on else "off"
        self._process.tell(f"pushes {wanted}")
        await self._process.said(f'"pushes":"{wanted}"')

    async def counts(self) -> dict[str, int]:
        """The requests since this was last asked, by method."""
        self._asked += 1
        self._process.tell(f"counts {self._asked}")
        said = orjson.loads(await self._process.said(f'"asked":"{self._asked}"'))
        return dict(said["requests"])


@asynccontextmanager
async def paper_wallet(directory: Path, cores: Cores) -> AsyncIterator[PaperWallet]:
    """The wallet service as a process of its own, behind a relay of its own: so the jobs' events are not in its way,
    as they are not in a real wallet's."""
    async with relay(directory, cores) as (url, _):
        arguments: list[str | Path] = [sys.executable, "-m", "scripts.benchmarks.wallet", url, directory]
        with child(arguments, directory / "wallet.log", cores.others, cwd=ROOT) as process:
            said = orjson.loads(await process.said('"uri"'))
            yield PaperWallet(process, said["uri"], Path(said["socket"]))


def neighbours(directory: Path, cores: Cores) -> AbstractContextManager[Child]:
    """The servers of scripts/benchmarks/world.py; what it says first is where they are."""
    arguments = [sys.executable, "-m", "scripts.benchmarks.world"]
    return child(arguments, directory / "world.log", cores.others, cwd=ROOT)


def daemon(
    directory: Path, keys: Keys, cores: Cores, env: Mapping[str, str] | None = None
) -> AbstractContextManager[Child]:
    """`dvm run` on what `configure` wrote."""
    arguments = [sys.executable, "-m", "dvm", "run", "--log", "json"]
    env = {"DVM_NSEC": keys.nsec(), "PYTHONPATH": str(ROOT), **(env or {})}
    return child(arguments, directory / "daemon.log", cores.daemon, cwd=directory, env=env)


def configure(
    directory: Path,
    price: str,
    url: str,
    *,
    wallet: str = "paper",
    limits: Mapping[str, int] | None = None,
    sold: str | None = None,
) -> Keys:
    """Write dvm.toml and relays.toml; the keys to run with. `wallet` is its type, `limits` are further ones, `sold` is
    what stands there of models and services: kind 5050 by the echo model, for `price`, if nothing is said.

    Limits that protect from strangers are off, the customer being one. Requests that the relay lost on their
    way to the daemon are found by its sweep, which comes before the customer gives a job up.
    """
    directory.mkdir(parents=True, exist_ok=True)
    further = "".join(f"{name} = {str(value).lower()}\n" for name, value in (limits or {}).items())
    sold = sold or f'{ECHO}[[service]]\nkind = 5050\nmodels = ["echo"]\nprice = {price}\n'
    (directory / "dvm.toml").write_text(
        f"""[wallet]
type = "{wallet}"
{sold}[limits]
jobs_per_minute = 0
jobs_per_minute_total = 0
open_quotes = 0
open_quotes_total = 0
sweep_seconds = 20
allow_private_addresses = true
{further}"""
    )
    (directory / "relays.toml").write_text(f'[[relay]]\nurl = "{url}"\n')
    return Keys.generate()
