"""What the tests of kinds do again and again: a request as a customer sends it, and what a model is asked for it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dvm.jobs import KINDS, Service
from dvm.jobs.kinds import Ask, Gathered, Kind, Part
from dvm.models import Blob
from dvm.models.gemini import GeminiModel
from dvm.nip90 import Input, InvalidRequest, JobRequest, parse_request, request_draft
from dvm.nostr.keys import Keys
from dvm.pricing import FREE
from tests.standins.gemini import GeminiStandIn

SYSTEM = "Write for children."


def request(kind: int, *texts: str | Input, **fields: Any) -> JobRequest:
    """Signed, and read back; the fields are those of `request_draft`."""
    keys = Keys.generate()
    return parse_request(request_draft(kind, texts, **fields).sign(keys, int(time.time())), keys)


def understood(asked: JobRequest, *contents: str | Blob, kind: Kind | None = None) -> Ask:
    """As a model is to be asked, by an operator with an instruction of their own. Raises InvalidRequest."""
    sold = Service(kind or KINDS[asked.kind], ("flash",), {"flash": FREE}, systems={"flash": SYSTEM})
    sold.kind.check(asked)
    found = contents or [each.data for each in asked.inputs if each.type == "text"]
    return sold.read(asked, Gathered(tuple(Part(content) for content in found)), "flash")


def refusal(kind: int, params: Sequence[Sequence[str]], **fields: Any) -> str:
    """What the customer is told, before anything is fetched."""
    with pytest.raises(InvalidRequest) as caught:
        KINDS[kind].check(request(kind, "x", params=params, **fields))
    return str(caught.value)


@asynccontextmanager
async def gemini(name: str = "gemini-2.5-flash") -> AsyncIterator[tuple[GeminiStandIn, GeminiModel]]:
    async with GeminiStandIn() as standin:
        model = GeminiModel("flash", model=name, api_key=standin.key, base_url=standin.url)
        await model.start()
        try:
            yield standin, model
        finally:
            await model.close()


async def body_of(ask: Ask) -> Any:
    """The body of the request that Gemini's endpoint gets."""
    makes = {"text": "", "image": "-image", "speech": "-preview-tts"}
    async with gemini(f"gemini-2.5-flash{makes[ask.output]}") as (standin, model):
        async for _ in model.stream(ask.prompt, ask.limits(ask.max_tokens or 500)):
            pass
        return standin.requests[-1].body


def instruction(body: Any) -> str:
    """The system instruction in it."""
    return "".join(part["text"] for part in body["systemInstruction"]["parts"])


def parts(body: Any) -> list[Any]:
    """Those of the one turn in it."""
    (turn,) = body["contents"]
    assert turn["role"] == "user"
    return list(turn["parts"])
