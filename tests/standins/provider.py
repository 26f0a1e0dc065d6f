"""A provider whose every answer a test decides: honest helpers, and all the freedom to lie with them.

async def act(p: Provider, job: JobRequest) -> None:
    await p.quote(job, msat=5_000, invoice_msat=9_000)

async with provider(url, act) as p: ...
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from coincurve import PrivateKey

from dvm.lightning.bolt11 import encode
from dvm.lightning.paper import PaperWallet
from dvm.lightning.paper_node import PaperInvoice, PaperNode
from dvm.models import Usage
from dvm.nip90 import Answers, JobRequest, Work, input_sha256, make_receipt, parse_request, text_sha256
from dvm.nostr import Event, Filter, Keys, RelayPool
from tests.standins.seller import QUICK

Act = Callable[["Provider", JobRequest], Awaitable[None]]
PRICES = {"input": 1_000_000, "output": 2_000_000}


@dataclass(frozen=True)
class Money:
    source: str
    payment_hash: str
    msat: int


@dataclass(frozen=True)
class Place:
    seq: int
    prev: str | None
    before: int
    after: int
    cost: int
    payments: Sequence[Money]


@dataclass
class Provider:
    """One provider on one relay; `requests` are those that it has seen, `said` what it has published."""

    url: str
    keys: Keys
    node: PaperNode
    pool: RelayPool
    act: Act
    requests: list[JobRequest] = field(default_factory=list)
    said: list[Event] = field(default_factory=list)
    deletions: list[Event] = field(default_factory=list)
    uninvited: bool = False
    """Answers also jobs that name others only."""
    _at: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def npub(self) -> str:
        return self.keys.npub

    def now(self) -> int:
        """Rising seconds, as a provider's answers must have them."""
        self._at = max(int(time.time()), self._at + 1)
        return self._at

    def answers(self, job: JobRequest) -> Answers:
        return Answers(self.keys, job)

    async def say(self, event: Event) -> Event:
        self.said.append(event)
        await self.pool.publish(event)
        return event

    def invoice(self, msat: int, *, expiry: int = 3600) -> PaperInvoice:
        """An invoice that the node's other wallets can pay."""
        return self.node.make(self.keys.pubkey, msat, description="a job", expiry=expiry)

    async def quote(self, job: JobRequest, msat: int = 5_000, *, invoice_msat: int | None = None) -> PaperInvoice:
        invoice = self.invoice(msat if invoice_msat is None else invoice_msat)
        await self.say(self.answers(job).payment_required(msat, invoice.bolt11, "pay", self.now()))
        return invoice

    async def paid(self, invoice: PaperInvoice) -> None:
        """Return once the invoice is settled."""
        done = asyncio.Event()

        def hear(_: PaperInvoice) -> None:
            if invoice.settled_at is not None:
                done.set()

        self.node.on_settled.append(hear)
        if invoice.settled_at is None:
            await done.wait()
        self.node.on_settled.remove(hear)

    async def result(self, job: JobRequest, text: str = "the answer") -> Event:
        return await self.say(self.answers(job).result(text, self.now()))

    async def receipt(
        self,
        job: JobRequest,
        result: Event | None,
        invoice: PaperInvoice | None,
        *,
        text: str = "the answer",
        cost: int = 200,
        change: Mapping[str, Any] | None = None,
        place: Mapping[str, Any] | None = None,
        keys: Keys | None = None,
        scheme: Any = "as asked",
    ) -> Event:
        """The honest receipt, but for `change` in its work and `place` in the chain."""
        work: dict[str, Any] = {
            "job": job.id,
            "kind": job.kind,
            "model": "m",
            "version": "1",
            "input_sha256": input_sha256(job),
            "finish": "stop",
            "result": None if result is None else result.id,
            "output_sha256": None if result is None else text_sha256(text),
            "usage": Usage(input=100, output=50),
            "prices": PRICES,
        } | dict(change or {})
        paid = [] if invoice is None else [Money("bolt11", invoice.payment_hash, invoice.msat)]
        where: dict[str, Any] = {"seq": 1, "prev": None, "before": 0, "cost": cost, "payments": paid} | dict(
            place or {}
        )
        where.setdefault("after", where["before"] + sum(p.msat for p in where["payments"]) - where["cost"])
        return await self.say(
            make_receipt(
                keys or self.keys,
                job.customer,
                Place(**where),
                self.now(),
                work=Work(**work),
                scheme=job.scheme if scheme == "as asked" else scheme,
            )
        )

    async def sell(self, job: JobRequest, msat: int = 5_000, text: str = "the answer") -> None:
        """The whole of an honest sale."""
        invoice = await self.quote(job, msat)
        await self.paid(invoice)
        await self.receipt(job, await self.result(job, text), invoice, text=text)

    def hear(self, event: Event, _: str) -> None:
        if event.kind == 5:
            self.deletions.append(event)
            return
        if event.id in {job.id for job in self.requests}:
            return
        named = event.values("p")
        if named and self.keys.pubkey not in named and not self.uninvited:
            return
        job = parse_request(event, self.keys)
        self.requests.append(job)
        task = asyncio.get_running_loop().create_task(self._act(job))
        self._tasks.add(task)

    async def _act(self, job: JobRequest) -> None:
        await self.act(self, job)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.pool.close()
        for outcome in outcomes:
            if isinstance(outcome, Exception):  # the test's own mistake, not to be taken for the lie it meant
                raise outcome


@asynccontextmanager
async def provider(
    url: str, act: Act, *, node: PaperNode | None = None, keys: Keys | None = None
) -> AsyncIterator[Provider]:
    """A provider that does `act` for each request for kind 5050 that it may answer, as long as the block."""
    keys = keys or Keys.generate()
    pool = RelayPool([url], [url], keys=keys, options=QUICK)
    stands = Provider(url, keys, node or PaperNode(), pool, act)
    stands.node.open_wallet(keys.pubkey)
    pool.subscribe(Filter(kinds=[5050, 5]), stands.hear, since=int(time.time()) - 5)
    pool.start()
    await pool.wait_connected(timeout=10)
    try:
        yield stands
    finally:
        await stands.close()


async def wallet(node: PaperNode, msat: int = 10**9, name: str = "customer") -> PaperWallet:
    """A wallet on the provider's node, with money in it."""
    node.open_wallet(name, msat)
    made = PaperWallet(node, name)
    await made.start()
    return made


def foreign_invoice(msat: int, network: str) -> str:
    """An invoice for another network, or (0 msat) one that leaves the amount open."""
    return encode(
        PrivateKey(),
        network=network,
        msat=msat or None,
        payment_hash=bytes(32),
        description="a job",
        created_at=int(time.time()),
        expiry=3600,
    )
