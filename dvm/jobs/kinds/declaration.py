"""What a kind of job is to this program: a small declaration, one file each, from which all the rest follows.

A kind says which inputs and params it takes, how they become a prompt, and what its answer must be. The engine,
the announcement (31990) and the documentation read nothing else. Operators add their own by an entry point
(`dvm.kinds`; docs/kinds.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from dvm.models import Blob, Limits, ModelError, Output, Prompt, Turn
from dvm.nip90 import InputType, InvalidRequest, JobRequest, Param
from dvm.pricing import Price

SESSION = (
    "Which conversation this continues: the id of an earlier job or result of yours, or a name of your own, 1 to 64 "
    "characters, which begins one when it is new"
)
TEXT, MARKDOWN, VTT, JSON = "text/plain", "text/markdown", "text/vtt", "application/json"


class WrongAnswer(ModelError):
    """The answer is not of the type that was asked for. The job is given back, and not tried again: whoever asks
    for what no model can write would have it tried for nothing."""

    def __init__(self, text: str) -> None:
        super().__init__("empty", text)

    @property
    def passing(self) -> bool:
        return False


Check = Callable[[str, bool], str]
"""Of an answer, and whether it was cut short, the answer as it is sent. Raises WrongAnswer, and for an answer that
was cut short only if nothing of it is of use: its tokens were used as the customer allowed."""


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
    """All inputs of a request, in its order, without blank ones; `history` is what was said before, oldest first, in
    the conversation that it continues."""

    parts: tuple[Part, ...] = ()
    history: tuple[Turn, ...] = ()

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
    """A request, understood: the prompt, and how to answer. `check` and `output` come from the kind."""

    prompt: Prompt
    max_tokens: int | None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    frequency_penalty: float | None = None
    check: Check | None = None
    output: Output = "text"
    ratio: str | None = None
    language: str | None = None
    voice: str | None = None

    @property
    def whole(self) -> bool:
        """Whether the answer counts only as a whole. Then nothing of it is shown while it is made: who has read it
        all and can have the money back, since its last line was wrong, would make the model write one."""
        return self.check is not None or self.output != "text"

    def finish(self, text: str, *, cut: bool = False) -> str:
        """The answer as it is sent; `cut`: it ended before the model was done. Raises WrongAnswer."""
        if self.check is None or not text.strip():
            return text
        return self.check(text, cut)

    def limits(self, max_output_tokens: int) -> Limits:
        """The same, bounded by what the quote allows."""
        return Limits(
            max_output_tokens=max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=self.stop,
            frequency_penalty=self.frequency_penalty,
            output=self.output,
            ratio=self.ratio,
            language=self.language,
            voice=self.voice,
        )


Reader = Callable[[JobRequest, Gathered, str | None], Ask]
"""Of a request, what was gathered for it, and the operator's system instruction. Raises InvalidRequest."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of job that this program can do.

    `params` are what a customer may set (31990): a Param, or its description alone. What is required, and whose
    values are listed, is held to that; `validate` looks at the rest, and raises InvalidRequest. `inputs` are the
    types of `i` that it takes, `files` the media types of files among them, by prefix (`image/`). `outputs` are
    what an `output` tag may ask for, the first of them the default; `checks` hold the answers of some of them to
    their form. `makes` is what the model is asked for: images and speech are delivered as files (dvm.jobs.files),
    small ones within the answer if there is no other way and they may stand there (`inline`).
    `least_output` are the tokens without which there is no answer at all: no bid is met by allowing fewer.
    `converses`: an earlier job of the same kind and customer may be continued (dvm.jobs.sources.conversation), and the
    param `session` is among the others. What `read` makes of the earlier inputs stands before the prompt then; the
    answers are text.
    """

    kind: int
    name: str
    read: Reader
    topics: tuple[str, ...]
    params: Mapping[str, str | Param]
    inputs: frozenset[InputType] = frozenset({"text"})
    files: tuple[str, ...] = ()
    outputs: tuple[str, ...] = (TEXT, MARKDOWN)
    checks: Mapping[str, Check] = field(default_factory=dict)
    validate: Callable[[JobRequest], object] | None = None
    makes: Output = "text"
    least_output: int | None = None
    inline: bool = True
    converses: bool = False

    def __post_init__(self) -> None:
        if self.converses:
            if self.makes != "text":
                raise ValueError("a kind that converses answers with text")
            params = {**self.params, "session": self.params.get("session", SESSION)}
            object.__setattr__(self, "params", params)

    def check(self, request: JobRequest) -> None:
        """Refuse what no answer of this kind could serve, before anything is fetched. Raises InvalidRequest."""
        for each in request.inputs:
            if each.type not in self.inputs:
                taken = ", ".join(sorted(self.inputs))
                raise InvalidRequest("invalid-input", f"inputs of type {each.type} are not taken, but {taken}")
        if self.output(request) is None:
            raise InvalidRequest("invalid-output", f"one of {', '.join(self.outputs)} expected")
        for name in self.params:
            self._check_param(request, name)
        if self.validate is not None:
            self.validate(request)

    def param(self, name: str) -> Param:
        """A param as it is announced. Raises KeyError."""
        found = self.params[name]
        return Param(found) if isinstance(found, str) else found

    def _check_param(self, request: JobRequest, name: str) -> None:
        given, param = request.param_values(name), self.param(name)
        if not any(value.strip() for values in given for value in values):
            if param.required:
                raise InvalidRequest("invalid-param", f"{name}: it is missing; {param.description}")
        elif param.values and any(len(values) != 1 or values[0] not in param.values for values in given):
            raise InvalidRequest("invalid-param", f"{name}: one of {', '.join(param.values)} expected")

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
        ask = self.kind.read(request, gathered, self.systems.get(model))
        # The same turns in front, job after job: so what a provider has cached of them is found again.
        prompt = replace(ask.prompt, turns=(*gathered.history, *ask.prompt.turns))
        check = self.kind.checks.get(self.kind.output(request) or "")
        return replace(ask, prompt=prompt, check=check, output=self.kind.makes)
