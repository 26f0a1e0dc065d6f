"""`gemini`: Google's Gemini over the Developer API (v1beta), by google-genai; streaming, asynchronous.

Importing the SDK takes most of a second, so it is imported in a worker thread that `start` sets off and
the first request waits for.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import warnings
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dvm.models.base import Blob, Chunk, Limits, ModelError, Prompt, Turn, Usage
from dvm.models.counting import approximate_tokens
from dvm.models.failures import scrub, well_formed
from dvm.models.gemini_answer import Answer
from dvm.models.gemini_errors import to_model_error
from dvm.models.gemini_media import Speech, output_config
from dvm.models.gemini_usage import Report
from dvm.models.gemini_wire import CALL_HEADER, Wire
from dvm.models.remote import GoogleModel

if TYPE_CHECKING:
    from google.genai import types

log = logging.getLogger(__name__)

# Once the model has said why it ended, the answer is whole; this long we wait for the stream's own end.
_LINGER_SECONDS = 5.0
_BYTES = "application/octet-stream"
_NO_REASON = "FINISH_REASON_UNSPECIFIED"


@dataclass(frozen=True, slots=True)
class _Sdk:
    """google-genai, imported and connected."""

    models: Any  # google.genai.models.AsyncModels
    types: Any  # google.genai.types
    api_error: type[Exception]
    wire: Wire
    sync_close: Any

    async def close(self) -> None:
        await self.wire.close()
        self.sync_close()


class GeminiModel(GoogleModel):
    """One Gemini model. `base_url` wins over GOOGLE_GEMINI_BASE_URL; None leaves it to that variable, or Google.

    thinking_budget (tokens; 0 is none), thinking_level: Gemini's settings of these names.
    """

    can_make = ("text", "image", "speech")

    def __init__(
        self, name: str, *, thinking_budget: int | None = None, thinking_level: str | None = None, **settings: Any
    ) -> None:
        super().__init__(name, **settings)
        self._thinking = {"thinking_budget": thinking_budget, "thinking_level": thinking_level}
        self._calls = itertools.count()
        self._loading: asyncio.Task[_Sdk] | None = None

    async def start(self) -> None:
        """Set off the import of the SDK. What is wrong with it shows at the first request."""
        if self._loading is None and not self._closed:
            self._loading = asyncio.create_task(asyncio.to_thread(self._load), name=f"load {self.name}")

    async def close(self) -> None:
        """See `Model.close`. Requests under way end with an error."""
        self._closed = True
        if self._loading is not None:
            loading, self._loading = self._loading, None
            (sdk,) = await asyncio.gather(loading, return_exceptions=True)
            if isinstance(sdk, _Sdk):
                await sdk.close()

    async def count_tokens(self, prompt: Prompt) -> int:
        """See `Model.count_tokens`.

        The Developer API counts no system instruction, so it is counted as one more turn, which costs
        at least what it costs as an instruction.
        """
        sdk = await self._sdk()
        turns = (Turn("user", (prompt.system,)), *prompt.turns) if prompt.system else prompt.turns
        call = self._call()
        try:
            async with asyncio.timeout(self._count_seconds):
                answer = await sdk.models.count_tokens(
                    model=self._model,
                    contents=_contents(sdk.types, turns),
                    config=sdk.types.CountTokensConfig(http_options=_http_options(sdk.types, call)),
                )
        except Exception as error:  # noqa: BLE001 (the SDK raises whatever a strange answer leads to)
            raise self._error(error, sdk, call, None) from None
        finally:
            await sdk.wire.end(call)
        count = answer.total_tokens
        if not isinstance(count, int) or not 0 < count < 10**9:
            raise ModelError("unavailable", "the count of tokens is missing or absurd")
        return count

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Chunk, None]:
        """See `Model.stream`.

        An answer that met the token limit before its first word is `length` with an empty text: the
        thoughts were used and are billed, as the limit that bounds both was the customer's. Text and then
        a filter is `safety`; a filter and no text is the error `blocked`.
        """
        self._require(limits)
        sdk = await self._sdk()
        call = self._call()
        answer, speech = Answer(own_input=approximate_tokens(prompt)), Speech()
        responses: Any = None
        seconds = self._first_chunk_seconds
        try:
            while True:
                try:
                    async with asyncio.timeout(seconds):
                        if responses is None:
                            responses = await sdk.models.generate_content_stream(
                                model=self._model,
                                contents=_contents(sdk.types, prompt.turns),
                                config=self._config(sdk.types, prompt, limits, call),
                            )
                        response = await anext(responses)
                except StopAsyncIteration:
                    break
                except Exception as error:  # noqa: BLE001 (the SDK raises whatever a strange answer leads to)
                    if answer.finish is not None:  # the answer is whole; only the connection is not
                        break
                    raise self._error(error, sdk, call, answer.used()) from None
                pieces = _take(answer, response)
                seconds = self._stall_seconds if answer.finish is None else _LINGER_SECONDS
                usage, _ = answer.usage()
                for piece in pieces:
                    text, blob = (piece, None) if isinstance(piece, str) else ("", speech.take(piece))
                    yield Chunk(text, blob, usage=usage, version=answer.version)
            last = answer.last(self.name, self._key)
            if (spoken := speech.file()) is not None:
                yield Chunk(blob=spoken, usage=last.usage, version=answer.version)
            yield last
        finally:
            await sdk.wire.end(call)
            if responses is not None:
                await responses.aclose()

    def _config(self, types_: Any, prompt: Prompt, limits: Limits, call: str) -> types.GenerateContentConfig:
        fields: dict[str, Any] = {
            "system_instruction": prompt.system or None,
            "max_output_tokens": min(limits.max_output_tokens, self.max_output_tokens),
            "temperature": limits.temperature,
            "top_p": limits.top_p,
            "top_k": limits.top_k,
            "stop_sequences": list(limits.stop) or None,
            "frequency_penalty": limits.frequency_penalty,
            **output_config(limits),
            "automatic_function_calling": {"disable": True},
            "http_options": _http_options(types_, call),
        }
        if "automatic_continuation" in types_.GenerateContentConfig.model_fields:
            # Newer SDKs go on by themselves with further requests, past the limit that was quoted.
            fields["automatic_continuation"] = False
        if any(setting is not None for setting in self._thinking.values()):
            fields["thinking_config"] = {k: v for k, v in self._thinking.items() if v is not None}
        config: types.GenerateContentConfig = types_.GenerateContentConfig(**fields)
        return config

    def _error(self, error: Exception, sdk: _Sdk, call: str, usage: Usage | None) -> ModelError:
        if self._closed:
            return ModelError("unavailable", f"model {self.name} was closed", usage=usage)
        if isinstance(error, TimeoutError):
            return ModelError("stalled", "nothing arrived for too long", usage=usage)
        return to_model_error(
            error, key=self._key, answered=sdk.wire.answered(call), usage=usage, api_error=sdk.api_error
        )

    def _call(self) -> str:
        return str(next(self._calls))

    async def _sdk(self) -> _Sdk:
        await self.start()
        if self._loading is None:
            raise ModelError("unavailable", f"model {self.name} is closed")
        try:
            # Shielded: one cancelled job must not take the import away from the others.
            return await asyncio.shield(self._loading)
        except Exception as error:  # noqa: BLE001 (an import may raise anything; it may name paths, not keys)
            text = f"google-genai cannot be set up ({type(error).__name__}: {scrub(str(error), self._key)})"
            raise ModelError("unavailable", text) from None

    def _load(self) -> _Sdk:
        """Import and set up the SDK; slow, so in a worker thread."""
        from google import genai
        from google.genai import errors, types

        # It warns of each word of the endpoint's that it does not know: nothing for our log on stderr.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"google\.genai\b")
        wire = Wire(max_response_bytes=self._max_response_bytes)
        client = genai.Client(
            api_key=self._key,
            vertexai=False,  # whatever GOOGLE_GENAI_USE_VERTEXAI says
            http_options=types.HttpOptions(
                base_url=self._base_url,
                api_version="v1beta",
                httpx_async_client=wire.client,
                retry_options=types.HttpRetryOptions(attempts=1),  # when to try again is the engine's decision
            ),
        )
        return _Sdk(client.aio.models, types, errors.APIError, wire, client.close)


def _take(answer: Answer, response: types.GenerateContentResponse) -> list[str | Blob]:
    """Bring `answer` up to date; the pieces of the answer that this response brought."""
    answer.version = response.model_version or answer.version
    if response.prompt_feedback is not None and response.prompt_feedback.block_reason is not None:
        answer.blocked = response.prompt_feedback.block_reason.value
    candidate = response.candidates[0] if response.candidates else None
    pieces: list[str | Blob] = []
    if candidate is not None:
        for part in (candidate.content.parts or ()) if candidate.content else ():
            if part.thought:  # a summary of the thoughts is no part of the answer
                continue
            if part.text:
                pieces.append(well_formed(part.text))
            elif part.inline_data is not None and part.inline_data.data:
                pieces.append(Blob(part.inline_data.mime_type or _BYTES, part.inline_data.data))
        if candidate.finish_reason is not None and candidate.finish_reason.value != _NO_REASON:
            answer.finish = candidate.finish_reason.value
    report = None
    if (metadata := response.usage_metadata) is not None:
        report = Report(
            prompt=metadata.prompt_token_count,
            cached=metadata.cached_content_token_count,
            candidates=metadata.candidates_token_count,
            thoughts=metadata.thoughts_token_count,
            tool_use=metadata.tool_use_prompt_token_count,
            total=metadata.total_token_count,
        )
    answer.add(pieces, report)
    return pieces


def _contents(types_: Any, turns: tuple[Turn, ...]) -> list[Any]:
    def part(raw: str | Blob) -> Any:
        if isinstance(raw, str):
            return types_.Part(text=raw)
        return types_.Part(inline_data=types_.Blob(mime_type=raw.mime, data=raw.data))

    return [types_.Content(role=turn.role, parts=[part(raw) for raw in turn.parts]) for turn in turns]


def _http_options(types_: Any, call: str) -> Any:
    return types_.HttpOptions(headers={CALL_HEADER: call})
