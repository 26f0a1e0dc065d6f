"""Inputs of type `job`: the result of a prior job, ours or another provider's, waited for if need be (NIP-90).

Anyone can publish an event that says that it is a job's result. Believed is who the prior request named; for a
prior request that named nobody, who this request names, ourselves among them. Whoever names the result itself, by
its id, has chosen its author.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from itertools import count
from typing import Any

from dvm.jobs.sources.events import Events
from dvm.jobs.sources.hearing import Hearing
from dvm.ledger import Job, JobState, Store
from dvm.nip90 import (
    FEEDBACK,
    TO_RESULT,
    Feedback,
    Input,
    InvalidAnswer,
    InvalidRequest,
    JobRequest,
    Result,
    is_answer_to,
    is_encrypted,
    parse_answer,
)
from dvm.nip90.wire import is_hex64
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.keys import Keys
from dvm.nostr.pool import RelayPool

MAX_DEPTH = 10
MAX_LEVEL = 16  # prior jobs that are looked up at one depth
OUR_TURN = 6  # at every sixth look, our own relays are asked as well
POLL_SECONDS = 10.0  # between two looks at relays that only the request names, and into our own ledger
_ENDED = frozenset({JobState.FAILED, JobState.CANCELLED, JobState.REJECTED, JobState.EXPIRED})

Judge = Callable[[Event], Event | None]
"""The event, if it is what is waited for. Raises InvalidRequest where waiting has no sense any more."""
Hear = Callable[[Event], None]


class Chain:
    """Finds the results of prior jobs. `clock` gives unix seconds; `poll` is in seconds."""

    def __init__(
        self,
        keys: Keys,
        store: Store,
        relays: RelayPool,
        events: Events,
        clock: Callable[[], float],
        poll: float = POLL_SECONDS,
    ) -> None:
        self._keys, self._store, self._relays, self._events = keys, store, relays, events
        self._clock, self._poll = clock, poll
        self._hearing = Hearing(relays)

    async def content(self, request: JobRequest, each: Input, until: float) -> str:
        """The content of the prior job's result, waited for until then. Raises InvalidRequest."""
        if each.data == request.id:
            raise _cycle()
        hints = (each.relay,) if each.relay else ()
        named = await self._named(each.data, hints, until)
        if not (5000 <= named.kind <= 5999 or 6000 <= named.kind <= 6999):
            raise InvalidRequest("input-type", "an input of type job names neither a job request nor a result")
        await self._check_depth(request, named, hints)
        result = named if named.kind >= 6000 else await self._result(request, named, hints, until)
        return self._read(request, result)

    def close(self) -> None:
        """Hear nothing more."""
        self._hearing.close()

    # Finding

    async def _named(self, event_id: str, hints: tuple[str, ...], until: float) -> Event:
        """The event that the input names; a request may come later than the one that names it."""

        looks = count()

        async def look() -> Event | None:
            # Our relays tell by themselves; one that does not take a question of that size is asked now and then.
            ours = next(looks) % OUR_TURN == 0
            return await self._own(event_id) or await self._events.find(event_id, hints, ours=ours)

        return await self._wait(lambda hear: self._hearing.event(event_id, hear), look, lambda event: event, until)

    async def _own(self, event_id: str) -> Event | None:
        """A request that we were asked, or a result of ours. Of what was refused only the id is kept: another may
        have taken it, and the relays have it."""
        if (job := await self._store.job(event_id)) is not None:
            return Event.from_json(job.request) if job.request else None
        if (job_id := await self._store.job_of_event(event_id)) is not None:
            for answer in await self._store.answers(job_id):
                if answer.id == event_id and answer.role == "result":
                    return Event.from_json(answer.payload)
        return None

    async def _result(self, request: JobRequest, prior: Event, hints: tuple[str, ...], until: float) -> Event:
        named = frozenset(p for p in prior.values("p") if is_hex64(p))
        believed = named or frozenset({*request.providers, self._keys.pubkey})
        failed: set[str] = set()

        def judge(event: Event) -> Event | None:
            try:
                answer = parse_answer(event, None)
            except InvalidAnswer:
                return None
            if answer.provider not in believed or not is_answer_to(answer, prior):
                return None
            if isinstance(answer, Result):
                return event
            if isinstance(answer, Feedback) and answer.status == "error":
                failed.add(answer.provider)
                if named and failed >= named:  # a job that was offered to all may yet be taken by another
                    raise _failed()
            return None

        passing = (*hints, *_relays(prior))
        looks, writes = count(), tuple[str, ...]()

        async def look() -> Event | None:
            nonlocal writes
            if (job := await self._store.job(prior.id)) is not None and (own := await self._delivered(job, named)):
                return own
            if named - {self._keys.pubkey} and next(looks) % OUR_TURN == 0:
                writes = await self._events.write_relays(named)
            where = dict.fromkeys((*passing, *writes))
            if not where:
                return None
            found = await self._relays.query(_answers(prior), relays=list(where), timeout=5.0)
            return next((event for event in found if judge(event)), None)

        return await self._wait(lambda hear: self._hearing.answers(prior, hear), look, judge, until)

    async def _delivered(self, job: Job, named: frozenset[str]) -> Event | None:
        """Our own result. Raises InvalidRequest if there will be none, from anybody."""
        if job.state is JobState.DELIVERED:
            for answer in await self._store.answers(job.id):
                if answer.role == "result":
                    return Event.from_json(answer.payload)
        if named == {self._keys.pubkey} and (job.state in _ENDED or job.state is JobState.DELIVERED):
            raise _failed()
        return None

    async def _wait(
        self,
        listen: Callable[[Hear], AbstractContextManager[None]],
        look: Callable[[], Awaitable[Event | None]],
        judge: Judge,
        until: float,
    ) -> Event:
        """What `judge` takes of what is heard, or `look` finds, now and then. Raises InvalidRequest."""
        heard: asyncio.Future[Event] = asyncio.get_running_loop().create_future()

        def hear(event: Event) -> None:
            if heard.done():
                return
            try:
                if judge(event) is not None:
                    heard.set_result(event)
            except InvalidRequest as error:
                heard.set_exception(error)

        with listen(hear):
            looking: asyncio.Future[Event | None] = asyncio.ensure_future(look())
            try:
                while True:
                    either: tuple[asyncio.Future[Any], ...] = (heard, looking)
                    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                    if heard.done():
                        return heard.result()
                    if (found := looking.result()) is not None:
                        return found
                    left = until - self._clock()
                    if left <= 0:
                        raise InvalidRequest("input-timeout", "a prior job that the request names has no result")
                    await asyncio.wait({heard}, timeout=min(self._poll, left))
                    if heard.done():
                        return heard.result()
                    looking = asyncio.ensure_future(look())
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)
                if heard.done():
                    heard.exception()  # whoever has both hears of it once
                heard.cancel()

    # Judging

    async def _check_depth(self, request: JobRequest, first: Event, hints: tuple[str, ...]) -> None:
        """Follow what prior jobs themselves wait for, as far as it is public. Raises InvalidRequest."""
        level, seen = [first], {first.id}
        for _ in range(MAX_DEPTH):
            before = {event_id for event in level for event_id in await self._waits_for(event)}
            if request.id in before:
                raise _cycle()
            following = sorted(before - seen)[:MAX_LEVEL]
            seen |= before
            level = await self._look_up(following, hints)
            if not level:
                return
        raise InvalidRequest("input-depth", f"a chain may have at most {MAX_DEPTH} prior jobs")

    async def _waits_for(self, event: Event) -> set[str]:
        """What it names, but for what it continues: a conversation is as long as it likes, and its links are ours."""
        names = set(_prior(event))
        if names and (continued := await self._store.prior(event.id)) is not None:
            names -= {continued.id, continued.result}
        return names

    async def _look_up(self, event_ids: list[str], hints: tuple[str, ...]) -> list[Event]:
        own = {event_id: await self._own(event_id) for event_id in event_ids}
        others = await self._events.find_all([event_id for event_id, event in own.items() if event is None], hints)
        return [*(event for event in own.values() if event is not None), *others]

    def _read(self, request: JobRequest, result: Event) -> str:
        """The content. An encrypted one is read only for the customer whom it was made for, by us, and who asks
        in secret again: our key opens what others must not see. Raises InvalidRequest."""
        mine = result.pubkey == self._keys.pubkey and result.tag("p") == request.customer
        if is_encrypted(result) and not (mine and request.scheme is not None):
            raise InvalidRequest("input-unreadable", "the result of a prior job is encrypted")
        try:
            answer = parse_answer(result, self._keys if mine else None)
        except InvalidAnswer:
            raise InvalidRequest("input-unreadable", "the result of a prior job cannot be read") from None
        content = answer.content
        if not content or not content.strip():
            raise _failed()
        return content


def _answers(prior: Event) -> Filter:
    return Filter(kinds=[FEEDBACK, prior.kind + TO_RESULT], tags={"e": [prior.id]})


def _prior(event: Event) -> list[str]:
    """What that job waits for, or the job that this is the result of."""
    if 6000 <= event.kind <= 6999:
        return [value for value in event.values("e")[:1] if is_hex64(value)]
    return [tag[1] for tag in event.tags if len(tag) > 2 and tag[0] == "i" and tag[2] == "job" and is_hex64(tag[1])]


def _relays(prior: Event) -> tuple[str, ...]:
    """Where its customer wants the answers."""
    return tuple(url for tag in prior.tags if tag and tag[0] == "relays" for url in tag[1:5])[:4]


def _cycle() -> InvalidRequest:
    return InvalidRequest("input-cycle", "the job waits for itself")


def _failed() -> InvalidRequest:
    return InvalidRequest("input-failed", "a prior job that the request names has ended without a result")
