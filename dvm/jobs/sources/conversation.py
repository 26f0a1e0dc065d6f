"""Conversations: a job that continues earlier ones of the same customer, and what was said in them.

What was asked and answered before is taken from our own ledger, never from what a request says of it; a request only
names where to go on. Whoever names somebody else's job continues nothing, and is told exactly what is told of a job
that never was.
"""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dvm.jobs.kinds import Gathered, Kind, Part
from dvm.ledger import Job, JobState, Store
from dvm.models import Blob, Turn
from dvm.nip90 import Input, InvalidRequest, JobRequest, is_encrypted, parse_answer, parse_request
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys

MAX_TURNS = 64  # earlier jobs of one conversation
MAX_CHARS = 8_000_000  # of all its requests and results, as they were signed
MAX_READING = 4  # conversations that are read at one time: each of them is in memory as a whole
MAX_NAME = 64  # characters
ENDED = frozenset({JobState.FAILED, JobState.CANCELLED, JobState.REJECTED, JobState.EXPIRED})
GONE = "[What stood here was named in the request, and cannot be had any more.]"
_ID = re.compile("[0-9a-fA-F]{64}").fullmatch
_UNKNOWN = "session: no earlier job or result of yours has this id"


@dataclass(frozen=True, slots=True)
class Session:
    """What the param `session` names: an earlier job or result, as an input does, or a `name` of one's own."""

    prior: Input | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Earlier:
    """One earlier job: what was asked, without what it continued itself, and what was answered."""

    request: JobRequest
    inputs: tuple[Input, ...]
    answer: str


def session_of(request: JobRequest) -> Session | None:
    """The param `session`; None if there is none. Raises InvalidRequest."""
    given = set(request.param_values("session"))
    if not given:
        return None
    if len(given) > 1 or len(only := given.pop()) != 1:
        raise InvalidRequest("invalid-param", "session: exactly one value expected")
    # The same letters, however a keyboard composes them, are the same name.
    value = unicodedata.normalize("NFC", only[0])
    if _ID(value):
        return Session(prior=Input(value.lower(), "job"))
    if not 1 <= len(value) <= MAX_NAME or not value.isprintable() or value.isspace():
        raise InvalidRequest("invalid-param", f"session: an id, or a name of 1 to {MAX_NAME} printable characters")
    return Session(name=value)


def continues(each: Input, prior: Job | None) -> bool:
    """Whether it is by this input that `prior` is continued: an id without a marker, of the job or of its result."""
    if prior is None or each.marker is not None:
        return False
    return each.data == prior.result if each.type == "event" else each.type == "job" and _is(each.data, prior)


class Conversations:
    """Finds what a request continues, and reads what was said. The keys are ours."""

    def __init__(self, keys: Keys, store: Store) -> None:
        self._keys, self._store = keys, store
        self._places = asyncio.Semaphore(MAX_READING)

    def key(self, request: JobRequest, name: str) -> str:
        """What stands for a name in the ledger. The names of two customers, or for two kinds, never meet; and none
        is told by the database, since it may have come encrypted."""
        return self._keys.derive(f"session {request.kind} {request.customer} {name}").hex()

    async def named(self, request: JobRequest, session: Session | None) -> dict[Input, Job]:
        """The jobs that it may continue, each by the input, or the session's id, that names it. Raises
        InvalidRequest for a session that names no job of this customer, or one without a result."""
        found: dict[Input, Job] = {}
        for each in request.inputs:
            if each.type in ("job", "event") and each.marker is None:
                job = await self._own(request, each.data)
                if job is not None and (each.type == "job" or job.result == each.data):
                    found[each] = job
        if session is not None and session.prior is not None:
            job = await self._own(request, session.prior.data)
            if job is None:
                raise InvalidRequest("invalid-param", _UNKNOWN)
            if job.state in ENDED:
                raise InvalidRequest("input-failed", "the job that session names has ended without a result")
            found[session.prior] = job
        return found

    async def choose(self, request: JobRequest, session: Session | None, found: Mapping[Input, Job]) -> Job | None:
        """The one delivered job that is continued. Raises InvalidRequest if there are several."""
        delivered = {job.id: job for job in found.values() if job.state is JobState.DELIVERED}
        if session is not None:
            if session.prior is not None and found[session.prior].id not in delivered:
                raise InvalidRequest("input-failed", "the job that session names has no result of ours")
            if session.name is not None and (job := await self._store.newest_of(self.key(request, session.name))):
                delivered[job.id] = job
        if len(delivered) > 1:
            raise InvalidRequest(
                "invalid-input",
                "it names several earlier answers to you, and one conversation can be continued: give a marker to "
                "those that are to be worked on",
            )
        return next(iter(delivered.values()), None)

    async def earlier(self, request: JobRequest, prior: Job) -> list[Earlier]:
        """All that was asked and answered up to `prior`, oldest first. Raises InvalidRequest."""
        async with self._places:
            rows = await self._store.turns(prior.id, MAX_TURNS + 1)
            if len(rows) > MAX_TURNS:
                raise InvalidRequest("prompt-too-long", f"a conversation has at most {MAX_TURNS} earlier jobs")
            if sum(len(job.request) + len(result) for job, result in rows) > MAX_CHARS:
                raise InvalidRequest("prompt-too-long", f"a conversation has at most {MAX_CHARS} characters")
            turns = await asyncio.to_thread(self._read, rows)
        # What was asked in secret would stand in an answer that all can read.
        if request.scheme is None and any(turn.request.scheme is not None for turn in turns):
            raise InvalidRequest("input-unreadable", "the conversation is encrypted, and so must be what continues it")
        return turns

    async def _own(self, request: JobRequest, event_id: str) -> Job | None:
        """The job of this customer and kind of that id, or whose result has it."""
        job = await self._store.job(event_id)
        if job is None and (job_id := await self._store.job_of_event(event_id)) is not None:
            job = await self._store.job(job_id)
        if job is None or (job.customer, job.kind) != (request.customer, request.kind) or job.id == request.id:
            return None
        return job if _is(event_id, job) else None

    def _read(self, rows: Sequence[tuple[Job, str]]) -> list[Earlier]:
        """Raises InvalidRequest."""
        turns: list[Earlier] = []
        before: Job | None = None
        for job, result in rows:
            try:
                request = parse_request(Event.from_json(job.request), self._keys)
                event = Event.from_json(result)
                answer = parse_answer(event, self._keys if is_encrypted(event) else None).content
            except ValueError:  # for a key that we had, or as an older version wrote it
                raise _unreadable() from None
            inputs = tuple(each for each in request.inputs if each.data.strip() and not continues(each, before))
            turns.append(Earlier(request, inputs, answer or ""))
            before = job
        return turns


def named_by(turns: Sequence[Earlier]) -> list[tuple[Earlier, Input]]:
    """What earlier jobs named, beside text, in its order: by this it is numbered, from 0."""
    return [(turn, each) for turn in turns for each in turn.inputs if each.type != "text"]


def history_of(
    turns: Sequence[Earlier], kind: Kind, contents: Mapping[int, str | Blob]
) -> tuple[tuple[Turn, ...], frozenset[int]]:
    """What was asked and answered, with the `contents` of what was named, by number; and which numbers are gone, for
    each of which stands a remark. Raises InvalidRequest."""
    history: list[Turn] = []
    gone: set[int] = set()
    number = 0
    for turn in turns:
        parts: list[Part] = []
        for each in turn.inputs:
            if each.type == "text":
                parts.append(Part(each.data, "text", each.marker))
                continue
            if number not in contents:
                gone.add(number)
            parts.append(Part(contents.get(number, GONE), each.type, each.marker, each.data))
            number += 1
        try:
            # The operator's instruction stands once, in front of it all.
            asked = kind.read(turn.request, Gathered(tuple(parts)), None).prompt.turns
        except InvalidRequest:  # the kind reads otherwise than it did
            raise _unreadable() from None
        history += [*asked, Turn("model", (turn.answer,))]
    return tuple(history), frozenset(gone)


def _unreadable() -> InvalidRequest:
    return InvalidRequest("input-unreadable", "an earlier part of the conversation cannot be read any more")


def _is(event_id: str, job: Job) -> bool:
    return event_id in (job.id, job.result)
