"""A stand-in for an OpenAI-compatible endpoint on loopback, which can fail in every known way.

`async with OpenAIStandIn() as openai: … openai.url, openai.key`; it answers as `openai.script(…)` says, by
default well: it repeats the last message. It counts a token per four characters.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from tests.standins.loopback import Loopback, Receive, Scope, Send

CHARACTERS_PER_TOKEN = 4
_FIELDS = {
    *("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens"),
    *("temperature", "top_p", "top_k", "frequency_penalty", "stop"),
}


@dataclass(frozen=True)
class Script:
    """How requests are answered. Without any setting: well.

    text: the answer; None repeats the prompt. usage: in which pieces, the last being one without choices;
    usage_set replaces fields of it, None removes them; usage_raw replaces all of it.
    fault, after `fault_after` pieces: `stall` (silence; the connection stays), `cut` (the connection ends in the
    middle of a piece), `reset` (it is aborted), `end` (a proper end, but neither a finish nor [DONE]).
    pieces: the answer's objects as they are. raw: instead of an answer, what is sent as it is.
    plain: one JSON object instead of a stream.
    times: for so many requests only; None is for ever.
    """

    text: str | None = None
    chunk_chars: int = 8
    thoughts: int = 0  # tokens
    cached: int = 0  # tokens
    usage: Literal["last", "every", "never"] = "last"
    usage_set: dict[str, Any] = field(default_factory=dict)
    usage_raw: Any = None
    finish: str | None = None  # instead of stop or length; "" is none
    delta: dict[str, Any] | None = None  # one more, after the text
    error: Any = None  # the object `error`, after `fault_after` pieces
    status: int | None = None
    body: Any = None  # with `status`: the error's JSON, or text as it is
    headers: dict[str, str] = field(default_factory=dict)
    fault: Literal["stall", "cut", "reset", "end"] | None = None
    fault_after: int = 0
    pieces: Sequence[dict[str, Any]] | None = None
    raw: bytes | None = None
    content_type: str = "text/event-stream"
    plain: bool = False
    done: bool = True
    keep_alives: bool = False
    times: int | None = None


class OpenAIStandIn:
    """The server. `requests`: the bodies received; `counters`: by outcome, and `disconnects` those answers from
    which the client walked away. `strict`: "max_completion_tokens" or "stream_options", which it insists on, or
    does not know."""

    def __init__(self, *, key: str = "sk-of-the-test", input_limit: int = 100_000) -> None:
        self.key = key
        self.input_limit = input_limit
        self.strict: set[str] = set()
        self.requests: deque[Any] = deque(maxlen=1000)
        self.headers: deque[dict[str, str]] = deque(maxlen=1000)
        self.counters: Counter[str] = Counter()
        self._script = Script()
        self._play: deque[Script] = deque()
        self._changed = asyncio.Event()
        self._loopback = Loopback(self._serve)

    @property
    def url(self) -> str:
        return f"{self._loopback.url}/v1"

    async def __aenter__(self) -> Self:
        await self._loopback.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Refuse connections from now on, and cut those that there are."""
        await self._loopback.stop()

    def script(self, **settings: Any) -> None:
        """From now on it answers like this; no settings: as by default."""
        self._script = Script(**settings)

    def play(self, *scripts: Script) -> None:
        """The next answers are these, one after the other."""
        self._play = deque(scripts)

    async def until(self, what: str, at_least: int = 1, *, seconds: float = 10.0) -> None:
        """Wait until the counter has reached this. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while self.counters[what] < at_least:
                self._changed.clear()
                await self._changed.wait()

    def _count(self, what: str) -> None:
        self.counters[what] += 1
        self._changed.set()

    def _next_script(self) -> Script:
        if self._play:
            return self._play.popleft()
        script = self._script
        if script.times is not None:
            left = script.times - 1
            self._script = Script(**{**script.__dict__, "times": left}) if left > 0 else Script()
        return script

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self._count("requests")
        authorization = headers.pop("authorization", "")
        self.headers.append(headers)
        if scope["path"] != "/v1/chat/completions" or scope["method"] != "POST":
            await _reply(send, 404, {"error": {"message": f"no such path: {scope['path']}"}})
            return
        if self.key and authorization != f"Bearer {self.key}":
            wrong = {"message": f"Incorrect API key provided: {authorization}.", "code": "invalid_api_key"}
            await _reply(send, 401, {"error": wrong})
            return
        request = json.loads(body)
        self.requests.append(request)
        if refusal := self._refusal(request):
            await _reply(send, 400, {"error": {"type": "invalid_request_error", **refusal}})
            return
        script = self._next_script()
        if script.status is not None:
            await _reply(send, script.status, script.body or {"error": {"message": "scripted"}}, script.headers)
            return
        gone = asyncio.create_task(_until_gone(receive))
        answering = asyncio.create_task(self._answer(send, script, request))
        try:
            await asyncio.wait({gone, answering}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
            else:
                self._count("disconnects")
        finally:
            for task in (gone, answering):
                task.cancel()

    def _refusal(self, request: dict[str, Any]) -> dict[str, str] | None:
        """What the real API refuses."""
        if unknown := set(request) - _FIELDS:
            return {"message": f"Unrecognized request argument supplied: {min(unknown)}"}
        if "max_completion_tokens" in self.strict and "max_tokens" in request:
            says = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
            return {"message": says, "code": "unsupported_parameter"}
        if "stream_options" in self.strict and "stream_options" in request:
            return {"message": "Extra inputs are not permitted: stream_options"}
        if not request.get("messages"):
            return {"message": "[] is too short - 'messages'"}
        if any(message["role"] not in {"system", "user", "assistant"} for message in request["messages"]):
            return {"message": "no such role"}
        if _limit(request) < 1:
            return {"message": "max_tokens must be at least 1"}
        if _tokens_in(request) > self.input_limit:
            return {"message": "This model's maximum context length is less", "code": "context_length_exceeded"}
        return None

    async def _answer(self, send: Send, script: Script, request: dict[str, Any]) -> None:
        headers = {"content-type": script.content_type, **script.headers}
        pieces = _pieces(script, request)
        if script.plain:
            whole = {**pieces[-2], "usage": pieces[-1].get("usage")}
            text = "".join(p["choices"][0]["delta"].get("content", "") for p in pieces if p["choices"])
            whole["choices"][0]["message"] = {"role": "assistant", "content": text}
            await _reply(send, 200, whole)
            return
        await _begin(send, 200, headers)
        if script.raw is not None:
            await _more(send, script.raw)
            await _end(send)
            return
        if script.keep_alives:
            await _more(send, b": OPENROUTER PROCESSING\n\n" * 3)
        for at, piece in enumerate(pieces):
            line = f"data: {json.dumps(piece)}\n\n".encode()
            if at == script.fault_after and script.error is not None:
                await _more(send, f"data: {json.dumps({'error': script.error})}\n\n".encode())
                break
            if at == script.fault_after and script.fault is not None:
                await self._fail(send, script, line)
                return
            await _more(send, line)
        if script.fault is not None and script.fault_after >= len(pieces):
            await self._fail(send, script, b"")
            return
        if script.done:
            await _more(send, b"data: [DONE]\n\n")
        await _end(send)
        self._count("answers")

    async def _fail(self, send: Send, script: Script, line: bytes) -> None:
        self._count(str(script.fault))
        match script.fault:
            case "stall":
                await asyncio.Event().wait()
            case "cut":  # whoever returns without an end has his connection closed
                await _more(send, line[: len(line) // 2])
            case "reset":
                self._loopback.cut()
            case _:
                await _end(send)


def _pieces(script: Script, request: dict[str, Any]) -> list[dict[str, Any]]:
    """The answer's pieces, as the script and the request will have them."""
    if script.pieces is not None:
        return list(script.pieces)
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": f"{request['model']}-2026"}
    text = _last_text(request) if script.text is None else script.text
    room = max(0, _limit(request) - script.thoughts) * CHARACTERS_PER_TOKEN
    finish = "stop" if len(text) <= room else "length"
    text, spoken = text[:room], 0
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": text[at : at + script.chunk_chars]} for at in range(0, len(text), script.chunk_chars)]
    deltas += [script.delta] if script.delta is not None else []
    pieces = []
    for delta in deltas:
        spoken += len(str(delta.get("content") or ""))
        usage = _usage(script, request, spoken) if script.usage == "every" else None
        pieces.append({**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": None}], "usage": usage})
    ended = (finish if script.finish is None else script.finish) or None
    pieces.append({**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": ended}]})
    if script.usage != "never" and request.get("stream_options", {}).get("include_usage"):
        pieces.append({**frame, "choices": [], "usage": _usage(script, request, len(text))})
    return pieces


def _usage(script: Script, request: dict[str, Any], spoken: int) -> Any:
    if script.usage_raw is not None:
        return script.usage_raw
    prompt = _tokens_in(request)
    completion = -(-spoken // CHARACTERS_PER_TOKEN) + min(script.thoughts, _limit(request))
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": script.cached},
        "completion_tokens_details": {"reasoning_tokens": min(script.thoughts, _limit(request))},
        **script.usage_set,
    }
    return {key: value for key, value in usage.items() if value is not None}


def _limit(request: dict[str, Any]) -> int:
    return int(request.get("max_tokens", request.get("max_completion_tokens", 1 << 20)))


def _texts(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _last_text(request: dict[str, Any]) -> str:
    return _texts(request["messages"][-1])


def _tokens_in(request: dict[str, Any]) -> int:
    return sum(-(-len(_texts(message)) // CHARACTERS_PER_TOKEN) for message in request["messages"])


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _begin(send: Send, status: int, headers: dict[str, str]) -> None:
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})


async def _more(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _end(send: Send) -> None:
    await send({"type": "http.response.body", "body": b""})


async def _reply(send: Send, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    text = isinstance(body, str)
    data = body.encode() if text else json.dumps(body).encode()
    kind = "text/html" if text else "application/json"
    await _begin(send, status, {"content-type": kind, "content-length": str(len(data)), **(headers or {})})
    await _more(send, data)
    await _end(send)
