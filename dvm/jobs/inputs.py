"""The inputs of a job, as the model gets them: what stands in the request, and what it names elsewhere.

What a request names is gathered before it is priced, and once more when it runs. What was counted is what is run:
it is kept in memory, within bounds, and its hash in the ledger. Gathered anew (after a restart, say) it must have
that hash, or the job is given back: else a page could grow between its price and its run, at the provider's cost.

Nothing of a request that waits for another job is fetched, and nothing is charged, before that job's result is there.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from dvm.jobs.admission import RefusedError
from dvm.jobs.kinds import Gathered, Kind, Part
from dvm.jobs.sources import Chain, Events, Urls
from dvm.jobs.sources.urls import from_data, too_large, unavailable
from dvm.ledger import ConflictError, JobState, Store
from dvm.models import Blob
from dvm.nip90 import Input, InvalidRequest, JobRequest
from dvm.nostr.fetching import Fetcher
from dvm.nostr.keys import Keys
from dvm.nostr.pool import RelayPool

WAIT_SECONDS = 20 * 60  # from a job's receipt: so long a prior job may take (NIP-90 chaining)
MAX_NAMED = 16  # inputs of one request that are not in it
MAX_GATHERING = 8  # requests for which something is fetched at one time
MAX_QUEUE = 200  # further ones that wait for their turn
MAX_WAITING, MAX_WAITING_EACH = 256, 8  # requests that wait for prior jobs: in all, and of one customer
KEPT_BYTES = 64_000_000  # of inputs between price and run, of all jobs
KEPT_JOBS = 10_000
_T = TypeVar("_T")
_LINK = re.compile(r"https?://[^\s]{1,2040}", re.IGNORECASE).fullmatch


@dataclass(frozen=True, slots=True)
class Sources:
    """What inputs are gathered from: our keys, the ledger, our relays, and HTTP. The fetcher stays its owner's.

    `max_bytes` is for all inputs of one job together; `seconds` for fetching them, prior jobs apart.
    """

    keys: Keys
    store: Store
    relays: RelayPool
    fetcher: Fetcher
    max_bytes: int = 20_000_000
    seconds: float = 30.0
    clock: Callable[[], float] = time.time
    poll: float = 10.0


class Inputs:
    """Finds what a request names. Nothing of it is trusted. Without `sources` there is only text."""

    def __init__(self, sources: Sources | None = None) -> None:
        self._sources = sources
        self._kept: OrderedDict[str, tuple[int, Gathered]] = OrderedDict()  # least recently used first
        self._kept_bytes = 0
        self._turns = asyncio.Semaphore(MAX_GATHERING)
        self._queue = 0
        self._waiting: dict[str, asyncio.Task[Any]] = {}
        self._each: Counter[str] = Counter()
        self._abandoned: set[str] = set()
        self._closing = False
        if sources is not None:
            self._urls = Urls(sources.fetcher)
            self._events = Events(sources.relays)
            self._chain = Chain(
                sources.keys, sources.store, sources.relays, self._events, sources.clock, poll=sources.poll
            )

    async def gather(self, request: JobRequest, kind: Kind) -> Gathered:
        """All inputs, in the order of the request.

        Raises InvalidRequest; RefusedError if too much is under way; ConflictError if the job has meanwhile ended.
        """
        kind.check(request)
        named = sum(each.type != "text" for each in request.inputs)
        if not named:
            return Gathered(tuple(Part(i.data, i.type, i.marker) for i in request.inputs if i.data.strip()))
        if named > MAX_NAMED:
            raise InvalidRequest("invalid-input", f"at most {MAX_NAMED} inputs may be named, beside those of type text")
        if (kept := self._kept.get(request.id)) is not None:
            self._kept.move_to_end(request.id)
            return kept[1]
        sources = self._sources
        if sources is None:
            raise InvalidRequest("input-unavailable", "only inputs of type text are taken here")
        job = await sources.store.job(request.id)
        priced = job is not None and job.state is not JobState.RECEIVED
        if job is not None and job.state not in (JobState.RECEIVED, JobState.PAID, JobState.RUNNING):
            raise ConflictError(f"the job is {job.state}")
        received_at = None if priced or job is None else job.received_at
        gathered = await self._gather(sources, request, kind, received_at, priced=priced)
        await self._compare(sources.store, request.id, gathered, priced=priced)
        self._keep(request.id, gathered)
        return gathered

    async def abandon(self, job_id: str) -> None:
        """A job may have been cancelled: if it has ended, it waits for nothing any more."""
        task = self._waiting.get(job_id)
        if task is None or self._sources is None:
            return
        job = await self._sources.store.job(job_id)
        if (job is None or job.state is not JobState.RECEIVED) and self._waiting.get(job_id) is task:
            self._abandoned.add(job_id)
            task.cancel()

    def close(self) -> None:
        """Wait for no prior job any more: what waits for one is unpaid, and stays as received for the next start."""
        self._closing = True
        for task in self._waiting.values():
            task.cancel()
        if self._sources is not None:
            self._chain.close()

    @property
    def waiting(self) -> int:
        """How many jobs wait for prior ones."""
        return len(self._waiting)

    # Gathering

    async def _gather(
        self, sources: Sources, request: JobRequest, kind: Kind, received_at: int | None, *, priced: bool
    ) -> Gathered:
        named = [each for each in request.inputs if each.type == "job"]
        results: dict[Input, str] = {}
        if named:  # first, so that nothing else is held while it waits
            with nullcontext() if priced else self._place(request):
                found = await self._results(sources, request, named, received_at, priced=priced)
                results = dict(zip(named, found, strict=True))
        async with self._turn(priced=priced):
            try:
                async with asyncio.timeout(sources.seconds):
                    parts = await self._found(sources, request, kind, results)
            except TimeoutError:
                raise unavailable() from None
        return Gathered(tuple(parts))

    async def _found(self, sources: Sources, request: JobRequest, kind: Kind, results: dict[Input, str]) -> list[Part]:
        parts: list[Part] = []
        left = sources.max_bytes
        for each in request.inputs:
            if each.type == "text" and not each.data.strip():
                continue
            content: str | Blob = each.data
            if each.type == "url":
                content = await self._urls.fetch(each.data, kind, left)
            elif each.type == "event":
                content = await self._events.text(each.data, (each.relay,) if each.relay else (), (request.customer,))
            elif each.type == "job":
                content = await self._of_result(results[each], kind, left)
            left -= _size(content)
            if left < 0:
                raise too_large(sources.max_bytes)
            parts.append(Part(content, each.type, each.marker, each.data if each.type != "text" else ""))
        return parts

    async def _of_result(self, content: str, kind: Kind, left: int) -> str | Blob:
        """A result that is a file, where the kind takes files: by its address, or inline."""
        text = content.strip()
        media = any(not each.startswith("text/") for each in kind.files)
        if media and _LINK(text):
            return await self._urls.fetch(text, kind, left)
        return (from_data(text, kind) if media else None) or content

    @asynccontextmanager
    async def _turn(self, *, priced: bool) -> AsyncIterator[None]:
        if self._queue >= MAX_QUEUE and not priced:
            raise RefusedError("busy", "too many inputs are fetched at the moment: try again later")
        self._queue += 1
        try:
            async with self._turns:
                yield
        finally:
            self._queue -= 1

    # Prior jobs

    async def _results(
        self, sources: Sources, request: JobRequest, named: Sequence[Input], received_at: int | None, *, priced: bool
    ) -> list[str]:
        """The results of prior jobs, in order; the first that fails ends it. Raises like `gather`."""
        if priced:  # they were there when the price was made
            until = sources.clock() + sources.seconds
        else:
            until = (sources.clock() if received_at is None else received_at) + WAIT_SECONDS
        try:
            return await _all(*(self._chain.content(request, each, until) for each in named))
        except asyncio.CancelledError:
            if request.id not in self._abandoned:
                raise
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            raise ConflictError("the job was cancelled while it waited") from None

    @contextmanager
    def _place(self, request: JobRequest) -> Iterator[None]:
        """A place among those that wait, as long as the block lasts. Raises RefusedError."""
        task = asyncio.current_task()
        if self._closing or task is None:
            raise asyncio.CancelledError
        if len(self._waiting) >= MAX_WAITING or self._each[request.customer] >= MAX_WAITING_EACH:
            raise RefusedError("busy", "too many jobs wait for prior ones at the moment: try again later")
        self._waiting[request.id] = task
        self._each[request.customer] += 1
        try:
            yield
        finally:
            del self._waiting[request.id]
            self._abandoned.discard(request.id)
            self._each[request.customer] -= 1
            if not self._each[request.customer]:
                del self._each[request.customer]

    # Between price and run

    async def _compare(self, store: Store, job_id: str, gathered: Gathered, *, priced: bool) -> None:
        """Remember what is counted; what was counted before must be the same. Raises InvalidRequest."""
        key, found = f"inputs {job_id}", _hash(gathered)
        if not priced:
            await store.remember(key, found)
        elif await store.recall(key) != found:
            raise InvalidRequest("input-changed", "what the request names has changed since its price was made")

    def _keep(self, job_id: str, gathered: Gathered) -> None:
        size = sum(_size(part.content) for part in gathered.parts)
        if size > KEPT_BYTES:
            return
        self._kept[job_id] = size, gathered
        self._kept_bytes += size
        while self._kept_bytes > KEPT_BYTES or len(self._kept) > KEPT_JOBS:
            _, (gone, _) = self._kept.popitem(last=False)
            self._kept_bytes -= gone


async def _all(*work: Coroutine[Any, Any, _T]) -> list[_T]:
    """What all of it returns; the first that raises ends the others."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _size(content: str | Blob) -> int:
    return len(content.data) if isinstance(content, Blob) else len(content.encode("utf-8", "replace"))


def _hash(gathered: Gathered) -> str:
    """SHA-256 over everything that a model could be told."""
    hashed = hashlib.sha256()
    for part in gathered.parts:
        blob = part.content if isinstance(part.content, Blob) else Blob("", part.content.encode("utf-8", "replace"))
        hashed.update(f"{part.type} {blob.mime} {len(blob.data)}\n".encode())
        hashed.update(blob.data)
    return hashed.hexdigest()
