"""What a model behind an address makes: by its name, or by what its operator says."""

from __future__ import annotations

from typing import Any

import pytest

from dvm.models.base import ModelError, Output, Prompt
from dvm.models.gemini import GeminiModel
from dvm.models.generativeai import GenerativeAiModel
from dvm.models.openai import OpenAIModel
from dvm.models.registry import PROVIDERS, makes
from dvm.models.router import Router
from tests.models.answers import refused


@pytest.mark.parametrize(
    ("model", "gemini", "others"),
    [
        ("gemini-2.5-flash", ("text",), ("text",)),
        ("models/gemini-3-pro-preview", ("text",), ("text",)),
        ("gemini-2.5-flash-image", ("image",), ()),
        ("gemini-3-pro-image-preview", ("image",), ()),
        ("gemini-2.5-pro-preview-tts", ("speech",), ()),
        ("gemini-embedding-001", (), ()),
        ("veo-3.0-generate-001", (), ()),
        ("gpt-image-1", ("image",), ()),
        ("gpt-4o-mini-tts", ("speech",), ()),
        ("dall-e-3", (), ()),
        ("text-embedding-3-small", (), ()),
        ("nomic-embed-text", (), ()),
        ("whisper-1", (), ()),
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", ("text",), ("text",)),
        ("imagination-7b", ("text",), ("text",)),
        ("ttsmaker", ("text",), ("text",)),
    ],
)
def test_a_name_tells_what_its_model_makes(model: str, gemini: tuple[Output, ...], others: tuple[Output, ...]) -> None:
    assert GeminiModel("m", model=model, api_key="k").makes == makes("gemini", model) == gemini
    assert OpenAIModel("m", model=model, api_key="k").makes == makes("openai", model) == others
    assert GenerativeAiModel("m", model=model, api_key="k").makes == makes("google-generativeai", model) == others


def test_the_operator_knows_better_than_the_name() -> None:
    both: tuple[Output, ...] = ("image", "text")
    assert GeminiModel("m", model="gemini-next", api_key="k", makes=both).makes == ("text", "image")
    assert makes("gemini", "gemini-next", both) == ("text", "image")
    assert OpenAIModel("m", model="image-reader", api_key="k", makes=("text",)).makes == ("text",)


def test_every_provider_says_what_its_models_make() -> None:
    assert all(makes(provider, "some-model") == ("text",) for provider in PROVIDERS)


@pytest.mark.parametrize("model", [OpenAIModel, GenerativeAiModel])
def test_what_a_provider_has_no_way_to_ask_for_cannot_be_made(model: Any) -> None:
    with pytest.raises(ValueError, match="model m: this provider has no way to ask for image"):
        model("m", model="x", api_key="k", makes=("text", "image"))


async def test_a_model_is_only_asked_for_what_it_makes() -> None:
    writes = GeminiModel("writes", model="gemini-2.5-flash", api_key="k", base_url="http://127.0.0.1:9")
    speaks = GeminiModel("speaks", model="gemini-2.5-flash-preview-tts", api_key="k", base_url="http://127.0.0.1:9")
    for model, output in ((writes, "image"), (writes, "speech"), (speaks, "text"), (speaks, "image")):
        error = await refused(model, output=output)
        assert error.code == "bad_request"
        assert str(error).endswith(f"makes {model.makes[0]}, no {output}")
    assert isinstance(error, ModelError)


def test_no_model_is_a_candidate_for_what_it_does_not_make_however_cheap_it_is() -> None:
    names = {"writes": "gemini-2.5-flash", "paints": "gemini-2.5-flash-image", "speaks": "gemini-2.5-flash-tts"}
    models = {name: GeminiModel(name, model=model, api_key="k") for name, model in names.items()}
    router, every, prompt = Router(models), list(names), Prompt.of("x")
    for cheapest in every:

        def price(name: str, cheapest: str = cheapest) -> int:
            return 0 if name == cheapest else 1

        assert router.candidates(every, prompt, output="text", price=price) == ["writes"]
        assert router.candidates(every, prompt, output="image", price=price) == ["paints"]
        assert router.candidates(every, prompt, output="speech", price=price) == ["speaks"]
