"""`openai`: any endpoint that speaks OpenAI's chat completions: OpenAI, OpenRouter, Ollama, vLLM, llama.cpp, …"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx

from dvm.models.base import Chunk, Finish, Limits, ModelError, Prompt, Usage
from dvm.models.counting import approximate_text, approximate_tokens, estimate_tokens, with_unreported
from dvm.models.failures import is_key, scrub, well_formed
from dvm.models.openai_errors import said, to_model_error, within_stream
from dvm.models.openai_request import MEDIA, Dialect, body
from dvm.models.openai_usage import Contradiction, to_usage
from dvm.models.openai_wire import Exchange, Refused, Rejected, Wire
from dvm.models.remote import RemoteModel

log = logging.getLogger(__name__)

OPENAI = "https://api.openai.com/v1"
# Once the model has said why it ended, the answer is whole; so long we wait for the usage that follows it.
_LINGER_SECONDS = 5.0
# Why an answer ended (`finish_reason`), in the words of OpenAI, Text Generation Inference and Mistral. What
# is not here is no finish of ours.
_FINISHED: dict[str, Finish] = {
    "stop": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "model_length": "length",
    "content_filter": "safety",
}
_MAX_VERSION = 200
# Where an endpoint shows the thoughts: DeepSeek, vLLM, llama.cpp; OpenRouter, Ollama.
_THOUGHTS = ("reasoning_content", "reasoning")


@dataclass(slots=True)
class _Answer:
    """What is known of an answer while it comes."""

    own_input: int  # tokens, our approximation
    begun: bool = False  # the endpoint has begun to answer
    spoken: bool = False  # there was text
    refused: bool = False  # the model says that it will not answer
    tokens: int = 0  # of text, our approximation
    thoughts: int = 0  # tokens of what was shown of the thoughts, our approximation
    report: Usage | None = None
    reported: tuple[int, int] = (0, 0)  # `tokens` and `thoughts`, as they were when it came
    finish: str | None = None
    version: str | None = None

    def used(self) -> Usage | None:
        """The usage so far: what was reported, and what has come since. None where nothing was, which whoever asked
        counts; only the thoughts nobody but us has seen."""
        if self.report is not None:
            text, thoughts = self.reported
            return with_unreported(self.report, self.tokens - text, self.thoughts - thoughts)
        if self.thoughts:
            estimated = frozenset({"input", "output", "thoughts"})
            return Usage(self.own_input, 0, self.tokens, self.thoughts, estimated)
        return None

    def lost(self) -> Usage | None:
        """The usage of an answer that broke off; None when the model may have done nothing at all."""
        ours = frozenset({"input", "output"})
        return self.used() or (Usage(self.own_input, 0, self.tokens, 0, ours) if self.tokens else None)

    def take_report(self, raw: object) -> None:
        """What a piece says of the usage, if it does. Raises Contradiction."""
        found = to_usage(raw, own_input=self.own_input, own_output=self.tokens, own_thoughts=self.thoughts)
        if found is not None:
            self.report, self.reported = found, (self.tokens, self.thoughts)


class OpenAIModel(RemoteModel):
    """One model at one endpoint. `base_url` is where its API is, such as http://localhost:11434/v1; None is OpenAI.

    A server of one's own may need no key. Comments that keep a connection open are no pieces.

    Where the endpoint reports no usage, the chunks have none, unless it shows thoughts. Whether a setting of
    `Limits` is heeded is up to the endpoint: it refuses, or (Ollama, `top_k`) passes over, what it does not know.
    """

    takes: tuple[str, ...] = MEDIA  # what the protocol has a place for; whether a model can see, its operator knows

    def __init__(self, name: str, *, api_key: str = "", base_url: str | None = None, **settings: Any) -> None:
        if api_key and not is_key(api_key):
            raise ValueError(f"model {name}: the API key has a character that no key has; set OPENAI_API_KEY anew")
        if not api_key and base_url is None:
            raise ValueError(f"model {name}: needs an API key of OpenAI, or a base_url; set OPENAI_API_KEY")
        super().__init__(name, api_key=api_key, base_url=base_url, **settings)
        self._url = _chat_url(name, base_url or OPENAI)
        self._dialect = Dialect("max_tokens" if base_url else "max_completion_tokens")
        self._wire: Wire | None = None

    async def start(self) -> None:
        """Read the certificate authorities, which takes a moment. What is wrong shows at the first request."""
        self._connected()

    async def close(self) -> None:
        """See `Model.close`. Requests under way end with an error."""
        self._closed = True
        if self._wire is not None:
            await self._wire.close()

    async def count_tokens(self, prompt: Prompt) -> int:
        """An upper bound, see `estimate_tokens`: the protocol has no way to ask."""
        self._connected()
        return estimate_tokens(prompt)

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Chunk, None]:
        """See `Model.stream`.

        An answer that met the token limit before its first word is `length` with an empty text, if the
        usage shows that there were thoughts. Text and then a filter is `safety`; a filter and no text is the
        error `blocked`.
        """
        self._require(limits)
        answer = _Answer(approximate_tokens(prompt))
        seconds = self._first_chunk_seconds
        async with aclosing(self._pieces(prompt, limits, answer)) as pieces:
            while True:
                try:
                    async with asyncio.timeout(seconds):
                        piece = await anext(pieces, None)
                except (TimeoutError, Refused, Rejected, httpx.HTTPError, OSError, RuntimeError) as error:
                    if answer.finish is not None and not self._closed:  # whole; only the connection is not
                        break
                    raise self._error(error, answer) from None
                if piece is None:
                    break
                text = self._take(answer, piece)
                seconds = self._stall_seconds if answer.finish is None else _LINGER_SECONDS
                if text:
                    yield Chunk(text, usage=answer.used(), version=answer.version)
        yield self._last(answer)

    async def _pieces(self, prompt: Prompt, limits: Limits, answer: _Answer) -> AsyncGenerator[Any, None]:
        exchange = await self._ask(prompt, limits)
        answer.begun = True
        try:
            while (piece := await exchange.next()) is not None:
                yield piece
        finally:
            await exchange.close()

    async def _ask(self, prompt: Prompt, limits: Limits) -> Exchange:
        """The answer, once it begins; asked again where the endpoint says how it wants to be asked.

        Such a refusal comes before the model has seen anything, so it costs nobody anything.
        """
        wire = self._connected()
        headers = {"content-type": "application/json", "accept": "text/event-stream, application/json"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        while True:
            asked = body(prompt, limits, model=self._model, most=self.max_output_tokens, dialect=self._dialect)
            try:
                return await wire.post(self._url, headers, asked)
            except Rejected as error:
                if not self._dialect.learn(error.status, said(error.body)):
                    raise

    def _take(self, answer: _Answer, piece: Any) -> str:
        """Bring `answer` up to date; the text that this piece of it brought. Raises ModelError."""
        if (error := within_stream(piece, key=self._key, usage=answer.lost())) is not None:
            raise error
        if not isinstance(piece, dict):
            raise self._error(Refused("the endpoint's answer makes no sense: no object"), answer)
        if isinstance(version := piece.get("model"), str) and version:
            answer.version = scrub(version[:_MAX_VERSION], self._key)
        choices = piece.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        text = self._read(answer, choice) if isinstance(choice, dict) else ""  # else it has the usage alone
        try:
            answer.take_report(piece.get("usage"))
        except Contradiction as error:
            log.warning("model %s: the reported usage is dropped: %s", self.name, error)
        return text

    def _read(self, answer: _Answer, choice: dict[str, Any]) -> str:
        if isinstance(finish := choice.get("finish_reason"), str) and finish:
            answer.finish = finish
        delta = choice.get("delta") or choice.get("message")
        if not isinstance(delta, dict):
            return ""
        answer.refused = answer.refused or bool(delta.get("refusal"))
        thought = next((said for name in _THOUGHTS if isinstance(said := delta.get(name), str)), "")
        text = _text(delta.get("content"))
        answer.spoken = answer.spoken or bool(text)
        answer.tokens += approximate_text(text)
        answer.thoughts += approximate_text(thought)
        return text

    def _last(self, answer: _Answer) -> Chunk:
        """The chunk that ends the answer. Raises ModelError when there is none."""
        usage = answer.used()
        finish = _FINISHED.get(answer.finish or "")
        if answer.refused and finish is not None:
            finish = "safety"
        if finish == "safety" and not answer.spoken:
            raise ModelError("blocked", "a filter let nothing through", usage=usage)
        thought = finish == "length" and usage is not None and usage.output + usage.thoughts > 0
        if finish is not None and (answer.spoken or thought):
            return Chunk(usage=usage, finish=finish, version=answer.version)
        reason = scrub(answer.finish or "none", self._key)
        if self._closed:
            raise ModelError("unavailable", f"model {self.name} was closed", usage=answer.lost())
        if answer.finish is None:
            raise ModelError("broken_off", "the stream ended without a finish", usage=answer.lost())
        if answer.spoken:
            raise ModelError("broken_off", f"the answer is not whole: {reason}", usage=answer.lost())
        raise ModelError("empty", f"the model ended without an answer: {reason}", usage=usage)

    def _error(self, error: Exception, answer: _Answer) -> ModelError:
        if self._closed:
            return ModelError("unavailable", f"model {self.name} was closed", usage=answer.lost())
        if isinstance(error, TimeoutError):
            return ModelError("stalled", "nothing arrived for too long", usage=answer.lost())
        return to_model_error(error, key=self._key, answered=answer.begun, usage=answer.lost())

    def _connected(self) -> Wire:
        if self._closed:
            raise ModelError("unavailable", f"model {self.name} was closed")
        if self._wire is None:
            self._wire = Wire(max_response_bytes=self._max_response_bytes)
        return self._wire


def _text(content: object) -> str:
    """The text of a piece: a string, or (Mistral) a list of parts, of which the thoughts are no answer."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return well_formed(content) if isinstance(content, str) else ""


def _chat_url(name: str, base_url: str) -> httpx.URL:
    """Where to post. A query, which Azure needs, stays. Raises ValueError."""
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError(f"model {name}: base_url must be an http(s) address")
    if url.userinfo:  # it would go out instead of the API key, and stands in dvm.toml
        raise ValueError(f"model {name}: base_url must hold no user and no password")
    return url.copy_with(path=url.path.rstrip("/") + "/chat/completions")
