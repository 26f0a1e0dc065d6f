"""Customers who ask, ask twice, pay at once, late or not at all, whatever becomes of the daemon meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from dvm.nip90 import FEEDBACK, RECEIPT, cancel_draft, request_draft
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.keys import Keys
from dvm.nostr.options import PoolOptions
from dvm.nostr.pool import RelayPool
from tests.crash.money import Money, pay

KIND, RESULT = 5050, 6050
WORDS = ["a", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "pays", "for", "every", "token"]


@dataclass
class Asked:
    """A job as its customer sees it."""

    request: Event
    invoice: str | None = None
    quote: Event | None = None
    paid: bool = False
    results: set[str] = field(default_factory=set)
    refused: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Load:
    """`width` jobs at a time, of `customers` customers, on one relay. `jobs` holds everything ever asked."""

    def __init__(
        self,
        relay: str,
        provider: str,
        socket: Path,
        *,
        gateway: str,
        wallet: str,
        customers: int,
        width: int,
        seed: int,
    ) -> None:
        self.jobs: dict[str, Asked] = {}
        self.keys = [Keys.generate() for _ in range(customers)]
        self.receipts: defaultdict[str, dict[str, Event]] = defaultdict(dict)
        self._provider, self._socket, self._width = provider, socket, width
        self._random = random.Random(seed)
        self.money = Money(relay, provider, socket, gateway, wallet, self._random)
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
        await self.money.start()
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
        await self.money.close()
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
            job.invoice, job.quote = event.all("amount")[0][2], event
        elif status == "error":
            job.refused = True
        job.changed.set()

    async def _ask_on(self) -> None:
        while not self._stopping:
            chance = self._random.random()
            if chance < 0.1:
                await self.money.zap(self._random.choice(self.keys), self._random.randint(20, 200) * 1000)
            elif chance < 0.2:
                await self.money.withdraw(self.pool, self._random.choice(self.keys))
            else:
                await self.one()
            await asyncio.sleep(self._random.random() * 0.2)

    async def one(self) -> None:
        """One job, asked for and perhaps paid, by a customer of chance."""
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
            if job.paid and chance() < 0.1:
                await asyncio.sleep(chance() * 0.3)
                await self.pool.publish(cancel_draft(request.id, KIND).sign(keys, int(time.time())))
            if job.paid:
                await self._hears(job, lambda: job.results or job.refused)

    async def _perhaps_pay(self, job: Asked) -> None:
        chance = self._random.random
        if chance() < 0.1:
            return
        await asyncio.sleep(chance() * (3 if chance() < 0.1 else 0.2))
        if job.quote is not None and chance() < 0.25:
            msat = int(job.quote.all("amount")[0][1]) - (1000 if chance() < 0.1 else 0)
            if msat > 0:
                anyone = self._random.choice(self.keys)  # whoever pays it, it is that job's
                job.paid = await self.money.zap(anyone, msat, event=job.quote.id, job=job.request.id)
            return
        job.paid = await pay(self._socket, job.invoice or "")

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
