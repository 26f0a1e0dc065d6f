"""`echo`: answers with the prompt's own text. For benchmarks and tests; no I/O, no randomness.

A token is four characters, a begun one counted: cheap (no pass over the text) and the same everywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from dvm.models.base import Blob, Chunk, Finish, Limits, ModelError, Output, Prompt, Usage, require_text

CHARACTERS_PER_TOKEN = 4


class EchoModel:
    """Answers with the text of the last turn, its parts joined by newlines.

    Sampling settings are accepted: with no randomness there is nothing that they could change.

    chunk_tokens: tokens per chunk; None is the whole answer in one chunk.
    delay: seconds before each chunk; 0 does not touch the clock.
    thoughts, cached: what the usage is to say, as far as the limit and the prompt have room for it.
    """

    takes: tuple[str, ...] = ("",)  # whatever it is: it is counted, and not read
    makes: tuple[Output, ...] = ("text",)
    context_tokens: int | None = None

    def __init__(
        self,
        name: str = "echo",
        *,
        max_output_tokens: int = 8192,
        chunk_tokens: int | None = None,
        delay: float = 0.0,
        thoughts: int = 0,
        cached: int = 0,
    ) -> None:
        if max_output_tokens < 1 or (chunk_tokens is not None and chunk_tokens < 1):
            raise ValueError(f"model {name}: max_output_tokens and chunk_tokens must be at least 1")
        if not delay >= 0 or thoughts < 0 or cached < 0:
            raise ValueError(f"model {name}: delay, thoughts and cached must not be negative")
        self.name = name
        self.max_output_tokens = max_output_tokens
        self._chunk_tokens = chunk_tokens
        self._delay = delay
        self._thoughts = thoughts
        self._cached = cached

    async def start(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to free."""

    async def count_tokens(self, prompt: Prompt) -> int:
        """Exact."""
        return _input_tokens(prompt)

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Chunk, None]:
        """See `Model.stream`. A prompt without text in its last turn is `empty`."""
        require_text(limits, self.name)
        text, finish, thoughts = self._answer(prompt, limits)
        tokens_in = _input_tokens(prompt)
        cached = min(self._cached, tokens_in)
        if not text and not thoughts:
            raise ModelError("empty", "the prompt has no text to echo", usage=Usage(tokens_in - cached, cached))
        step = (self._chunk_tokens or max(1, tokens(text))) * CHARACTERS_PER_TOKEN
        sent = 0
        while True:
            if self._delay:
                await asyncio.sleep(self._delay)
            piece = text[sent : sent + step]
            sent += len(piece)
            usage = Usage(tokens_in - cached, cached, -(-sent // CHARACTERS_PER_TOKEN), thoughts)
            if sent >= len(text):
                yield Chunk(piece, usage=usage, finish=finish, version="echo")
                return
            yield Chunk(piece, usage=usage)

    def _answer(self, prompt: Prompt, limits: Limits) -> tuple[str, Finish, int]:
        """The whole answer, why it ends, and the tokens of thought."""
        parts = prompt.turns[-1].parts if prompt.turns else ()
        text = "\n".join(part for part in parts if isinstance(part, str))
        finish: Finish = "stop"
        cuts = [at for stop in limits.stop if stop and (at := text.find(stop)) >= 0]
        if cuts:
            text = text[: min(cuts)]
        budget = max(0, min(limits.max_output_tokens, self.max_output_tokens))
        thoughts = min(self._thoughts, budget)
        if tokens(text) > budget - thoughts:
            text = text[: (budget - thoughts) * CHARACTERS_PER_TOKEN]
            finish = "length"
        return text, finish, thoughts


def tokens(text: str) -> int:
    """echo's own count: one per four characters, a begun one counted."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def _input_tokens(prompt: Prompt) -> int:
    count = tokens(prompt.system) if prompt.system else 0
    for turn in prompt.turns:
        for part in turn.parts:
            count += -(-len(part.data if isinstance(part, Blob) else part) // CHARACTERS_PER_TOKEN)
    return count
