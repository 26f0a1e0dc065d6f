"""What the tests of models do again and again."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from dvm.models.base import Chunk, Limits, Model, ModelError, Prompt, Usage

FOX = "The quick brown fox jumps over the lazy dog."


@dataclass
class Answer:
    chunks: list[Chunk]

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def last(self) -> Chunk:
        return self.chunks[-1]

    @property
    def usage(self) -> Usage:
        assert self.last.usage is not None
        return self.last.usage


async def ask(model: Model, prompt: Prompt | str = FOX, **limits: object) -> Answer:
    """The whole answer."""
    prompt = Prompt.of(prompt) if isinstance(prompt, str) else prompt
    settings = Limits(**{"max_output_tokens": 1000, **limits})  # type: ignore[arg-type]
    return Answer([chunk async for chunk in model.stream(prompt, settings)])


async def refused(model: Model, prompt: Prompt | str = FOX, **limits: object) -> ModelError:
    """The error that there is instead of a whole answer."""
    with pytest.raises(ModelError) as caught:
        await ask(model, prompt, **limits)
    return caught.value
