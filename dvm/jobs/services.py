"""What is sold: for each kind of job, how its request becomes a prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dvm.models import Limits, Prompt
from dvm.nip90 import InvalidRequest, JobRequest, float_param, int_param
from dvm.pricing import Price

MAX_STOPS = 5  # Gemini's own limit
MIME_TYPES = ("text/plain", "text/markdown")


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


Reader = Callable[[JobRequest, str | None], Ask]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of job that this program can do. `params` describes what a customer may set (31990)."""

    kind: int
    name: str
    read: Reader
    topics: tuple[str, ...]
    params: dict[str, str]


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

    def read(self, request: JobRequest, model: str) -> Ask:
        """The request as that model is to be asked. Raises InvalidRequest."""
        return self.kind.read(request, self.systems.get(model))

    def choose(self, wanted: str | None) -> str:
        """The model that the customer named, by our name or its maker's, or the first. Raises InvalidRequest."""
        if wanted is None or not wanted.strip():
            return self.models[0]
        for name in self.models:
            if wanted in (name, self.names.get(name)):
                return name
        raise InvalidRequest("invalid-param", f"model: one of {', '.join(self.models)} expected")


def read_text_generation(request: JobRequest, system: str | None) -> Ask:
    """Kind 5050. Raises InvalidRequest."""
    for each in request.inputs:
        if each.type != "text":
            raise InvalidRequest("invalid-input", f"inputs of type {each.type} are not taken: send the text itself")
    if request.output is not None and request.output.split(";")[0].strip().lower() not in MIME_TYPES:
        raise InvalidRequest("invalid-output", f"one of {', '.join(MIME_TYPES)} expected")
    stop = tuple(value for values in request.param_values("stop") for value in values if value)
    if len(stop) > MAX_STOPS:
        raise InvalidRequest("invalid-param", f"stop: at most {MAX_STOPS} expected")
    return Ask(
        prompt=Prompt.of(*request.texts(), system=system),
        max_tokens=int_param(request, "max_tokens", 1, 1_000_000),
        temperature=float_param(request, "temperature", 0, 2),
        top_p=float_param(request, "top_p", 0, 1),
        top_k=int_param(request, "top_k", 1, 1000),
        stop=stop,
        frequency_penalty=float_param(request, "frequency_penalty", -2, 2),
    )


TEXT_GENERATION = Kind(
    kind=5050,
    name="Text generation",
    read=read_text_generation,
    topics=("text-generation", "ai"),
    params={
        "model": "Which of the models answers",
        "max_tokens": "The most tokens of the answer, thoughts included; bounds the price as well",
        "temperature": "0 to 2",
        "top_p": "0 to 1",
        "top_k": "1 to 1000",
        "stop": "Texts at which the answer ends, at most 5",
        "frequency_penalty": "-2 to 2",
    },
)

KINDS: dict[int, Kind] = {each.kind: each for each in (TEXT_GENERATION,)}
