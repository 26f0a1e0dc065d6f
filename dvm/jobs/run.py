"""One run of a model for one job: the text or the files as they come, what it has used, and where it must stop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

from dvm.jobs.kinds import Ask
from dvm.ledger import Job, Metered
from dvm.models import (
    Blob,
    Chunk,
    Limits,
    ModelError,
    Output,
    Prompt,
    Usage,
    approximate_text,
    approximate_tokens,
    estimate_tokens,
)
from dvm.models.base import ErrorCode
from dvm.models.router import Router
from dvm.nip90 import Answers, Finish, JobRequest, next_second
from dvm.pricing import FREE, PerRequest, PerToken, Price, cost, price_from_json

# A partial repeats the whole text, so each is at least this much longer than the last: all of them together
# stay within four times the final text.
GROWTH = 4 / 3
# Of what one job makes: it is in memory until it is uploaded. Speech of eleven minutes has as much.
MAX_FILES = 8
MAX_FILE_BYTES = 32 << 20
# With these a request is turned away before it is read: providers charge nothing for it.
_TURNED_AWAY: frozenset[ErrorCode] = frozenset(
    {"bad_request", "unauthorized", "not_found", "rate_limited", "unavailable"}
)


@dataclass(slots=True)
class Run:
    """A job while its model runs. `names` are the models that may answer, in order, `asks` tells what each is asked,
    `by` is the one that was asked last, and `error` how it has failed. `stamp` is the newest `created_at` used for
    it; `promised`: a hold invoice pays for it, so nothing of the answer is seen before that is settled. `ask` is what
    `by` was asked. Of a job that `makes` images or speech `files` is what there is so far, and no text; `oversized`:
    it was more than is ever delivered. `lost` is what the models have used that failed before `by` was asked."""

    job: Job
    request: JobRequest
    router: Router
    names: Sequence[str]
    asks: Callable[[str], Ask]
    price: Price
    answers: Answers
    stamp: int
    text: str = ""
    makes: Output = "text"
    ask: Ask | None = None
    files: list[Blob] = field(default_factory=list)
    oversized: bool = False
    usage: Usage | None = None
    lost: list[Metered] = field(default_factory=list)
    finish: Finish | None = None
    by: str = ""
    error: ModelError | None = None
    version: str = ""
    stopping: Literal["", "cancelled", "shutdown", "deserted"] = ""
    promised: bool = False
    task: asyncio.Task[None] | None = None
    _said: int = field(default=0, init=False)
    _said_at: float = field(default=0.0, init=False)

    def stamped(self, now: int) -> int:
        """The `created_at` for the next event of this job: it rises strictly."""
        self.stamp = next_second(now, self.stamp)
        return self.stamp

    def stop(self, why: Literal["cancelled", "shutdown", "deserted"]) -> None:
        """Stop the model. How the job ends is decided where it runs."""
        if not self.stopping:
            self.stopping = why
            if self.task is not None:
                self.task.cancel()

    async def stream(self, seconds: float | None, every: float, partial: Callable[[Run], None]) -> None:
        """Run the model until it ends, its time is up, or it meets the hold.

        The `seconds` begin anew with each model that is asked, and do not count what is waited for its place.
        `partial` is called at most once in `every` seconds, when the text has grown by enough. Raises
        ModelError; a time that is up with an answer begun is a shortened answer, without one TimeoutError.
        """
        clock = asyncio.get_running_loop().time
        self._said_at = clock()
        try:
            async with asyncio.timeout(None) as time, aclosing(self._chunks(seconds, time)) as texts:
                async for text in texts:
                    if text and clock() - self._said_at >= every and len(self.text) >= self._said * GROWTH:
                        self._said, self._said_at = len(self.text), clock()
                        partial(self)
        except TimeoutError:
            if not self.has_answer:
                raise
            self.finish = "timeout"

    @property
    def begun(self) -> bool:
        """Whether a model works on it, or has: it neither waits for a place nor has failed."""
        return bool(self.by) and self.error is None

    @property
    def has_answer(self) -> bool:
        """Whether there is anything to send."""
        return bool(self.text or self.files or self.oversized)

    @property
    def fruitless(self) -> bool:
        """Whether it ended with nothing to send, and nothing to bill. A limit that no text fits into is the
        customer's own, and its tokens are billed; one that no file fits into is ours."""
        return not self.has_answer and (self.finish != "length" or self.makes != "text")

    @property
    def whole(self) -> bool:
        """Whether nothing of it is shown before all of it is there and checked."""
        return self.ask is not None and self.ask.whole

    def check(self) -> None:
        """Its text takes the form that was asked for; what was used stays what the model wrote. Raises WrongAnswer."""
        if self.ask is not None and self.whole:
            self.usage = self.used()
            self.text = self.ask.finish(self.text, cut=self.finish != "stop")

    def become(self, content: str) -> None:
        """Its files are delivered: `content` says where. What was used is settled before, since nobody pays for the
        length of an address."""
        self.usage = self.used()
        self.text = content
        self.files.clear()

    async def _chunks(self, seconds: float | None, time: asyncio.Timeout) -> AsyncGenerator[str, None]:
        def asked(name: str) -> tuple[Prompt, Limits]:
            if (spent := self.spent()) is not None:
                self.lost.append(spent)
            self.by, self.error = name, None
            if seconds is not None:
                time.reschedule(asyncio.get_running_loop().time() + seconds)
            self.ask = ask = self.asks(name)
            self.makes = ask.output
            return ask.prompt, ask.limits(self.job.max_output)

        def failed(error: ModelError) -> None:
            self.error = error
            time.reschedule(None)  # the next one's time begins with it

        async with aclosing(self.router.stream(self.names, asked, failed)) as chunks:
            async for _, chunk in chunks:
                self._take(chunk)
                if chunk.usage is not None and sane(chunk.usage):
                    self.usage = chunk.usage
                self.version = chunk.version or self.version
                if chunk.finish is not None:
                    self.finish = chunk.finish
                elif self._met_its_limit():
                    self.finish = "length"
                yield chunk.text if self.makes == "text" else ""
                if self.finish is not None:
                    return

    def _take(self, chunk: Chunk) -> None:
        if self.makes == "text":
            self.text += chunk.text
        elif chunk.blob is not None and not self.oversized:
            self.files.append(chunk.blob)
            if len(self.files) > MAX_FILES or sum(len(each.data) for each in self.files) > MAX_FILE_BYTES:
                self.oversized = True
                self.files.clear()

    def _met_its_limit(self) -> bool:
        """Whether going on would cost more than is held (money.md, case 1), or fit into no event."""
        if self.makes != "text":  # half a file is none; the model itself is held to the tokens that were quoted
            return False
        fits = self.answers.longest(self.text)
        if len(fits) < len(self.text):
            self.text = fits
            return True
        quote = self.job.quote_msat
        if quote == 0:
            return False
        if self.usage is None:
            return approximate_text(self.text) > 2 * self.job.max_output
        output = self.usage.output + self.usage.thoughts
        slack = 2 if "output" in self.usage.estimated else 1  # a count of ours cuts no answer short that fits
        if isinstance(self.price, PerRequest):  # it costs as much from its first word on
            return output > slack * self.job.max_output
        return cost(self.price, self.usage) >= slack * quote and output > 0

    def answered(self) -> str:
        """Of its receipt: the version that answered; of another model than the one whose price was quoted, `name` or
        `name/version`."""
        if self.by in ("", self.job.model):
            return self.version
        return f"{self.by}/{self.version}" if self.version else self.by

    def used(self) -> Usage:
        """What to bill: what the model reported, else our own count, marked as such (case 11)."""
        if self.usage is not None:
            return self.usage
        return Usage(
            input=self._read(),
            output=approximate_text(self.text),
            estimated=frozenset({"input", "output"}),
        )

    def spent(self) -> Metered | None:
        """What the model that was asked last has used for nothing, should nobody be billed for it: what it reported,
        else our own count. None if there was none, or if it has turned the request away."""
        if not self.by:
            return None
        if self.usage is None and self.error is not None and self.error.code in _TURNED_AWAY and not self.has_answer:
            return None
        why = self.error.code if self.error is not None else self.stopping or "error"
        return metered(self.job, self.used(), why, self.by)

    def _read(self) -> int:
        """About the tokens that the model has read. What was quoted may be no count, but the bound that no text
        exceeds, for want of anybody to ask: some four times as much as it has."""
        if self.ask is not None and self.job.input_tokens == estimate_tokens(self.ask.prompt):
            return approximate_tokens(self.ask.prompt)
        return self.job.input_tokens

    def cost(self) -> int:
        """In msat, never more than was quoted: what was used beyond is the provider's loss."""
        return min(cost(self.price, self.used()), self.job.quote_msat)


def sane(usage: Usage) -> bool:
    """Whether it may be billed: a negative count would pay the customer (money.md, case 24)."""
    return min(usage.input, usage.cached, usage.output, usage.thoughts) >= 0


def price_of(job: Job) -> Price:
    """What was quoted for a job, and is therefore billed."""
    return price_from_json(json.loads(job.price)) if job.price else FREE


def prices_of(price: Price) -> dict[str, int]:
    """As its receipt lists them: what was quoted."""
    match price:
        case PerToken(input=given, cached=cached, output=output):
            return {"input": given, "cached": cached, "output": output}
        case PerRequest(msat=msat):
            return {"request": msat}
    return {}


def metered(job: Job, used: Usage, finish: str, by: str) -> Metered:
    """For the operator's reports; `by` is the model that it was used by, `finish` how its answer or attempt ended."""
    return Metered(
        model=by or job.model or "",
        input=used.input,
        cached=used.cached,
        output=used.output,
        thoughts=used.thoughts,
        estimated=" ".join(sorted(used.estimated)),
        finish=finish,
    )
