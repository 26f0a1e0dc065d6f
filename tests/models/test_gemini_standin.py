"""The stand-in itself, as a process of its own: what the end-to-end tests build on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from dvm.models.gemini import GeminiModel
from tests.models.answers import FOX, ask, refused


@pytest.fixture
def process() -> Iterator[dict[str, str]]:
    command = [sys.executable, "-m", "tests.standins.gemini", "--port", "0", "--key", "k-1", "--thoughts", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        yield json.loads(running.stdout.readline())
        running.terminate()


async def test_it_serves_and_takes_orders(process: dict[str, str]) -> None:
    model = GeminiModel("flash", model="gemini-2.5-flash", api_key=process["key"], base_url=process["url"])
    answer = await ask(model)
    assert (answer.text, answer.usage.thoughts) == (FOX, 2)
    async with httpx.AsyncClient(base_url=process["url"]) as control:
        order = {"model": "gemini-2.5-flash", "script": {"status": 503, "times": 2}}
        assert (await control.post("/_control", json=order)).status_code == 200
        assert [(await refused(model)).code for _ in range(2)] == ["unavailable"] * 2
        assert (await ask(model)).text == FOX
        assert (await control.get("/_control")).json()["status 503"] == 2
        nonsense = await control.post("/_control", json={"script": {"no_such": 1}})
        assert nonsense.status_code == 400
        await control.delete("/_control")
        assert (await ask(model)).usage.thoughts == 0

        headers = {"x-goog-api-key": process["key"]}
        models = (await control.get("/v1beta/models", headers=headers)).json()["models"]
        assert {"models/gemini-2.5-flash", "models/gemini-fails-429"} <= {m["name"] for m in models}
        one = (await control.get("/v1beta/models/gemini-x", headers=headers)).json()
        assert one["outputTokenLimit"] > 0
        body = {"contents": [{"role": "user", "parts": [{"text": FOX}]}]}
        path = "/v1beta/models/gemini-x:generateContent"
        whole = (await control.post(path, json=body, headers=headers)).json()
        assert "".join(part["text"] for part in whole["candidates"][0]["content"]["parts"]) == FOX
        assert (await control.post(path, json=body)).status_code == 403
        assert (await control.post(path, content=b"{", headers=headers)).status_code == 400
    await model.close()
