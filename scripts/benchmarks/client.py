"""The customer of the benchmarks: as little work as possible, so that what is measured is the daemon.

Requests are signed beforehand; answers are read with as little parsing as the protocol allows; invoices are
paid over the paper wallet's socket. The customer reads on one connection and writes on others, which it
changes before the relay would reset them (LocalRelay does so after some 6,000 messages).
"""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from websockets.asyncio.client import ClientConnection, connect

from dvm.nip90 import request_draft
from dvm.nostr import Keys
from dvm.nostr.event import Event

MESSAGES_PER_CONNECTION = 2000


@dataclass(slots=True)
class Times:
    """When what happened to one job, in seconds of the performance counter."""

    asked: float = 0.0
    quoted: float = 0.0
    paid: float = 0.0
    answered: float = 0.0
    receipted: float = 0.0


@dataclass
class Customer:
    """Asks, pays and waits. `keys` are used in turn, so that nobody's token bucket is what is measured."""

    url: str
    socket_path: Path | None
    keys: list[Keys]
    jobs: dict[str, Times] = field(default_factory=dict)

    async def __aenter__(self) -> Customer:
        self._done: dict[str, asyncio.Future[None]] = {}
        self._waiting_quote: dict[str, asyncio.Future[None]] = {}
        self._pay = True
        self._sent = 0
        self._writer: ClientConnection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        if self.socket_path is not None:
            reader, self._till = await asyncio.open_unix_connection(str(self.socket_path), limit=1 << 20)
            self._tasks.append(asyncio.create_task(self._drain(reader)))
        self._reader = await _open(self.url)
        authors = [keys.pubkey for keys in self.keys]
        await self._reader.send(
            orjson.dumps(["REQ", "a", {"kinds": [7000, 6050, 7090], "#p": authors, "limit": 0}]).decode()
        )
        while b"EOSE" not in await self._reader.recv(decode=False):
            pass
        self._tasks.append(asyncio.create_task(self._read()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.socket_path is not None:
            self._till.close()
        for connection in (self._reader, self._writer):
            if connection is not None:
                await connection.close()

    def prepare(self, count: int, provider: str | None = None) -> list[Event]:
        """Signed requests, each different, no older than now."""
        now = int(time.time())
        providers = [provider] if provider else []
        return [
            request_draft(5050, [f"Say this again, please: {number}"], providers=providers).sign(
                self.keys[number % len(self.keys)], now
            )
            for number in range(count)
        ]

    async def ask(self, request: Event, *, pay: bool = True) -> Times:
        """One job to its receipt, or with `pay` False to its quote."""
        loop = asyncio.get_running_loop()
        times = self.jobs[request.id] = Times()
        future = loop.create_future()
        (self._done if pay else self._waiting_quote)[request.id] = future
        times.asked = time.perf_counter()
        await self._send(request)
        await asyncio.wait_for(future, 60)
        return times

    async def _send(self, request: Event) -> None:
        if self._writer is None or self._sent >= MESSAGES_PER_CONNECTION:
            old, self._sent = self._writer, 0
            self._writer = await _open(self.url)
            self._tasks.append(asyncio.create_task(_swallow(self._writer)))
            if old is not None:
                await old.close()
        self._sent += 1
        await self._writer.send(f'["EVENT",{request.to_json()}]')

    async def _read(self) -> None:
        while True:
            frame = await self._reader.recv(decode=False)
            now = time.perf_counter()
            message = orjson.loads(frame)
            if message[0] != "EVENT":
                continue
            event = message[2]
            job = event["tags"][0][1]
            times = self.jobs.get(job)
            if times is None:
                continue
            if event["kind"] == 7000:
                self._feedback(job, times, event["tags"], now)
            elif event["kind"] == 7090:
                times.receipted = now
                self._finish(self._done, job)
            else:
                times.answered = now

    def _feedback(self, job: str, times: Times, tags: list[list[str]], now: float) -> None:
        status = tags[2][1]
        if status == "payment-required":
            times.quoted = now
            if job in self._waiting_quote:
                self._finish(self._waiting_quote, job)
                return
            times.paid = time.perf_counter()
            self._till.write(next(tag[2] for tag in tags if tag[0] == "amount").encode() + b"\n")
        elif status == "error":
            raise RuntimeError(f"refused: {tags[2]}")

    @staticmethod
    def _finish(futures: dict[str, asyncio.Future[None]], job: str) -> None:
        future = futures.pop(job, None)
        if future is not None and not future.done():
            future.set_result(None)

    async def _drain(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            if b"error" in line:
                raise RuntimeError(f"the paper wallet refused: {line!r}")


async def _swallow(connection: ClientConnection) -> None:
    async for _ in connection:
        pass


async def _open(url: str) -> ClientConnection:
    connection = await connect(url, compression=None, max_size=None, ping_interval=None)
    raw = connection.transport.get_extra_info("socket")
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
