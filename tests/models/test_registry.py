from __future__ import annotations

from typing import Any

import pytest

from dvm.models.echo import EchoModel
from dvm.models.embedded import EmbeddedModel
from dvm.models.gemini import GeminiModel
from dvm.models.openai import OpenAIModel
from dvm.models.registry import PROVIDERS, make_model
from tests.models.answers import ask
from tests.standins.gemini import GeminiStandIn


async def test_gemini(standin: GeminiStandIn) -> None:
    model = make_model(
        "flash",
        "gemini",
        model="gemini-2.5-flash",
        base_url=standin.url,
        api_key=standin.key,
        max_output_tokens=3,
        options={"stall_seconds": 5},
    )
    assert isinstance(model, GeminiModel)
    assert (model.name, model.max_output_tokens) == ("flash", 3)
    assert (await ask(model)).last.finish == "length"
    await model.close()


def test_the_others_need_no_key_and_no_model() -> None:
    local = make_model("local", "embedded", model="", api_key="", max_output_tokens=8192)
    assert isinstance(local, EmbeddedModel)
    assert "smollm2" in repr(local)
    assert local.max_output_tokens == 2048, "no more than its context"
    echo = make_model("e", "echo", model="any", api_key="x", options={"chunk_tokens": 2, "delay": 0.0})
    assert isinstance(echo, EchoModel)


def test_a_server_of_ones_own_needs_no_key() -> None:
    model = make_model("m", "openai", model="llama3.2", base_url="http://localhost:11434/v1", api_key="")
    assert isinstance(model, OpenAIModel)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"provider": "nobody"}, f"no provider 'nobody'; there are {', '.join(PROVIDERS)}"),
        ({"provider": "gemini", "api_key": "s3cret"}, "`model` must name a model"),
        ({"provider": "gemini", "model": "m"}, "set GEMINI_API_KEY"),
        ({"provider": "openai", "api_key": "s3cret"}, "`model` must name a model"),
        ({"provider": "openai", "model": "m"}, "set OPENAI_API_KEY"),
        ({"provider": "openai", "model": "m", "api_key": "k", "options": {"count_seconds": 1}}, "no setting 'count_s"),
        ({"provider": "echo", "base_url": "http://x"}, "no setting 'base_url'"),
        ({"provider": "echo", "options": {"stall_seconds": 1}}, "no setting 'stall_seconds'"),
        ({"provider": "echo", "options": {"name": "x"}}, "no setting 'name'"),
        ({"provider": "gemini", "model": "m", "options": {"api_key": "s3cret"}}, "no setting 'api_key'"),
        ({"provider": "echo", "options": {"delay": "s3cret"}}, "wrong type"),
        ({"provider": "embedded", "options": {"parallel": 0}}, "at least 1"),
    ],
)
def test_what_cannot_be_is_said_for_the_operator(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match="model flash: ") as caught:
        make_model("flash", **arguments)
    assert says in str(caught.value)
    assert "s3cret" not in str(caught.value)
