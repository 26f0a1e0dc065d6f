"""A model that does what a test has written down, chunk by chunk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from dvm.models import Chunk, Limits, Model, ModelError, Prompt, Usage

STALL = "stall"  # nothing more comes
Act = str | Chunk | ModelError | asyncio.Event | float  # say, say, break, wait for it, wait so many seconds

USED = Usage(input=100, output=50)


def answer(text: str, usage: Usage | None = USED) -> list[Act]:
    """A whole answer in one chunk."""
    return [Chunk(text, usage=usage, finish="stop", version="scripted-1")]


class ScriptedModel(Model):
    """Plays `script` at each run, or the next of `scripts` while there are any.

    A `str` is a chunk without usage, except STALL. `prompts` is what it was asked, `stopped` how often it was
    stopped before its end. `count` is what `count_tokens` says, or raises, or waits for first.
    """

    def __init__(self, *script: Act, name: str = "flash", max_output_tokens: int = 1000) -> None:
        self.name = name
        self.max_output_tokens = max_output_tokens
        self.script: Sequence[Act] = script or answer("well")
        self.scripts: list[Sequence[Act]] = []
        self.prompts: list[Prompt] = []
        self.limits: list[Limits] = []
        self.stopped = 0
        self.running = 0
        self.most_running = 0
        self.count: int | ModelError | asyncio.Event | Callable[[Prompt], int] = 100

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def count_tokens(self, prompt: Prompt) -> int:
        if isinstance(self.count, asyncio.Event):
            await self.count.wait()
            return 100
        if isinstance(self.count, ModelError):
            raise self.count
        return self.count if isinstance(self.count, int) else self.count(prompt)

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Chunk, None]:
        script = self.scripts.pop(0) if self.scripts else self.script
        self.prompts.append(prompt)
        self.limits.append(limits)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        ended = False
        try:
            for act in script:
                match act:
                    case "stall":
                        await asyncio.Event().wait()
                    case ModelError():
                        ended = True
                        raise act
                    case asyncio.Event():
                        await act.wait()
                    case float():
                        await asyncio.sleep(act)
                    case str():
                        yield Chunk(act)
                    case Chunk():
                        ended = act.finish is not None
                        yield act
            if not ended:
                ended = True
                raise ModelError("broken_off", "the script is at its end")
        finally:
            self.running -= 1
            self.stopped += not ended
