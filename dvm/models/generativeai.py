"""`google-generativeai`: Gemini by Google's former SDK, for whoever is pinned to it.

Google has ended its support; `gemini` is the same over its successor. It is synchronous (over REST it cannot
stream otherwise), so it works in threads of its own, one for each call. It does not know what thoughts cost: that
is what the total has beyond prompt and answer, marked as estimated. Errors within a stream are lost in it, which
shows as an answer that broke off; and it makes text only.
"""

from __future__ import annotations

import asyncio
import importlib.util
import math
import warnings
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dvm.models.base import Blob, Chunk, Limits, ModelError, Prompt, Turn, Usage
from dvm.models.counting import approximate_tokens
from dvm.models.failures import scrub, well_formed
from dvm.models.gemini_answer import Answer
from dvm.models.gemini_errors import to_model_error
from dvm.models.gemini_usage import Report
from dvm.models.remote import GoogleModel

if TYPE_CHECKING:
    from dvm.models.generativeai_wire import Call

INSTALL = (
    "google-generativeai is not installed; install it with: pip install 'lightning-dvm[google-generativeai]', "
    'or use the provider "gemini", which is the same'
)
# Calls at once, each of which keeps a thread; further ones wait.
_CALLS = 64
# Once the model has said why it ended, the answer is whole; so long we wait for the stream's own end.
_LINGER_SECONDS = 5.0
_BYTES = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class _Sdk:
    """The SDK, imported and connected."""

    client: Any  # GenerativeServiceClient, over REST
    protos: Any
    new_call: Any  # Call
    api_error: type[Exception]
    lost: tuple[type[Exception], ...]  # what a connection fails with


class GenerativeAiModel(GoogleModel):
    """One Gemini model. The settings are those of `GeminiModel`, but for thinking, of which this SDK knows nothing."""

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(name, **settings)
        self._path = self._model if "/" in self._model else f"models/{self._model}"
        self._threads = ThreadPoolExecutor(_CALLS, thread_name_prefix="generativeai")
        self._loading: asyncio.Future[_Sdk] | None = None
        self._calls: set[Call] = set()

    async def start(self) -> None:
        """Set off the import of the SDK, which takes a second. What is wrong with it shows at the first request."""
        if self._loading is None and not self._closed:
            self._loading = asyncio.get_running_loop().run_in_executor(self._threads, self._load)

    async def close(self) -> None:
        """See `Model.close`. Requests under way end with an error."""
        self._closed = True
        for call in list(self._calls):
            call.cancel()
        loading, self._loading = self._loading, None
        if loading is not None:
            await asyncio.gather(loading, return_exceptions=True)
            if not loading.cancelled() and loading.exception() is None:
                loading.result().client.transport.close()
        self._threads.shutdown(wait=False)

    async def count_tokens(self, prompt: Prompt) -> int:
        """See `Model.count_tokens`; the system instruction is counted as one more turn, as `GeminiModel` does."""
        sdk = await self._sdk()
        turns = (Turn("user", (prompt.system,)), *prompt.turns) if prompt.system else prompt.turns
        call = self._begin(sdk)

        def count() -> Any:
            request = sdk.protos.CountTokensRequest(model=self._path, contents=_contents(sdk.protos, turns))
            return sdk.client.count_tokens(request=request, retry=None, timeout=self._count_seconds)

        try:
            async with asyncio.timeout(self._count_seconds):
                counted = (await self._in_thread(call, count)).total_tokens
        except Exception as error:  # noqa: BLE001 (the SDK raises whatever a strange answer leads to)
            raise self._error(error, sdk, call, None) from None
        finally:
            self._end(call, None, whole=False)
        if not 0 < counted < 10**9:
            raise ModelError("unavailable", "the count of tokens is missing or absurd")
        return int(counted)

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Chunk, None]:
        """See `Model.stream`, and `GeminiModel.stream` for what ends an answer."""
        self._require(limits)
        sdk = await self._sdk()
        call, answer = self._begin(sdk), Answer(own_input=approximate_tokens(prompt))
        responses: Iterator[Any] | None = None
        seconds, whole = self._first_chunk_seconds, False

        def ask() -> Any:
            request = sdk.protos.GenerateContentRequest(
                model=self._path,
                contents=_contents(sdk.protos, prompt.turns),
                system_instruction=_content(sdk.protos, "user", (prompt.system,)) if prompt.system else None,
                generation_config=sdk.protos.GenerationConfig(**self._config(limits)),
            )
            # The time is for a thread that nobody waits for any more; ours is kept below.
            patience = max(self._first_chunk_seconds, self._stall_seconds)
            return sdk.client.stream_generate_content(request=request, retry=None, timeout=patience)

        try:
            while True:
                try:
                    async with asyncio.timeout(seconds):
                        if responses is None:
                            responses = await self._in_thread(call, ask)
                        response = await self._in_thread(call, next, responses, None)
                except Exception as error:  # noqa: BLE001 (the SDK raises whatever a strange answer leads to)
                    if answer.finish is not None and not self._closed:  # whole; only the connection is not
                        break
                    raise self._error(error, sdk, call, answer.used()) from None
                if response is None:
                    whole = True
                    break
                pieces = _take(answer, response)
                seconds = self._stall_seconds if answer.finish is None else _LINGER_SECONDS
                usage, _ = answer.usage()
                for piece in pieces:
                    text, blob = (piece, None) if isinstance(piece, str) else ("", piece)
                    yield Chunk(text, blob, usage=usage, version=answer.version)
            yield answer.last(self.name, self._key)
        finally:
            self._end(call, responses, whole=whole)

    def _config(self, limits: Limits) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "max_output_tokens": min(limits.max_output_tokens, self.max_output_tokens),
            "temperature": limits.temperature,
            "top_p": limits.top_p,
            "top_k": limits.top_k,
            "frequency_penalty": limits.frequency_penalty,
            "stop_sequences": list(limits.stop) or None,
        }
        for setting, value in fields.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ModelError("bad_request", f"{setting} is no number")
        return {setting: value for setting, value in fields.items() if value is not None}

    def _begin(self, sdk: _Sdk) -> Call:
        call: Call = sdk.new_call()
        self._calls.add(call)
        return call

    def _end(self, call: Call, responses: Any, *, whole: bool) -> None:
        self._calls.discard(call)
        if not whole:
            call.cancel()
            if responses is not None and not self._closed:
                self._threads.submit(responses.cancel)

    async def _in_thread(self, call: Call, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call.run, function, *arguments)

    def _error(self, error: Exception, sdk: _Sdk, call: Call, usage: Usage | None) -> ModelError:
        if self._closed:
            return ModelError("unavailable", f"model {self.name} was closed", usage=usage)
        if isinstance(error, ModelError):
            return error
        if isinstance(error, TimeoutError):
            return ModelError("stalled", "nothing arrived for too long", usage=usage)
        if isinstance(error, sdk.lost):
            what = "the stream broke off" if call.answered else "no connection"
            kind = type(error).__name__
            return ModelError("broken_off" if call.answered else "unavailable", f"{what} ({kind})", usage=usage)
        return to_model_error(error, key=self._key, answered=call.answered, usage=usage, api_error=sdk.api_error)

    async def _sdk(self) -> _Sdk:
        await self.start()
        if self._loading is None:
            raise ModelError("unavailable", f"model {self.name} was closed")
        try:
            # Shielded: one cancelled job must not take the import away from the others.
            return await asyncio.shield(self._loading)
        except ModelError as error:  # a new one for each: an exception collects the traces of all who raise it
            raise ModelError(error.code, str(error).partition(": ")[2]) from None
        except Exception as error:  # noqa: BLE001 (an import may raise anything; it may name paths, not keys)
            text = f"google-generativeai cannot be set up ({type(error).__name__}: {scrub(str(error), self._key)})"
            raise ModelError("unavailable", text) from None

    def _load(self) -> _Sdk:
        """Import and set up the SDK; slow, so in a worker thread. Raises ModelError `not_found` without it."""
        if not installed():
            raise ModelError("not_found", INSTALL)
        # It says on stderr, at its import, that it is no longer supported: our documentation does.
        warnings.filterwarnings("ignore", message=r"\s*All support for the `google\.generativeai`")
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"google\.(api_core|generativeai)\b")
        import google.generativeai as genai
        import requests
        import urllib3
        from google.ai.generativelanguage import GenerativeServiceClient
        from google.api_core.client_options import ClientOptions

        from dvm.models.generativeai_wire import ApiError, Call, harden

        options = ClientOptions(api_key=self._key, api_endpoint=self._base_url)
        client = GenerativeServiceClient(transport="rest", client_options=options)
        session = client.transport._session
        harden(session, max_response_bytes=self._max_response_bytes, connections=_CALLS)
        lost = (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError, OSError)
        return _Sdk(client, genai.protos, Call, ApiError, lost)


def installed() -> bool:
    try:
        return importlib.util.find_spec("google.generativeai") is not None
    except ModuleNotFoundError:
        return False


def _take(answer: Answer, response: Any) -> list[str | Blob]:
    """Bring `answer` up to date; the pieces of the answer that this response brought."""
    answer.version = response.model_version or answer.version
    if blocked := response.prompt_feedback.block_reason:
        answer.blocked = getattr(blocked, "name", str(blocked))
    candidate = response.candidates[0] if response.candidates else None
    pieces: list[str | Blob] = []
    if candidate is not None:
        for part in candidate.content.parts:
            if part.text:
                pieces.append(well_formed(part.text))
            elif part.inline_data.data:
                pieces.append(Blob(part.inline_data.mime_type or _BYTES, part.inline_data.data))
        if reason := candidate.finish_reason:
            answer.finish = getattr(reason, "name", str(reason))
    report = None
    if "usage_metadata" in response:
        used = response.usage_metadata
        # This form of protocol buffers does not tell a zero from what is absent.
        report = Report(
            prompt=used.prompt_token_count or None,
            cached=used.cached_content_token_count or None,
            candidates=used.candidates_token_count or None,
            total=used.total_token_count or None,
        )
    answer.add(pieces, report)
    return pieces


def _contents(protos: Any, turns: tuple[Turn, ...]) -> list[Any]:
    return [_content(protos, turn.role, turn.parts) for turn in turns]


def _content(protos: Any, role: str, parts: tuple[str | Blob, ...]) -> Any:
    def part(raw: str | Blob) -> Any:
        if isinstance(raw, str):
            return protos.Part(text=raw)
        return protos.Part(inline_data=protos.Blob(mime_type=raw.mime, data=raw.data))

    return protos.Content(role=role, parts=[part(raw) for raw in parts])
