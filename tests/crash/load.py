"""Customers who ask, ask twice, pay at once, late or not at all, whatever becomes of the daemon meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from dvm.lightning.base import WalletError
from dvm.lightning.paper_socket import pay_over_socket
from dvm.nip90 import FEEDBACK, RECEIPT, request_draft
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.keys import Keys
from dvm.nostr.options import PoolOptions
from dvm.nostr.pool import RelayPool

KIND, RESULT = 5050, 6050
WORDS = ["a", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "pays", "for", "every", "token"]


@dataclass
class Asked:
    """A job as its customer sees it."""

    request: Event
    invoice: str | None = None
    paid: bool = False
    results: set[str] = field(default_factory=set)
    refused: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Load:
    """`width` jobs at a time, of `customers` customers, on one relay. `jobs` holds everything ever asked."""

    def __init__(self, relay: str, provider: str, socket: Path, *, customers: int, width: int, seed: int) -> None:
        self.jobs: dict[str, Asked] = {}
        self.keys = [Keys.generate() for _ in range(customers)]
        self.receipts: defaultdict[str, dict[str, Event]] = defaultdict(dict)
        self._provider, self._socket, self._width = provider, socket, width
        self._random = random.Random(seed)
        options = PoolOptions(allow_private=True)
        # Two pools: each request is published by both, as a client with two connections does.
        self.pool = RelayPool([relay], [relay], options=options)
        self._twin = RelayPool([], [relay], options=options)
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self) -> None:
        pubkeys = [keys.pubkey for keys in self.keys]
        wanted = Filter(kinds=[FEEDBACK, RESULT, RECEIPT], authors=[self._provider], tags={"p": pubkeys})
        self.pool.subscribe(wanted, self._hear)
        self.pool.start()
        self._twin.start()
        await self.pool.wait_connected()
        await self._twin.wait_connected()
        self._tasks = [asyncio.create_task(self._ask_on()) for _ in range(self._width)]

    async def stop(self) -> None:
        """Ask no more; what was quoted may still be paid."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.pool.close()
        await self._twin.close()

    def _hear(self, event: Event, _relay: str) -> None:
        if event.kind == RECEIPT:
            self.receipts[event.tag("p") or ""][event.id] = event
            return
        job = self.jobs.get(event.tag("e") or "")
        if job is None:
            return
        status = event.tag("status")
        if event.kind == RESULT:
            job.results.add(event.id)
        elif status == "payment-required":
            job.invoice = event.all("amount")[0][2]
        elif status == "error":
            job.refused = True
        job.changed.set()

    async def _ask_on(self) -> None:
        while not self._stopping:
            await self._one()
            await asyncio.sleep(self._random.random() * 0.2)

    async def _one(self) -> None:
        chance = self._random.random
        keys = self._random.choice(self.keys)
        text = " ".join(self._random.choices(WORDS, k=self._random.randint(5, 80)))
        providers = [self._provider] if chance() < 0.5 else []
        most = [("max_tokens", str(self._random.randint(50, 150)))]
        draft = request_draft(KIND, [text], params=most, providers=providers, keys=keys)
        request = draft.sign(keys, int(time.time()))
        job = self.jobs[request.id] = Asked(request)
        done = await self.pool.publish(request)
        if not done:
            del self.jobs[request.id]
            return
        await asyncio.sleep(chance() * 0.1)
        await self._twin.publish(request)
        if await self._hears(job, lambda: job.invoice or job.results or job.refused) and job.invoice:
            await self._perhaps_pay(job)
            if job.paid:
                await self._hears(job, lambda: job.results or job.refused)

    async def _perhaps_pay(self, job: Asked) -> None:
        chance = self._random.random
        if chance() < 0.1:
            return
        await asyncio.sleep(chance() * (3 if chance() < 0.1 else 0.2))
        for _ in range(50):  # the wallet is away at times as well
            try:
                answer = await pay_over_socket(self._socket, job.invoice or "")
            except WalletError:
                await asyncio.sleep(0.2)
                continue
            job.paid = bool(answer["paid"]) or answer.get("reason") == "already_paid"
            return

    async def _hears(self, job: Asked, condition: object, seconds: float = 5.0) -> bool:
        """Whether it holds within `seconds`; a customer does not wait for ever for a daemon that dies."""
        assert callable(condition)
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    job.changed.clear()
                    await job.changed.wait()
        except TimeoutError:
            return False
        return True
