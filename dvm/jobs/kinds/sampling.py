"""The params with which customers steer a language model, the same for every kind that has them."""

from __future__ import annotations

from dvm.jobs.kinds.declaration import Ask
from dvm.models import Prompt
from dvm.nip90 import InvalidRequest, JobRequest, float_param, int_param

MAX_STOPS = 5  # Gemini's own limit

BOUNDS = {
    "model": "Which of the models answers",
    "max_tokens": "The most tokens of the answer, thoughts included; bounds the price as well",
}
SAMPLING = {
    **BOUNDS,
    "temperature": "0 to 2",
    "top_p": "0 to 1",
    "top_k": "1 to 1000",
    "stop": "Texts at which the answer ends, at most 5",
    "frequency_penalty": "-2 to 2",
}


def bounded(request: JobRequest, prompt: Prompt, temperature: float) -> Ask:
    """That prompt, for a kind whose customers choose the model and bound its answer, and no more. Raises
    InvalidRequest."""
    return Ask(prompt=prompt, max_tokens=max_tokens(request), temperature=temperature)


def sampled(request: JobRequest, prompt: Prompt) -> Ask:
    """That prompt, to be answered as the request's params say. Raises InvalidRequest."""
    stop = tuple(value for values in request.param_values("stop") for value in values if value)
    if len(stop) > MAX_STOPS:
        raise InvalidRequest("invalid-param", f"stop: at most {MAX_STOPS} expected")
    return Ask(
        prompt=prompt,
        max_tokens=max_tokens(request),
        temperature=float_param(request, "temperature", 0, 2),
        top_p=float_param(request, "top_p", 0, 1),
        top_k=int_param(request, "top_k", 1, 1000),
        stop=stop,
        frequency_penalty=float_param(request, "frequency_penalty", -2, 2),
    )


def max_tokens(request: JobRequest) -> int | None:
    """The most tokens that the customer allows; None if nothing is said. Raises InvalidRequest."""
    return int_param(request, "max_tokens", 1, 1_000_000)
