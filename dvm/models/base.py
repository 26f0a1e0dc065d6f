"""What every model offers: `Model`, one short Protocol. A new backend is one file and one registry line."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Blob:
    """Binary input or output, such as an image: its IANA media type and its bytes."""

    mime: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation; its parts in order."""

    role: Literal["user", "model"]
    parts: tuple[str | Blob, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is asked: the turns, oldest first, and an optional system instruction."""

    turns: tuple[Turn, ...]
    system: str | None = None

    @classmethod
    def of(cls, *parts: str | Blob, system: str | None = None) -> Prompt:
        """A prompt of one user turn."""
        return cls((Turn("user", parts),), system)


Output = Literal["text", "image", "speech"]
"""What an answer is made of: text, or blobs (`Chunk.blob`): images, or one audio file."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How the model is to answer. `max_output_tokens` bounds answer and thoughts together.

    None leaves a setting to the model's default. A backend that lacks one raises
    `ModelError("bad_request", …)` naming it, rather than ignoring what was paid for.

    `ratio` is the shape of an image, width to height ("16:9"); a model makes the nearest that it can.
    `language` (ISO 639, such as "de") and `voice` (a name of the model's own) are those of speech.
    """

    max_output_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    frequency_penalty: float | None = None
    output: Output = "text"
    ratio: str | None = None
    language: str | None = None
    voice: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, in disjoint classes (receipt of kind 7090).

    `input` = prompt + tool-use prompt − cached; `thoughts` cost what `output` costs. `estimated` names
    the classes that the model did not report and we counted ourselves: a true zero is never replaced.
    """

    input: int = 0
    cached: int = 0
    output: int = 0
    thoughts: int = 0
    estimated: frozenset[str] = field(default_factory=frozenset)

    @property
    def total(self) -> int:
        return self.input + self.cached + self.output + self.thoughts


# Why the answer ended: the model was done; it met the token limit; it was blocked by a safety filter.
Finish = Literal["stop", "length", "safety"]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the answer. `usage`, where present, is the usage so far, not a difference.

    The last chunk has `finish` and the final `usage`; `version` is the model's own name of what answered.
    """

    text: str = ""
    blob: Blob | None = None
    usage: Usage | None = None
    finish: Finish | None = None
    version: str | None = None


ErrorCode = Literal[
    "bad_request",  # the model will never answer this request
    "unauthorized",  # our key is wrong or lacks a permission: the operator must act
    "not_found",  # no such model
    "rate_limited",  # wait `retry_after`
    "unavailable",  # the endpoint is down, overloaded or unreachable
    "broken_off",  # the stream ended without a finish
    "stalled",  # nothing arrived for too long
    "blocked",  # a safety filter let nothing through
    "empty",  # finished without an answer
]
_PASSING: frozenset[ErrorCode] = frozenset({"rate_limited", "unavailable", "broken_off", "stalled", "empty"})


class ModelError(Exception):
    """The model gave no complete answer.

    `usage` is what was used up to then, if the model said so; `retry_after` is in seconds. The text is
    for the operator's log and holds no secret; customers see only the code.
    """

    def __init__(
        self, code: ErrorCode, text: str, *, retry_after: float | None = None, usage: Usage | None = None
    ) -> None:
        super().__init__(f"{code}: {text}")
        self.code: ErrorCode = code
        self.retry_after = retry_after
        self.usage = usage

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.code in _PASSING


def require_text(limits: Limits, name: str) -> None:
    """For a model that can only write. Raises ModelError if an image or speech is asked of it."""
    if limits.output != "text":
        raise ModelError("bad_request", f"model {name} makes text only, no {limits.output}")


class Model(Protocol):
    """A language model. `name` is the operator's name for it in dvm.toml.

    `takes` are the media types that it reads beside text, by prefix (`image/`); `makes` is what it answers with;
    `context_tokens` bounds prompt and answer together, None where that is not known.
    """

    name: str
    max_output_tokens: int
    takes: tuple[str, ...] = ()
    makes: tuple[Output, ...] = ("text",)
    context_tokens: int | None = None

    def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Chunk, None]:
        """The answer as it comes; the last chunk has `finish` and `usage`. Raises ModelError.

        Closing the iterator (`aclose`) or cancelling the task stops the request upstream.
        """
        ...

    async def count_tokens(self, prompt: Prompt) -> int:
        """The tokens that `prompt` costs as input, at least. Raises ModelError."""
        ...

    async def start(self) -> None:
        """Open what the model needs; called once before anything else."""
        ...

    async def close(self) -> None:
        """Free it. Safe to call twice."""
        ...
