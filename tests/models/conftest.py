from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from dvm.models.gemini import GeminiModel
from tests.standins.gemini import GeminiStandIn
from tests.standins.openai_api import OpenAIStandIn

GeminiFactory = Callable[..., GeminiModel]


@pytest.fixture(autouse=True, scope="session")
def one_tls_context() -> Iterator[None]:
    """Each client of the SDK reads the certificate authorities three times; no test here speaks TLS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield


@pytest.fixture
async def standin() -> AsyncIterator[GeminiStandIn]:
    async with GeminiStandIn() as server:
        yield server


@pytest.fixture
async def endpoint() -> AsyncIterator[OpenAIStandIn]:
    async with OpenAIStandIn() as server:
        yield server


@pytest.fixture
async def flash(standin: GeminiStandIn) -> AsyncIterator[GeminiFactory]:
    """Makes models at the stand-in, and closes them."""
    made = []

    def make(model: str = "gemini-2.5-flash", **settings: Any) -> GeminiModel:
        settings = {"api_key": standin.key, "base_url": standin.url, **settings}
        made.append(GeminiModel("flash", model=model, **settings))
        return made[-1]

    yield make
    for model in made:
        await model.close()
