"""A customer on NDK, in a Node.js process: see tests/ldk/ndk_customer.mjs."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.standins.ldk import program
from tests.standins.process import Process

Heard = dict[str, Any]


class NdkCustomer(Process):
    """`heard` is what NDK read for each job, in the order of its coming. `pubkey` is there once it `began`."""

    def __init__(self, relay: str, provider: str) -> None:
        super().__init__([str(program().with_name("ndk_customer.mjs")), relay, provider], program="node")
        self.pubkey = ""
        self.heard: defaultdict[str, list[Heard]] = defaultdict(list)
        self.unreadable: list[Heard] = []
        self._orders = 0

    async def begin(self) -> None:
        await self.spawn()
        self.pubkey = json.loads(await self.line('{"pubkey"', 60))["pubkey"]

    async def ask(
        self,
        kind: int,
        inputs: list[list[str]],
        params: list[list[str]],
        *,
        output: str | None = None,
        bid: int | None = None,
        scheme: str | None = None,
        beside: bool = False,
    ) -> dict[str, Any]:
        """Publish a request; its `job`, an id, and the `event`. `beside`: output and bid are not encrypted."""
        self._orders += 1
        asked = {"kind": kind, "inputs": inputs, "params": params, "output": output, "bid": bid}
        wanted = {name: value for name, value in asked.items() if value is not None}
        await self.order({"ask": self._orders, **wanted, "scheme": scheme, "beside": beside})
        return dict(json.loads(await self.line(f'{{"asked":{self._orders},', 60)))

    async def cancel(self, job: str) -> None:
        await self.order({"cancel": job})
        await self.line(json.dumps({"cancelled": job}, separators=(",", ":")), 60)

    async def note(self, content: str) -> str:
        """Publish a text for everybody; the event's id."""
        self._orders += 1
        await self.order({"note": self._orders, "content": content})
        return str(json.loads(await self.line(f'{{"noted":{self._orders},', 60))["event"])

    async def fetch(self, url: str, key: str | None = None, nonce: str | None = None) -> dict[str, Any]:
        """What is at a URL: its `status`, its `sha256`, and, with a key and a nonce, that of what it is `opened`."""
        self._orders += 1
        await self.order({"fetch": self._orders, "url": url, "key": key, "nonce": nonce})
        return dict(json.loads(await self.line(f'{{"fetched":{self._orders},', 60)))

    async def until(self, job: str, condition: Callable[[Heard], object], timeout: float = 60.0) -> Heard:
        """The first answer to that job of which the condition holds, waited for."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    assert not self.unreadable, self.unreadable
                    for heard in self.heard[job]:
                        if condition(heard):
                            return heard
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not among {self.heard[job]}; {self.lines[-5:]}") from None

    async def status(self, job: str, status: str) -> Heard:
        """The first feedback of that status."""
        return await self.until(job, lambda heard: heard["kind"] == 7000 and heard["status"] == status)

    async def result(self, job: str) -> Heard:
        return await self.until(job, lambda heard: heard["kind"] != 7000)

    def _wrote(self, line: str) -> None:
        if line.startswith('{"heard":'):
            heard = json.loads(line)["heard"]
            if "unreadable" in heard:
                self.unreadable.append(heard)
            else:
                self.heard[heard["job"]].append(heard)


@asynccontextmanager
async def ndk_customer(relay: str, provider: str) -> AsyncIterator[NdkCustomer]:
    """A new one, connected, as long as the block lasts. Skips the test where there is no Node.js."""
    one = NdkCustomer(relay, provider)
    try:
        await one.begin()
        yield one
    finally:
        if one.running:
            await one.end()
