"""Each way in which a model fails, as `dvm doctor` shows it, and what it advises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dvm.doctor import models
from tests.commands.examined import Examined, doctor
from tests.commands.running import Runner
from tests.commands.shops import ECHO, write_shop
from tests.standins.gemini import GeminiStandIn
from tests.standins.relay import free_port, local_relay


async def examine(here: Path, dvm: Runner, tables: dict[str, dict[str, Any]]) -> Examined:
    async with local_relay() as url:
        write_shop(here, [url], models=tables)
        return await doctor(dvm)


def gemini(url: str, model: str = "gemini-2.5-flash", **more: Any) -> dict[str, Any]:
    prices = {"input": 300, "cached": 75, "output": 2500}
    return {"provider": "gemini", "model": model, "base_url": url, **prices, **more}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "test-gemini-key")


async def test_a_model_that_answers(here: Path, dvm: Runner) -> None:
    async with GeminiStandIn() as server:
        found = await examine(here, dvm, {"flash": gemini(server.url), "echo": ECHO})
        asked = [request for request in server.requests if "streamGenerateContent" in request.path]
    assert (found.code, found.failed) == (0, [])
    assert "tokens counted" in found.one("model", "flash")["seen"]
    assert found.one("model", "echo")["state"] == "ok"
    assert len(asked) == 1, "an answer costs money: one is enough"
    assert asked[0].body["generationConfig"]["maxOutputTokens"] == 1


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (400, "bad_request", "Correct the settings of [models.flash]"),
        (401, "unauthorized", "Set a valid key in GEMINI_API_KEY"),
        (403, "unauthorized", "Set a valid key in GEMINI_API_KEY"),
        (404, "not_found", "Correct models.flash.model"),
        (429, "rate_limited", "quota"),
        (503, "unavailable", "again later"),
    ],
)
async def test_what_the_provider_says(here: Path, dvm: Runner, status: int, code: str, advice: str) -> None:
    async with GeminiStandIn() as server:
        found = await examine(here, dvm, {"flash": gemini(server.url, f"gemini-fails-{status}"), "echo": ECHO})
    assert (found.code, found.failed) == (1, ["model"])
    failed = found.one("model", "flash")
    assert failed["seen"].startswith(code)
    assert advice in failed["advice"]
    assert found.one("model", "echo")["state"] == "ok"


async def test_a_model_that_does_not_write_is_not_asked_to(here: Path, dvm: Runner) -> None:
    async with GeminiStandIn() as server:
        found = await examine(here, dvm, {"speaks": gemini(server.url, "gemini-2.5-flash-preview-tts"), "echo": ECHO})
        assert not [request for request in server.requests if "Content" in request.path]
    assert (found.code, found.failed) == (0, [])
    assert "what it makes, speech, is not tried" in found.one("model", "speaks")["seen"]
    warned = [each["seen"] for each in found.all("configuration") if each["state"] == "warning"]
    assert "service[1].models: without speaks, as it makes no text; see models.NAME.makes" in warned


async def test_a_wrong_key(here: Path, dvm: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "another-gemini-key")
    async with GeminiStandIn() as server:
        found = await examine(here, dvm, {"flash": gemini(server.url)})
    assert found.failed == ["model"]
    assert "GEMINI_API_KEY" in found.one("model")["advice"]
    assert "another-gemini-key" not in found.ran.out


async def test_a_key_of_its_own_is_named_as_such(here: Path, dvm: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "another-gemini-key")
    async with GeminiStandIn() as server:
        found = await examine(here, dvm, {"flash": gemini(server.url, api_key_env="MY_KEY")})
    assert "valid key in MY_KEY" in found.one("model")["advice"]


async def test_nobody_listens(here: Path, dvm: Runner) -> None:
    found = await examine(here, dvm, {"flash": gemini(f"http://127.0.0.1:{free_port()}")})
    assert found.failed == ["model"]
    assert "reaches the provider" in found.one("model")["advice"]


async def test_silence_ends_in_time(here: Path, dvm: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "SECONDS", 1.0)
    async with GeminiStandIn() as server:
        server.script("*", fault="stall", endpoint="any")
        found = await examine(here, dvm, {"flash": gemini(server.url)})
    assert found.failed == ["model"]
    assert "no answer within 1 s" in found.one("model")["seen"]


async def test_an_answer_that_is_all_thoughts_is_an_answer(here: Path, dvm: Runner) -> None:
    async with GeminiStandIn() as server:
        server.script("*", thoughts=1, text="", finish="MAX_TOKENS")
        found = await examine(here, dvm, {"flash": gemini(server.url)})
    assert found.one("model")["state"] == "ok", found.ran.out


async def test_usage_that_is_not_told_is_a_warning(here: Path, dvm: Runner) -> None:
    async with GeminiStandIn() as server:
        server.script("*", usage="never")
        found = await examine(here, dvm, {"flash": gemini(server.url)})
    assert found.code == 0
    assert "per request" in found.one("model")["advice"]


async def test_more_tokens_billed_than_counted_is_a_warning(here: Path, dvm: Runner) -> None:
    async with GeminiStandIn() as server:
        server.script("*", count=1, endpoint="count")
        found = await examine(here, dvm, {"flash": gemini(server.url)})
    assert found.one("model")["state"] == "warning"
    assert "prices" in found.one("model")["advice"]


async def test_weights_that_are_not_there(here: Path, dvm: Runner) -> None:
    found = await examine(here, dvm, {"local": {**ECHO, "provider": "embedded", "model": "/no/such/weights.gguf"}})
    assert (found.code, found.failed) == (1, ["model"])
    assert "models.local.model" in found.one("model")["advice"]


async def test_settings_that_no_model_takes_are_a_configuration_error(here: Path, dvm: Runner) -> None:
    found = await examine(here, dvm, {"flash": gemini("ftp://127.0.0.1")})
    assert found.code == 2
    assert "models.flash.base_url" in found.one("configuration", "dvm.toml")["seen"]
