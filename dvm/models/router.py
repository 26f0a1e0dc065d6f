"""Which model answers: the order in which they are asked, how many requests each gets at once, and who steps in.

It knows no prices and no customers: who asks says by what to order, and what to ask each one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from dvm.models.base import Blob, Chunk, Limits, Model, ModelError, Output, Prompt
from dvm.models.counting import approximate_tokens
from dvm.models.health import AT_FAULT, Health

log = logging.getLogger(__name__)

MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one model may be asked: requests at once, and requests within any minute; 0 is no limit."""

    concurrency: int = 0
    requests_per_minute: int = 0


Asked = Callable[[str], tuple[Prompt, Limits]]
"""What to ask the model of that name; called when it is about to be asked."""

Failed = Callable[[ModelError], None]
"""How the model that was asked last has failed, before another is asked or the error is raised."""

Told = Callable[[str, ModelError | None], None]
"""How a request to the model of that name ended; None: with an answer."""


class Router:
    """The models by name, with the health of each. `at_once` bounds the requests to all of them together (0: not).
    `clock` is in seconds and never goes back; `told` may be set."""

    def __init__(
        self,
        models: Mapping[str, Model],
        bounds: Mapping[str, Bounds] | None = None,
        *,
        at_once: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        bounds = bounds or {}
        self._models = models
        self._clock = clock
        self._health = {name: Health(clock=lambda: self._clock()) for name in models}
        places = _places(at_once)
        self._gates = {name: _Gate(bounds.get(name, Bounds()), places, lambda: self._clock()) for name in models}
        self.told: Told = lambda _name, _error: None

    def health(self, name: str) -> Health:
        """Raises KeyError."""
        return self._health[name]

    def usable(self, name: str) -> bool:
        """Whether there is such a model, and its breaker lets a request through."""
        return name in self._health and self._health[name].usable

    def candidates(
        self,
        names: Sequence[str],
        prompt: Prompt,
        *,
        output: Output = "text",
        price: Callable[[str], int] | None = None,
        first: str | None = None,
    ) -> list[str]:
        """Those of `names` that can take this prompt and make this output, in the order in which to ask them.

        `price` orders them, the cheapest first; without it they stay in their order. `first` goes before the
        others. Those whose breaker is open come last all the same. Empty if none can.
        """
        able = [name for name in names if name in self._models and _able(self._models[name], prompt, output)]
        if price is not None:
            able.sort(key=price)
        return sorted(able, key=lambda name: (not self._health[name].usable, name != first))

    def most_output(self, name: str, wanted: int | None) -> int:
        """The tokens that an answer of that model may have, if so many are wanted."""
        most = self._models[name].max_output_tokens
        return most if wanted is None else min(wanted, most)

    def fits(self, name: str, tokens: int) -> bool:
        """Whether a prompt of so many tokens leaves that model room for an answer."""
        most = self._models[name].context_tokens
        return most is None or tokens < most

    def failed(self, name: str, error: ModelError) -> None:
        """A request that was given up by whoever made it, since that model took too long."""
        if name in self._health:
            self._health[name].failed(error.code)
            self.told(name, error)

    async def stream(
        self, names: Sequence[str], asked: Asked, failed: Failed = lambda _error: None
    ) -> AsyncGenerator[tuple[str, Chunk], None]:
        """The answer of the first of `names` that gives one, each chunk with the name of its model.

        Another is asked only while nothing has come and nothing was used, and only where the model is at
        fault: neither is a customer billed for two, nor can a request be written that the model it was sold for
        does not take and a dearer one does. An open breaker is passed over; if all are open, the first is asked,
        as this request is paid for. What waits for a model's place waits before `asked` is called, and keeps no place
        of all meanwhile: a queue before one model is none before another. Raises ModelError: the last one, or of
        several one that may pass.
        """
        left = list(names)
        failures: list[ModelError] = []
        while left:
            name = next((each for each in left if self._health[each].usable), None)
            if name is None:
                if failures:
                    break
                name = left[0]
            left.remove(name)
            begun = False
            try:
                async with aclosing(self._one(name, asked)) as chunks:
                    async for chunk in chunks:
                        begun = begun or bool(chunk.text or chunk.blob or chunk.usage or chunk.finish)
                        if begun:
                            yield name, chunk
            except ModelError as error:
                failed(error)
                if begun or error.usage is not None or error.code not in AT_FAULT:
                    raise
                failures.append(error)
                if left:
                    log.info(
                        "a model failed before its first word; another is asked",
                        extra={"model": name, "error": str(error)},
                    )
            else:
                return
        raise next((error for error in reversed(failures) if error.passing), failures[-1])

    async def _one(self, name: str, asked: Asked) -> AsyncGenerator[Chunk, None]:
        """One model's answer, its health kept."""
        model, health, gate = self._models[name], self._health[name], self._gates[name]
        spoken = False
        await gate.enter()
        try:
            prompt, limits = asked(name)
            health.enter()
            async with aclosing(model.stream(prompt, limits)) as chunks:
                async for chunk in chunks:
                    spoken = spoken or bool(chunk.text or chunk.blob)
                    if chunk.finish is not None:
                        self._fine(name)
                        yield chunk
                        return
                    yield chunk
            raise ModelError("broken_off", "the stream ended without a finish")
        except ModelError as error:
            health.failed(error.code)
            self.told(name, error)
            raise
        except GeneratorExit:
            if spoken:  # stopped by us: it met a limit, or its customer cancelled it
                health.fine()
            raise
        finally:
            gate.leave()

    def _fine(self, name: str) -> None:
        self._health[name].fine()
        self.told(name, None)


class _Gate:
    """Lets so many in at once, and so many within any minute; the others wait in the order of their coming.

    Who has come in has a place of this model's own, and then one of those that `shared` bounds, in this order: who
    waits for the first holds none of the second, so that nobody who has a shared place ever waits for another one.
    """

    def __init__(self, bounds: Bounds, shared: asyncio.Semaphore | None, clock: Callable[[], float]) -> None:
        self._own, self._shared = _places(bounds.concurrency), shared
        self._clock = clock
        self._per_minute = bounds.requests_per_minute
        self._times: deque[float] = deque()  # of the last minute's requests, as far as they are counted
        self._turn = asyncio.Lock()

    async def enter(self) -> None:
        if self._own is not None:
            await self._own.acquire()
        try:
            if not self._per_minute:
                await self._share()
                return
            # Its time is when it is asked, not when it began to wait for a shared place.
            async with self._turn:
                await self._pace()
                await self._share()
                self._times.append(self._clock())
        except BaseException:
            if self._own is not None:
                self._own.release()
            raise

    def leave(self) -> None:
        for places in (self._shared, self._own):
            if places is not None:
                places.release()

    async def _share(self) -> None:
        if self._shared is not None:
            await self._shared.acquire()

    async def _pace(self) -> None:
        """Exactly as providers count, any minute: a bucket that refills would let twice as many through."""
        while len(self._times) >= self._per_minute:
            wait = self._times[0] + MINUTE - self._clock()
            if wait <= 0:
                self._times.popleft()
            else:
                await asyncio.sleep(wait)


def _places(count: int) -> asyncio.Semaphore | None:
    return asyncio.Semaphore(count) if count else None


def _able(model: Model, prompt: Prompt, output: Output) -> bool:
    files = (part for turn in prompt.turns for part in turn.parts if isinstance(part, Blob))
    return (
        output in model.makes
        and all(file.mime.lower().startswith(model.takes) for file in files)
        and (model.context_tokens is None or approximate_tokens(prompt) < model.context_tokens)
    )
