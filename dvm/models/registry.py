"""Every provider that dvm.toml can name. A new backend is one file and one line here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from dvm.models.base import Model
from dvm.models.echo import EchoModel
from dvm.models.embedded import EmbeddedModel
from dvm.models.gemini import GeminiModel
from dvm.models.generativeai import GenerativeAiModel
from dvm.models.openai import OpenAIModel

_PROVIDERS: dict[str, Callable[..., Model]] = {
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
    known = set(inspect.signature(factory).parameters) - {"name"}
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
        return factory(name, **settings, **(options or {}))
    except TypeError:  # a text where a number should be
        raise ValueError(f"model {name}: a setting is of the wrong type") from None
