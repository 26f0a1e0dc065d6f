"""A customer on real relays, for tests: asks, hears, pays, keeps the receipts."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from dvm.nip90 import (
    FEEDBACK,
    RECEIPT,
    Feedback,
    Input,
    Receipt,
    Result,
    cancel_draft,
    parse_answer,
    parse_receipt,
    request_draft,
    verify_chain,
)
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.keys import Keys
from dvm.nostr.options import PoolOptions, RelayOptions
from dvm.nostr.pool import RelayPool

KIND, RESULT = 5050, 6050
RESULTS = (6000, 6001, 6002, RESULT, 6100, 6250)
OPTIONS = PoolOptions(relay=RelayOptions(min_backoff=0.01, max_backoff=0.1), allow_private=True)


class Customer:
    """`heard` is what came for each job, in the order of its coming, each event once; receipts without a job
    under the empty id. Everything is parsed with the customer's keys, so that a malformed answer fails."""

    def __init__(self, relays: Sequence[str], keys: Keys | None = None) -> None:
        self.keys = keys or Keys.generate()
        self.pool = RelayPool(relays, relays, options=OPTIONS)
        self.heard: defaultdict[str, list[Event]] = defaultdict(list)
        self._changed = asyncio.Event()

    async def start(self, connections: int = 1) -> None:
        wanted = Filter(kinds=[FEEDBACK, RECEIPT, *RESULTS], tags={"p": [self.keys.pubkey]})
        self.pool.subscribe(wanted, self._hear)
        self.pool.start()
        assert await self.pool.wait_connected(connections, 10)

    async def ask(self, *texts: str | Input, at: int | None = None, kind: int = KIND, **fields: Any) -> str:
        """Publish a request; the fields are those of `request_draft`. Its id."""
        request = request_draft(kind, texts, keys=self.keys, **fields).sign(self.keys, at or int(time.time()))
        return await self.send(request)

    async def send(self, event: Event) -> str:
        """Publish any event; its id."""
        published = await self.pool.publish(event)
        assert published, published.failed
        return event.id

    async def cancel(self, job: str) -> None:
        await self.send(cancel_draft(job, KIND).sign(self.keys, int(time.time())))

    async def until(self, job: str, condition: Callable[[Event], object], timeout: float = 60.0) -> Event:
        """The first event for that job of which the condition holds, waited for."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    for event in self.heard[job]:
                        if condition(event):
                            return event
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not among {self.said(job)}") from None

    async def feedback(self, job: str, status: str, timeout: float = 60.0) -> Feedback:
        event = await self.until(job, lambda e: e.kind == FEEDBACK and e.tag("status") == status, timeout)
        parsed = parse_answer(event, self.keys)
        assert isinstance(parsed, Feedback)
        return parsed

    async def quote(self, job: str, timeout: float = 60.0) -> Feedback:
        """The `payment-required` of that job."""
        return await self.feedback(job, "payment-required", timeout)

    async def result(self, job: str, timeout: float = 60.0) -> Result:
        parsed = parse_answer(await self.until(job, lambda e: e.kind == RESULT, timeout), self.keys)
        assert isinstance(parsed, Result)
        return parsed

    async def receipt(self, job: str, timeout: float = 60.0) -> Receipt:
        return parse_receipt(await self.until(job, lambda e: e.kind == RECEIPT, timeout), self.keys)

    def results(self, job: str) -> set[str]:
        """The ids of all results that came for it."""
        return {event.id for event in self.heard[job] if event.kind == RESULT}

    def said(self, job: str) -> list[str]:
        """What came for it, in order: statuses of feedback with their text, numbers of other kinds."""
        return [
            f"{e.tag('status')} {e.content}".strip() if e.kind == FEEDBACK else str(e.kind) for e in self.heard[job]
        ]

    def chain(self) -> list[Receipt]:
        """All receipts, in the order of their numbers."""
        events = [event for each in self.heard.values() for event in each if event.kind == RECEIPT]
        return sorted((parse_receipt(event, self.keys) for event in events), key=lambda receipt: receipt.seq)

    def check_chain(self, *paid: str) -> int:
        """The chain is whole and names these payment hashes; the balance that it ends with, in msat."""
        chain = self.chain()
        assert verify_chain(chain, paid=paid) == []
        return chain[-1].after if chain else 0

    def _hear(self, event: Event, _relay: str) -> None:
        self.heard[event.tag("e") or ""].append(event)
        self._changed.set()


@asynccontextmanager
async def customer(*relays: str, keys: Keys | None = None, connections: int = 1) -> AsyncIterator[Customer]:
    one = Customer(relays, keys)
    await one.start(connections)
    try:
        yield one
    finally:
        await one.pool.close()
