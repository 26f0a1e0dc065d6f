"""The Gemini stand-in's endpoints: what the real API checks, and what a script has fail."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import orjson

from tests.standins.gemini_scripts import NAMED, Script, chunks_of, input_tokens

if TYPE_CHECKING:
    from tests.standins.gemini import Connection, GeminiStandIn

_STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


@dataclass(frozen=True)
class Recorded:
    """A request that was received, without its key."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Framing:
    """How the responses of a stream are put together: as server-sent events, or as the elements of an array."""

    array: bool
    begun: bool = False

    @property
    def content_type(self) -> str:
        return "application/json; charset=UTF-8" if self.array else "text/event-stream"

    def piece(self, data: bytes) -> bytes:
        if not self.array:
            return b"data: " + data + b"\r\n\r\n"
        before, self.begun = b",\r\n" if self.begun else b"[", True
        return before + data


class ApiError(Exception):
    """Becomes Google's error object."""

    def __init__(self, status: int, message: str, *, name: str | None = None, details: list[Any] | None = None):
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {
            "code": status,
            "message": message,
            "status": name or _STATUS_NAMES.get(status, "UNKNOWN"),
        }
        if details:
            self.body["details"] = details


async def route(
    server: GeminiStandIn, wire: Connection, method: str, target: str, headers: dict[str, str], body: bytes
) -> None:
    path, _, query = target.partition("?")
    if path == "/_control":
        _control(server, wire, method, body)
        return
    key = headers.pop("x-goog-api-key", None)
    payload: Any = None
    if body:
        try:
            payload = json.loads(body)
        except ValueError:
            raise ApiError(400, "Invalid JSON payload received.") from None
    server.requests.append(Recorded(method, target, headers, payload))
    server.count("requests")
    if key is None:
        raise ApiError(403, "Method doesn't allow unregistered callers (callers without established identity).")
    if key != server.key:
        reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
        raise ApiError(400, "API key not valid. Please pass a valid API key.", details=[reason])
    if method == "GET" and path == "/v1beta/models":
        wire.reply(200, {"models": [_model(server, name) for name in ("gemini-2.5-flash", *NAMED)]})
        return
    if not path.startswith("/v1beta/models/"):
        raise ApiError(404, f"no such path: {path}")
    model, _, verb = path.removeprefix("/v1beta/models/").partition(":")
    if not model.startswith("gemini"):
        raise ApiError(404, f"models/{model} is not found for API version v1beta")
    match method, verb:
        case "GET", "":
            wire.reply(200, _model(server, model))
        case "POST", "countTokens":
            await _count_tokens(server, wire, model, payload)
        case "POST", "generateContent" | "streamGenerateContent":
            stream = verb == "streamGenerateContent"
            framing = Framing(array=unquote(query).startswith("$alt=json"))
            if stream and query != "alt=sse" and not framing.array:
                raise ApiError(400, "this stand-in streams as server-sent events, alt=sse, or with $alt=json")
            await _generate(server, wire, model, payload, framing if stream else None)
        case _:
            raise ApiError(404, f"no such method: {method} {path}")


def _control(server: GeminiStandIn, wire: Connection, method: str, body: bytes) -> None:
    match method:
        case "GET":
            wire.reply(200, dict(server.counters))
        case "DELETE":
            server.forget()
            wire.reply(200, {})
        case _:
            try:
                order = json.loads(body)
                server.script(order.get("model", "*"), **(order.get("script") or {}))
            except (ValueError, TypeError, AttributeError) as error:
                raise ApiError(400, str(error)) from None
            wire.reply(200, {})


def _model(server: GeminiStandIn, name: str) -> dict[str, Any]:
    return {
        "name": f"models/{name}",
        "version": "001",
        "displayName": name,
        "inputTokenLimit": server.input_limit,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    }


async def _count_tokens(server: GeminiStandIn, wire: Connection, model: str, payload: Any) -> None:
    script = server.script_for(model, "count")
    await _fail(server, wire, script)
    if unknown := set(payload or {}) - {"contents", "generateContentRequest"}:
        raise ApiError(400, f'Invalid JSON payload received. Unknown name "{min(unknown)}": Cannot find field.')
    count = input_tokens(payload) if script.count is None else script.count
    server.count("counted")
    wire.reply(200, {"totalTokens": count, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": count}]})


async def _generate(server: GeminiStandIn, wire: Connection, model: str, payload: Any, framing: Framing | None) -> None:
    script = server.script_for(model, "generate")
    await _fail(server, wire, script)
    _check(server, payload)
    chunks = chunks_of(script, model, payload)
    if framing is None:
        whole = chunks[-1]
        parts = [part for c in chunks for k in c.get("candidates", ()) for part in k["content"]["parts"]]
        if parts:
            whole["candidates"][0]["content"]["parts"] = parts
        wire.reply(200, whole)
        server.count("answers")
        return
    if script.fault == "stall" and script.fault_after == 0:
        await wire.pause(None)
    wire.begin(200, framing.content_type, {"content-disposition": "attachment", **script.headers})
    for at, chunk in enumerate(chunks):
        if script.chunk_delay:
            await wire.pause(script.chunk_delay)
        line = orjson.dumps(chunk)
        if script.fault is not None and at >= script.fault_after:
            await _stream_fault(server, wire, script, framing, line)
            return
        wire.chunk(framing.piece(line))
    if script.fault is not None:  # after everything has been said
        await _stream_fault(server, wire, script, framing, b"")
        return
    if framing.array:
        wire.chunk(b"]")
    wire.end()
    server.count("answers")


async def _fail(server: GeminiStandIn, wire: Connection, script: Script) -> None:
    """What goes wrong before an answer. Raises ApiError, ConnectionError."""
    await wire.pause(script.delay)
    if script.fault == "reset" and script.fault_after == 0:
        server.count("reset")
        wire.abort()
        raise ConnectionError
    if script.status is None or script.fault == "error":
        return
    server.count(f"status {script.status}")
    error = ApiError(script.status, script.error_message, name=script.error_status, details=script.error_details)
    wire.reply(
        script.status,
        {"error": error.body} if script.raw_body is None else script.raw_body,
        script.headers,
    )
    wire.ready()
    raise ConnectionError


async def _stream_fault(server: GeminiStandIn, wire: Connection, script: Script, framing: Framing, line: bytes) -> None:
    server.count(str(script.fault))
    match script.fault:
        case "stall":
            await wire.pause(None)
        case "reset":
            await asyncio.sleep(0.05)  # so that what was written before does not die with the connection
            wire.abort()
        case "close":
            wire.hang_up()
        case "cut":
            wire.chunk(framing.piece(line)[: len(line) // 2])
            wire.hang_up()
        case "garbage":
            wire.chunk(framing.piece(b'{"candidates": [}'))
            wire.end()
        case "raw":
            wire.chunk(framing.piece((script.raw_body or "").encode()))
            wire.end()
        case "error":
            error = ApiError(script.status or 503, script.error_message)
            wire.chunk(framing.piece(orjson.dumps({"error": error.body})))
            wire.end()
        case _:
            wire.end()
    if script.fault in {"reset", "close", "cut"}:
        raise ConnectionError


def _check(server: GeminiStandIn, payload: Any) -> None:
    """What the real API refuses. Raises ApiError."""
    contents = payload.get("contents") if isinstance(payload, dict) else None
    if not contents:
        raise ApiError(400, "* GenerateContentRequest.contents: contents is not specified")
    for content in contents:
        if content.get("role", "user") not in {"user", "model"}:
            raise ApiError(400, "Please use a valid role: user, model.")
        if not content.get("parts"):
            raise ApiError(400, "* GenerateContentRequest.contents.parts: contents.parts must not be empty.")
    config = payload.get("generationConfig") or {}
    if config.get("maxOutputTokens", 1) < 1:
        raise ApiError(400, "max_output_tokens must be positive.")
    if not 0 <= config.get("temperature", 1) <= 2:
        raise ApiError(400, "temperature must be in the range [0.0, 2.0].")
    if len(config.get("stopSequences", ())) > 5:
        raise ApiError(400, "The number of stop sequences must not exceed 5.")
    if (count := input_tokens(payload)) > server.input_limit:
        raise ApiError(
            400,
            f"The input token count ({count}) exceeds the maximum number of tokens allowed ({server.input_limit}).",
        )
