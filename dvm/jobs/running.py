"""One run of a model for one job: the text as it comes, what it has used, and where it must stop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

from dvm.jobs.kinds import Ask
from dvm.ledger import Job, Metered
from dvm.models import Model, Usage, approximate_text
from dvm.nip90 import Answers, Finish, JobRequest, next_second
from dvm.pricing import PerRequest, PerToken, Price, cost, price_from_json

# A partial repeats the whole text, so each is at least this much longer than the last: all of them together
# stay within four times the final text.
GROWTH = 4 / 3


@dataclass(slots=True)
class Run:
    """A job while its model runs. `stamp` is the newest `created_at` used for it; `promised`: a hold invoice
    pays for it, so nothing of the answer is seen before that is settled."""

    job: Job
    request: JobRequest
    ask: Ask
    model: Model
    price: Price
    answers: Answers
    stamp: int
    text: str = ""
    usage: Usage | None = None
    finish: Finish | None = None
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

        `partial` is called at most once in `every` seconds, when the text has grown by enough. Raises
        ModelError; a time that is up with an answer begun is a shortened answer, without one TimeoutError.
        """
        clock = asyncio.get_running_loop().time
        self._said_at = clock()
        try:
            async with asyncio.timeout(seconds), aclosing(self._chunks()) as texts:
                async for text in texts:
                    if text and clock() - self._said_at >= every and len(self.text) >= self._said * GROWTH:
                        self._said, self._said_at = len(self.text), clock()
                        partial(self)
        except TimeoutError:
            if not self.text:
                raise
            self.finish = "timeout"

    async def _chunks(self) -> AsyncGenerator[str, None]:
        limits = self.ask.limits(self.job.max_output)
        async with aclosing(self.model.stream(self.ask.prompt, limits)) as chunks:
            async for chunk in chunks:
                self.text += chunk.text
                if chunk.usage is not None and sane(chunk.usage):
                    self.usage = chunk.usage
                self.version = chunk.version or self.version
                if chunk.finish is not None:
                    self.finish = chunk.finish
                elif self._met_its_limit():
                    self.finish = "length"
                yield chunk.text
                if self.finish is not None:
                    return

    def _met_its_limit(self) -> bool:
        """Whether going on would cost more than is held (money.md, case 1), or fit into no event."""
        fits = self.answers.longest(self.text)
        if len(fits) < len(self.text):
            self.text = fits
            return True
        quote = self.job.quote_msat
        if quote == 0:
            return False
        if self.usage is not None:
            return cost(self.price, self.usage) >= quote and self.usage.output + self.usage.thoughts > 0
        return approximate_text(self.text) > 2 * self.job.max_output

    def used(self) -> Usage:
        """What to bill: what the model reported, else our own count, marked as such (case 11)."""
        if self.usage is not None:
            return self.usage
        return Usage(
            input=self.job.input_tokens,
            output=approximate_text(self.text),
            estimated=frozenset({"input", "output"}),
        )

    def cost(self) -> int:
        """In msat, never more than was quoted: what was used beyond is the provider's loss."""
        return min(cost(self.price, self.used()), self.job.quote_msat)


def sane(usage: Usage) -> bool:
    """Whether it may be billed: a negative count would pay the customer (money.md, case 24)."""
    return min(usage.input, usage.cached, usage.output, usage.thoughts) >= 0


def prices_of(job: Job) -> dict[str, int]:
    """As its receipt lists them: what was quoted."""
    match price_from_json(json.loads(job.price or '{"per": "free"}')):
        case PerToken(input=given, cached=cached, output=output):
            return {"input": given, "cached": cached, "output": output}
        case PerRequest(msat=msat):
            return {"request": msat}
    return {}


def metered(job: Job, used: Usage, finish: Finish) -> Metered:
    """For the operator's reports."""
    return Metered(
        model=job.model or "",
        input=used.input,
        cached=used.cached,
        output=used.output,
        thoughts=used.thoughts,
        estimated=" ".join(sorted(used.estimated)),
        finish=finish,
    )
