"""What a kind of job is to this program: a small declaration, one file each, from which all the rest follows.

A kind says which inputs and params it takes, how they become a prompt, and what its answer must be. The engine,
the announcement (31990) and the documentation read nothing else. Operators add their own by an entry point
(`dvm.kinds`; docs/kinds.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dvm.models import Blob, Limits, Prompt
from dvm.nip90 import InputType, InvalidRequest, JobRequest
from dvm.pricing import Price

TEXT, MARKDOWN = "text/plain", "text/markdown"


@dataclass(frozen=True, slots=True)
class Part:
    """One input as it was found: text, or a file. `origin` is what the customer named (a url, an id), "" for text
    that stood in the request; `marker` as in the `i` tag."""

    content: str | Blob
    type: InputType = "text"
    marker: str | None = None
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Gathered:
    """All inputs of a request, in its order, without blank ones."""

    parts: tuple[Part, ...] = ()

    def contents(self) -> tuple[str | Blob, ...]:
        """Raises InvalidRequest if there is nothing."""
        if not self.parts:
            raise InvalidRequest("no-input", "the request has no input")
        return tuple(part.content for part in self.parts)

    def texts(self) -> tuple[str, ...]:
        """The texts alone. Raises InvalidRequest if there is none."""
        texts = tuple(part.content for part in self.parts if isinstance(part.content, str))
        if not texts:
            raise InvalidRequest("no-input", "the request has no text")
        return texts


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, understood: the prompt, and how to answer."""

    prompt: Prompt
    max_tokens: int | None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    frequency_penalty: float | None = None

    def limits(self, max_output_tokens: int) -> Limits:
        """The same, bounded by what the quote allows."""
        return Limits(
            max_output_tokens=max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=self.stop,
            frequency_penalty=self.frequency_penalty,
        )


Reader = Callable[[JobRequest, Gathered, str | None], Ask]
"""Of a request, what was gathered for it, and the operator's system instruction. Raises InvalidRequest."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of job that this program can do.

    `params` describes what a customer may set (31990). `inputs` are the types of `i` that it takes, `files` the
    media types of files among them, by prefix (`image/`). `outputs` are what an `output` tag may ask for, the
    first of them the default.
    """

    kind: int
    name: str
    read: Reader
    topics: tuple[str, ...]
    params: Mapping[str, str]
    inputs: frozenset[InputType] = frozenset({"text"})
    files: tuple[str, ...] = ()
    outputs: tuple[str, ...] = (TEXT, MARKDOWN)

    def check(self, request: JobRequest) -> None:
        """Refuse what no answer of this kind could serve, before anything is fetched. Raises InvalidRequest."""
        for each in request.inputs:
            if each.type not in self.inputs:
                taken = ", ".join(sorted(self.inputs))
                raise InvalidRequest("invalid-input", f"inputs of type {each.type} are not taken, but {taken}")
        if self.output(request) is None:
            raise InvalidRequest("invalid-output", f"one of {', '.join(self.outputs)} expected")

    def output(self, request: JobRequest) -> str | None:
        """The media type that is asked for; None if this kind does not make it."""
        if request.output is None:
            return self.outputs[0]
        wanted = request.output.split(";")[0].strip().lower()
        return wanted if wanted in self.outputs else None


@dataclass(frozen=True, slots=True)
class Service:
    """A kind as the operator sells it: models in order of preference; for each its price, perhaps a system
    instruction, and its maker's name."""

    kind: Kind
    models: tuple[str, ...]
    prices: dict[str, Price]
    systems: dict[str, str | None] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    name: str | None = None

    def read(self, request: JobRequest, gathered: Gathered, model: str) -> Ask:
        """The request as that model is to be asked. Raises InvalidRequest."""
        return self.kind.read(request, gathered, self.systems.get(model))

    def choose(self, wanted: str | None) -> str:
        """The model that the customer named, by our name or its maker's, or the first. Raises InvalidRequest."""
        if wanted is None or not wanted.strip():
            return self.models[0]
        for name in self.models:
            if wanted in (name, self.names.get(name)):
                return name
        raise InvalidRequest("invalid-param", f"model: one of {', '.join(self.models)} expected")
