"""The inputs of a job, as the model gets them: what stands in the request, and what it names elsewhere.

What a request names is gathered before it is priced, and once more when it runs. What was counted is what is run:
it is kept in memory, within bounds, and its hash in the ledger. Gathered anew (after a restart, say) it must have
that hash, or the job is given back: else a page could grow between its price and its run, at the provider's cost.

Nothing of a request that waits for another job is fetched, and nothing is charged, before that job's result is there.

What a conversation's earlier jobs named is gathered again within the same bounds, after what the job names itself. What
is gone by then is replaced by a remark, since no conversation ends with an old page; which ones were, is remembered
with the hash, so that a job runs with what it was priced with.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from dvm.jobs.admission import RefusedError
from dvm.jobs.kinds import Gathered, Kind, Part
from dvm.jobs.sources import Chain, Conversations, Events, Urls
from dvm.jobs.sources.conversation import Earlier, Session, continues, history_of, named_by, session_of
from dvm.jobs.sources.turns import Turns
from dvm.jobs.sources.urls import from_data, too_large, unavailable
from dvm.ledger import ConflictError, GatheredInputs, Job, JobState, Store
from dvm.models import Blob
from dvm.nip90 import Input, InvalidRequest, JobRequest
from dvm.nostr.fetching import Fetcher
from dvm.nostr.keys import Keys
from dvm.nostr.pool import RelayPool

WAIT_SECONDS = 20 * 60  # from a job's receipt: so long a prior job may take (NIP-90 chaining)
MAX_NAMED = 16  # inputs of one request that are not in it
MAX_WAITING, MAX_WAITING_EACH = 256, 8  # requests that wait for prior jobs: in all, and of one customer
EARLIER_SECONDS = 5.0  # for each thing that an earlier job of a conversation named
KEPT_BYTES = 64_000_000  # of inputs between price and run, of all jobs
KEPT_JOBS = 10_000
# What may pass, so that a job that is paid for is tried again: whatever else is wrong stays wrong.
MAY_PASS = frozenset({"input-unavailable", "input-timeout"})
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


@dataclass(frozen=True, slots=True)
class _Found:
    """What was gathered, the job that is continued, and which of the things that earlier jobs named are `gone`: by
    their number, the oldest first."""

    gathered: Gathered
    prior: Job | None
    gone: frozenset[int]


class Inputs:
    """Finds what a request names. Nothing of it is trusted. Without `sources` there is only text."""

    def __init__(self, sources: Sources | None = None) -> None:
        self._sources = sources
        self._kept: OrderedDict[str, tuple[int, Gathered]] = OrderedDict()  # least recently used first
        self._kept_bytes = 0
        self._turns = Turns()
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
            self._conversations = Conversations(sources.keys, sources.store)

    async def gather(self, request: JobRequest, kind: Kind) -> Gathered:
        """See `gathering`; nothing is kept."""
        async with self.gathering(request, kind) as gathered:
            return gathered

    @asynccontextmanager
    async def gathering(self, request: JobRequest, kind: Kind) -> AsyncIterator[Gathered]:
        """All inputs, in the order of the request, and what was said before in the conversation that it continues.

        Raises InvalidRequest; RefusedError if too much is under way; ConflictError if the job has meanwhile ended.
        The turn at fetching is kept as long as the block lasts: what is fetched faster than its tokens are counted
        would else pile up in memory.
        """
        async with AsyncExitStack() as turn:
            yield await self._gathered(request, kind, turn)

    async def _gathered(self, request: JobRequest, kind: Kind, turn: AsyncExitStack) -> Gathered:
        kind.check(request)
        session = session_of(request) if kind.converses else None
        named = sum(each.type != "text" for each in request.inputs)
        if not named and session is None:
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
        if job is not None and job.state not in (JobState.RECEIVED, JobState.PAID, JobState.RUNNING):
            raise ConflictError(f"the job is {job.state}")
        if job is None or job.state is JobState.RECEIVED:
            received_at = None if job is None else job.received_at
            gathered = await self._first(sources, request, kind, session, received_at, turn)
        else:
            gathered = await self._again(sources, request, kind, turn)
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

    async def _first(
        self,
        sources: Sources,
        request: JobRequest,
        kind: Kind,
        session: Session | None,
        received_at: int | None,
        turn: AsyncExitStack,
    ) -> Gathered:
        """Before it is priced. What is counted now is remembered."""
        prior, results = await self._priors(sources, request, kind, session, received_at)
        found = await self._gather(sources, request, kind, prior, results, turn)
        name = session.name if session is not None else None
        key = None if name is None else self._conversations.key(request, name)
        # In a thread: twenty megabytes take long enough for everybody else to notice.
        digest = await asyncio.to_thread(_hash, found.gathered)
        told = " ".join([digest, *map(str, sorted(found.gone))])
        await sources.store.gathered(request.id, GatheredInputs(told, prior.id if prior else None, key))
        return found.gathered

    async def _again(self, sources: Sources, request: JobRequest, kind: Kind, turn: AsyncExitStack) -> Gathered:
        """To run: it must be what was counted before. Raises InvalidRequest."""
        prior = await sources.store.prior(request.id)
        jobs = [each for each in request.inputs if each.type == "job" and not continues(each, prior)]
        # They were there when the price was made.
        found = await self._results(request, jobs, sources.clock() + sources.seconds)
        digest, *gone = (await sources.store.gathered_digest(request.id) or "").split(" ")
        results = dict(zip(jobs, found, strict=True))
        again = await self._gather(sources, request, kind, prior, results, turn, frozenset(map(int, gone)))
        if await asyncio.to_thread(_hash, again.gathered) != digest:
            raise InvalidRequest("input-changed", "what the request names has changed since its price was made")
        return again.gathered

    async def _gather(
        self,
        sources: Sources,
        request: JobRequest,
        kind: Kind,
        prior: Job | None,
        results: dict[Input, str],
        turn: AsyncExitStack,
        gone: frozenset[int] | None = None,
    ) -> _Found:
        """`gone`: of a job that is priced, what was when it was."""
        turns = await self._conversations.earlier(request, prior) if prior is not None else []
        inputs = [each for each in request.inputs if not continues(each, prior)]
        clock = asyncio.get_running_loop().time
        # Words alone wait behind nobody's slow pages.
        if named_by(turns) or any(each.type != "text" for each in inputs):
            await turn.enter_async_context(self._turns.turn(request.customer, paid=gone is not None))
        until = clock() + sources.seconds
        try:
            async with asyncio.timeout_at(until):
                parts, left = await self._parts(request, kind, inputs, results, sources.max_bytes)
                named = MAX_NAMED - sum(part.type != "text" for part in parts)
                if gone is not None:
                    contents = await self._earlier(turns, kind, left, gone)
            if gone is None:
                contents = await self._earlier_if_there(turns, kind, left, named, until)
        except TimeoutError:
            raise unavailable() from None
        history, gone = history_of(turns, kind, contents)
        return _Found(Gathered(tuple(parts), history), prior, gone)

    async def _parts(
        self, request: JobRequest, kind: Kind, inputs: Sequence[Input], results: dict[Input, str], left: int
    ) -> tuple[list[Part], int]:
        """What was found, and how many of the `left` bytes are left then."""
        parts: list[Part] = []
        for each in inputs:
            if each.type == "text" and not each.data.strip():
                continue
            content = await self._content(request, each, kind, left, results)
            left -= _size(content)
            if left < 0:
                raise too_large(left + _size(content))
            parts.append(Part(content, each.type, each.marker, each.data if each.type != "text" else ""))
        return parts, left

    async def _content(
        self, request: JobRequest, each: Input, kind: Kind, left: int, results: dict[Input, str]
    ) -> str | Blob:
        if each.type == "url":
            return await self._urls.fetch(each.data, kind, left)
        if each.type == "event":
            return await self._events.text(each.data, (each.relay,) if each.relay else (), (request.customer,))
        if each.type == "job":
            return await self._of_result(results[each], kind, left)
        return each.data

    async def _of_result(self, content: str, kind: Kind, left: int) -> str | Blob:
        """A result that is a file, where the kind takes files: by its address, or inline."""
        text = content.strip()
        media = any(not each.startswith("text/") for each in kind.files)
        if media and _LINK(text):
            return await self._urls.fetch(text, kind, left)
        return (from_data(text, kind) if media else None) or content

    # Conversations

    async def _earlier(
        self, turns: Sequence[Earlier], kind: Kind, left: int, gone: Collection[int]
    ) -> dict[int, str | Blob]:
        """What earlier jobs named, by its number, but for what is gone. Raises InvalidRequest."""
        contents: dict[int, str | Blob] = {}
        for number, (turn, each) in reversed(list(enumerate(named_by(turns)))):
            if number not in gone:
                contents[number] = content = await self._later(turn, each, kind, left)
                left -= _size(content)
        return contents

    async def _earlier_if_there(
        self, turns: Sequence[Earlier], kind: Kind, left: int, most: int, until: float
    ) -> dict[int, str | Blob]:
        """The same, the newest first, as far as it is still there and within the bounds: `left` bytes, `most` things,
        and `until` on the loop's clock."""
        contents: dict[int, str | Blob] = {}
        clock = asyncio.get_running_loop().time
        for number, (turn, each) in list(reversed(list(enumerate(named_by(turns)))))[:most]:
            try:
                async with asyncio.timeout_at(min(until, clock() + EARLIER_SECONDS)):
                    content = await self._later(turn, each, kind, left)
            except (InvalidRequest, TimeoutError):
                continue
            if _size(content) <= left:
                left -= _size(content)
                contents[number] = content
        return contents

    async def _later(self, turn: Earlier, each: Input, kind: Kind, left: int) -> str | Blob:
        results: dict[Input, str] = {}
        if each.type == "job":  # it was there: nobody waits for it once more
            results[each] = await self._chain.content(turn.request, each, 0)
        return await self._content(turn.request, each, kind, left, results)

    # Prior jobs

    async def _priors(
        self, sources: Sources, request: JobRequest, kind: Kind, session: Session | None, received_at: int | None
    ) -> tuple[Job | None, dict[Input, str]]:
        """The job that the request continues, and the results of the others that it names, waited for if need be:
        first, so that nothing else is held meanwhile. Raises like `gather`."""
        found = await self._conversations.named(request, session) if kind.converses else {}
        jobs = [each for each in request.inputs if each.type == "job"]
        if session is not None and session.prior is not None:
            jobs.append(session.prior)
        waited = [each for each in jobs if each not in found or found[each].state is not JobState.DELIVERED]
        results: dict[Input, str] = {}
        if waited:
            until = (sources.clock() if received_at is None else received_at) + WAIT_SECONDS
            with self._place(request):
                results = dict(zip(waited, await self._results(request, waited, until), strict=True))
            if kind.converses:
                found = await self._conversations.named(request, session)
        prior = await self._conversations.choose(request, session, found) if kind.converses else None
        return prior, results

    async def _results(self, request: JobRequest, named: Sequence[Input], until: float) -> list[str]:
        """The results of prior jobs, in order; the first that fails ends it. Raises like `gather`."""
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

    def _keep(self, job_id: str, gathered: Gathered) -> None:
        size = sum(map(_size, (*(part.content for part in gathered.parts), *_said(gathered))))
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


def _said(gathered: Gathered) -> Iterator[str | Blob]:
    return (part for turn in gathered.history for part in turn.parts)


def _hash(gathered: Gathered) -> str:
    """SHA-256 over everything that a model could be told."""
    hashed = hashlib.sha256()
    told: list[tuple[str, str | Blob]] = [(part.type, part.content) for part in gathered.parts]
    told += [(turn.role, part) for turn in gathered.history for part in turn.parts]
    for what, content in told:
        blob = content if isinstance(content, Blob) else Blob("", content.encode("utf-8", "replace"))
        hashed.update(f"{what} {blob.mime} {len(blob.data)}\n".encode())
        hashed.update(blob.data)
    return hashed.hexdigest()
