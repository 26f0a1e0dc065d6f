"""Every provider that dvm.toml can name. A new backend is one file and one line here."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from dvm.models.base import Model, Output
from dvm.models.echo import EchoModel
from dvm.models.embedded import EmbeddedModel
from dvm.models.gemini import GeminiModel
from dvm.models.generativeai import GenerativeAiModel
from dvm.models.openai import OpenAIModel
from dvm.models.remote import RemoteModel

_PROVIDERS: dict[str, type[Any]] = {
    "gemini": GeminiModel,  # model, api_key; base_url
    "openai": OpenAIModel,  # model; api_key or base_url
    "google-generativeai": GenerativeAiModel,  # as gemini
    "embedded": EmbeddedModel,  # model: "smollm2" or a file
    "echo": EchoModel,
}
PROVIDERS = tuple(_PROVIDERS)


def make_model(
    name: str,
    provider: str,
    *,
    model: str | None = None,
    base_url: str | None = None,
    api_key: str | None = None,
    max_output_tokens: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Model:
    """The model that the section [models.<name>] describes; not yet started.

    What is None or empty is left to the provider's default. `options` are the settings of that provider alone,
    such as `stall_seconds`. Raises ValueError with a text for the operator, which holds no secret.
    """
    factory = _PROVIDERS.get(provider)
    if factory is None:
        raise ValueError(f"model {name}: no provider {provider!r}; there are {', '.join(PROVIDERS)}")
    given = {"model": model, "base_url": base_url, "api_key": api_key, "max_output_tokens": max_output_tokens}
    known = _settings(factory)
    settings = {key: value for key, value in given.items() if value not in {None, ""}}
    settings.pop("api_key", None) if "api_key" not in known else settings.setdefault("api_key", "")
    if provider == "echo":
        settings.pop("model", None)  # there is only one
    if "model" in known and provider != "embedded":
        settings.setdefault("model", "")  # what it says then is for the operator
    unknown = [key for key in settings if key not in known]
    unknown += [key for key in options or {} if key not in known or key in given]
    if unknown:
        raise ValueError(f"model {name}: provider {provider!r} has no setting {unknown[0]!r}")
    try:
        made: Model = factory(name, **settings, **(options or {}))
    except TypeError:  # a text where a number should be
        raise ValueError(f"model {name}: a setting is of the wrong type") from None
    return made


def makes(provider: str, model: str, said: Sequence[Output] | None = None) -> tuple[Output, ...]:
    """What a model answers with that is not built; `said`: what its operator says. Raises KeyError."""
    factory = _PROVIDERS[provider]
    if issubclass(factory, RemoteModel):
        return factory.made_by(model, said)
    made: tuple[Output, ...] = factory.makes
    return made


def _settings(factory: type) -> set[str]:
    """What it can be built with, by itself and by what it is a kind of."""
    constructors = [vars(each)["__init__"] for each in factory.__mro__[:-1] if "__init__" in vars(each)]
    taken = {name for each in constructors for name in inspect.signature(each).parameters}
    return taken - {"self", "name", "settings"}
