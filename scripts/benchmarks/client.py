"""The customer of the benchmarks: as little work as possible, so that what is measured is the daemon.

Answers are read with as little parsing as the protocol allows; invoices are paid over the paper wallet's
socket. The customer reads on one connection and writes on others, which it changes before the relay would
reset them (LocalRelay does so after some 6,000 messages).

A relay under load loses events. Whoever waits longer than `PATIENCE` is looked after: what the relay has
stored is asked for, and a request that it does not have is sent again. `Lost` counts how often that was so.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count as count_up
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from dvm.nip90 import FEEDBACK, RECEIPT, TO_RESULT, Draft, request_draft
from dvm.nostr import Keys
from dvm.nostr.event import Event
from scripts.benchmarks.processes import Broken

KIND = 5050
MESSAGES_PER_CONNECTION = 2000
PATIENCE = 2.0  # seconds
TIMEOUT = 30.0  # seconds, after which a job is given up
_ASKED_AT_ONCE = 50  # jobs in one query

_NUMBERS = count_up()

Until = Literal["quote", "result", "receipt"]


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A request, and who will ask it."""

    draft: Draft
    keys: Keys


@dataclass(slots=True)
class Times:
    """When what happened to one job, in seconds of the performance counter; 0.0 is never. `settled`: when it was
    paid, in unix seconds, by which the daemon's log goes.

    `found`: some answer had to be asked for, so the times are not the daemon's. `heard`: all that the daemon said
    of it, each event once.
    """

    request: Event
    bolt11: str = ""
    settled: float = 0.0
    asked: float = 0.0
    quoted: float = 0.0
    paid: float = 0.0
    answered: float = 0.0
    receipted: float = 0.0
    looked_after: float = 0.0
    found: bool = False
    heard: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class Lost:
    """What went astray at the relay. `answers` and `requests` were made good, `jobs` never ended."""

    answers: int = 0
    requests: int = 0
    jobs: int = 0
    connections: int = 0


@dataclass
class Customer:
    """Asks, pays and waits until the event that `until` names. `keys` are used in turn; `kinds` are those of its jobs.

    `timeout`: seconds after which a job is given up (and counted as lost), never an error. `patience`: seconds
    after which the relay is asked for what a job waits for.
    """

    url: str
    till: Path | None
    keys: list[Keys]
    until: Until = "receipt"
    relays: tuple[str, ...] = ()
    timeout: float = TIMEOUT
    patience: float = PATIENCE
    kinds: tuple[int, ...] = (KIND,)
    lost: Lost = field(default_factory=Lost)

    async def __aenter__(self) -> Customer:
        self._jobs: dict[str, Times] = {}
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._writer = _Writer(self.url)
        if self.till is not None:
            reader, self._payments = await asyncio.open_unix_connection(str(self.till), limit=1 << 20)
            self._start(self._check_payments(reader))
        self._reader = await self._listen()
        self._start(self._read())
        self._start(self._look_after())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.till is not None:
            self._payments.close()
        await asyncio.gather(self._reader.close(), self._writer.close(), return_exceptions=True)

    def prepare(self, count: int) -> list[Unsigned]:
        """Requests, each different from every other of this run: the same one, in the same second, would be
        the same event."""
        return [
            Unsigned(request_draft(KIND, [f"Say this again, please: {number}"], relays=self.relays), keys)
            for number, keys in zip(islice(_NUMBERS, count), cycle(self.keys), strict=False)
        ]

    async def publish(self, event: Event) -> None:
        """Something that is no request, and that nobody answers."""
        await self._writer.send(event)

    async def ask(self, unsigned: Unsigned) -> Times | None:
        """One job, to its end; None if it had none in time. Raises Broken if it was refused.

        Signed now, not beforehand: nobody can page through thousands of requests of the same second, and
        the daemon's sweep must be able to find what the relay did not bring it.
        """
        request = unsigned.draft.sign(unsigned.keys, int(time.time()))
        times = Times(request, asked=time.perf_counter())
        with self._followed(times) as future:
            await self._writer.send(request)
            return times if await self._in_time(future) else None

    async def pay(self, quoted: Times) -> Times | None:
        """A job that was asked `until` its quote, from the payment to its end; None if it had none in time."""
        with self._followed(quoted) as future:
            self._pay(quoted)
            return quoted if await self._in_time(future) else None

    async def ask_all(self, requests: Sequence[Unsigned], outstanding: int) -> list[Times]:
        """Closed loop: always so many jobs under way, until all are done. Those that were answered."""
        left = iter(requests)

        async def one_after_the_other() -> list[Times | None]:
            return [await self.ask(request) for request in left]

        async with _together() as group:
            tasks = [group.create_task(one_after_the_other()) for _ in range(min(outstanding, len(requests)))]
        return [times for task in tasks for times in task.result() if times]

    async def ask_at(self, requests: Sequence[Unsigned], rate: float, chance: random.Random) -> list[Times]:
        """Open loop: so many jobs a second on average, with Poisson's gaps, whether or not they are answered."""
        began = time.perf_counter()
        due = 0.0
        tasks = []
        async with _together() as group:
            for request in requests:
                due += chance.expovariate(rate)
                await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
                tasks.append(group.create_task(self.ask(request)))
        return [times for task in tasks if (times := task.result())]

    # One job

    @contextmanager
    def _followed(self, times: Times) -> Iterator[asyncio.Future[None]]:
        job = times.request.id
        future = self._waiting[job] = asyncio.get_running_loop().create_future()
        self._jobs[job] = times
        try:
            yield future
        finally:
            self._waiting.pop(job, None)
            del self._jobs[job]

    async def _in_time(self, future: asyncio.Future[None]) -> bool:
        try:
            async with asyncio.timeout(self.timeout):
                await future
        except TimeoutError:
            self.lost.jobs += 1
            return False
        return True

    def _pay(self, times: Times) -> None:
        times.paid, times.settled = time.perf_counter(), time.time()
        self._payments.write(times.bolt11.encode() + b"\n")

    # What comes in

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Nothing that we wait for may be left waiting because its reader is gone."""
        if not task.cancelled() and (error := task.exception()):
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(Broken(f"the customer failed: {error!r}"))

    async def _listen(self) -> ClientConnection:
        connection = await _open(self.url)
        authors = list({keys.pubkey for keys in self.keys})
        wanted = {"kinds": self._answers(), "#p": authors, "limit": 0}
        await connection.send(orjson.dumps(["REQ", "answers", wanted]).decode())
        while b"EOSE" not in await connection.recv(decode=False):
            pass
        return connection

    def _answers(self) -> list[int]:
        return [FEEDBACK, *(kind + TO_RESULT for kind in self.kinds), RECEIPT]

    async def _read(self) -> None:
        while True:
            try:
                frame = await self._reader.recv(decode=False)
            except ConnectionClosed:
                self.lost.connections += 1
                self._reader = await self._listen()
                continue
            now = time.perf_counter()
            message = orjson.loads(frame)
            if message[0] == "EVENT":
                self._answer(message[2], now)

    def _answer(self, event: dict[str, Any], now: float) -> bool:
        """Whether it was news."""
        tags = event["tags"]
        job = next((tag[1] for tag in tags if tag[0] == "e"), "")
        times = self._jobs.get(job)
        if times is None:
            return False
        times.looked_after = now
        times.heard[event["id"]] = event
        match event["kind"]:
            case 7000:
                return self._feedback(job, times, tags, now)
            case 7090:
                news, times.receipted = not times.receipted, times.receipted or now
                self._reached("receipt", job)
            case _:
                news, times.answered = not times.answered, times.answered or now
                self._reached("result", job)
        return news

    def _feedback(self, job: str, times: Times, tags: list[list[str]], now: float) -> bool:
        status = next(tag for tag in tags if tag[0] == "status")
        if status[1] == "error":
            future = self._waiting.get(job)
            if future is not None and not future.done():
                future.set_exception(Broken(f"the daemon refused a job: {status[2:]}"))
        if status[1] != "payment-required" or times.quoted:
            return False
        times.quoted = now
        times.bolt11 = next(tag[2] for tag in tags if tag[0] == "amount")
        if self.until == "quote":
            self._reached("quote", job)
        else:
            self._pay(times)
        return True

    def _reached(self, what: Until, job: str) -> None:
        """The job ends with what we wait for; a result may overtake its receipt, or be overtaken."""
        future, times = self._waiting.get(job), self._jobs[job]
        if self.until == "receipt":
            complete = bool(times.receipted and times.answered)
        else:  # asked until its quote and paid later, it ends with its result
            complete = what == ("result" if self.until == "quote" and times.paid else self.until)
        if complete and future is not None and not future.done():
            future.set_result(None)

    async def _check_payments(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            if b"error" in line:
                raise Broken(f"the paper wallet refused: {line!r}")

    # What does not come in

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(PATIENCE / 4)
            overdue = time.perf_counter() - self.patience
            late = [
                job for job, times in self._jobs.items() if max(times.asked, times.paid, times.looked_after) < overdue
            ]
            for start in range(0, len(late), _ASKED_AT_ONCE):
                with suppress(ConnectionClosed, TimeoutError):
                    await self._fetch(late[start : start + _ASKED_AT_ONCE])

    async def _fetch(self, jobs: list[str]) -> None:
        """What the relay has of these jobs. What it does not even have the request of is sent once more."""
        query = ["REQ", "late", {"ids": jobs}, {"kinds": self._answers(), "#e": jobs}]
        missing = set(jobs)
        async with asyncio.timeout(PATIENCE), await _open(self.url) as connection:
            await connection.send(orjson.dumps(query).decode())
            while (message := orjson.loads(await connection.recv(decode=False)))[0] != "EOSE":
                event = message[2]
                if event["id"] in missing:
                    missing.remove(event["id"])
                elif self._answer(event, time.perf_counter()):
                    self.lost.answers += 1
                    self._found(event["tags"])
        now = time.perf_counter()
        for job in jobs:
            if (times := self._jobs.get(job)) is not None:
                times.looked_after = now
                if job in missing:
                    self.lost.requests += 1
                    times.found = True
                    await self._writer.send(times.request)

    def _found(self, tags: list[list[str]]) -> None:
        job = next(tag[1] for tag in tags if tag[0] == "e")
        if times := self._jobs.get(job):
            times.found = True


class _Writer:
    """Publishes, on a connection that is changed in good time. The old one is closed when its last event has
    its OK: LocalRelay drops what it has not yet read of a connection that says goodbye."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: ClientConnection | None = None
        self._left = 0
        self._opening = asyncio.Lock()
        self._drains: set[asyncio.Task[None]] = set()

    async def send(self, request: Event) -> None:
        if not self._left:
            async with self._opening:  # of those who find it used up, one opens the next
                if not self._left:
                    await self._next()
        self._left -= 1
        assert self._connection is not None
        with suppress(ConnectionClosed):  # what it took with it is found missing
            await self._connection.send(f'["EVENT",{request.to_json()}]')

    async def close(self) -> None:
        for drain in self._drains:
            drain.cancel()
        await asyncio.gather(*self._drains, return_exceptions=True)

    async def _next(self) -> None:
        self._connection = await _open(self._url)
        self._left = MESSAGES_PER_CONNECTION
        drain = asyncio.get_running_loop().create_task(self._drain(self._connection))
        self._drains.add(drain)
        drain.add_done_callback(self._drains.discard)

    async def _drain(self, connection: ClientConnection) -> None:
        """Take the OKs; until they are all there, or the connection is gone."""
        async with connection:
            with suppress(ConnectionClosed):
                for _ in range(MESSAGES_PER_CONNECTION):
                    await connection.recv(decode=False)
        if connection is self._connection:
            self._left = 0


@asynccontextmanager
async def _together() -> AsyncIterator[asyncio.TaskGroup]:
    """Tasks that end together; the first one's error is the block's."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _open(url: str) -> ClientConnection:
    connection = await connect(url, compression=None, max_size=None, ping_interval=None)
    raw = connection.transport.get_extra_info("socket")
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
