"""What the Gemini stand-in answers: scripts, and the API's response objects that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

BLOB_TOKENS = 258
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Script:
    """How requests are answered. Without any setting: well.

    text: the answer; None repeats the prompt. chunk_chars: how much of it is in one chunk.
    fault, after `fault_after` chunks: `reset` (RST), `close` (FIN in mid-stream), `cut` (in the middle of a
    chunk's JSON), `garbage` (a data line that is no JSON), `end` (a proper end, but no finish), `error`
    (an error object in the stream, of status `status` or 503), `stall` (silence; the connection stays),
    `raw` (`raw_body` as a data line).
    usage: in which chunks; usage_set replaces fields of it, None removes them.
    chunks: the answer's response objects as they are, instead of all that.
    times: for so many requests only; None is for ever. endpoint: which it concerns.
    """

    text: str | None = None
    chunk_chars: int = 16
    thoughts: int = 0  # tokens
    thought_text: str = ""
    cached: int = 0
    tool_use: int = 0
    blob: tuple[str, str] | None = None  # media type, base64
    blobs: Sequence[tuple[str, str]] = ()  # further ones, each in a chunk of its own, before the text
    usage: Literal["every", "last", "first", "never"] = "every"
    usage_set: dict[str, Any] = field(default_factory=dict)
    chunks: Sequence[dict[str, Any]] | None = None
    finish: str | None = None  # instead of STOP or MAX_TOKENS; "" is none
    block_reason: str | None = None
    status: int | None = None
    error_status: str | None = None
    error_message: str = "scripted"
    error_details: list[Any] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    raw_body: str | None = None  # with `status`: instead of the error's JSON
    fault: Literal["reset", "close", "cut", "garbage", "end", "error", "stall", "raw"] | None = None
    fault_after: int = 0
    delay: float = 0.0  # seconds before the answer's first byte
    chunk_delay: float = 0.0
    count: Any = None  # what countTokens says, instead of the truth
    times: int | None = None
    endpoint: Literal["generate", "count", "any"] = "generate"


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "3.5s"}

NAMED: dict[str, Script] = {
    "gemini-fails-400": Script(status=400),
    "gemini-fails-401": Script(status=401),
    "gemini-fails-403": Script(status=403),
    "gemini-fails-404": Script(status=404),
    "gemini-fails-429": Script(status=429, error_details=[RETRY_INFO]),
    "gemini-fails-500": Script(status=500),
    "gemini-fails-503": Script(status=503),
    "gemini-resets": Script(fault="reset"),
    "gemini-breaks-off": Script(fault="cut", fault_after=1),
    "gemini-never-answers": Script(fault="stall"),
    "gemini-stalls": Script(fault="stall", fault_after=1),
    "gemini-empty": Script(text=""),
    "gemini-blocks": Script(block_reason="PROHIBITED_CONTENT"),
    "gemini-censors": Script(finish="SAFETY", text="Well, "),
    "gemini-thinks": Script(thoughts=40, thought_text="Let me think."),
    "gemini-without-usage": Script(usage="never"),
    "gemini-slow": Script(chunk_delay=0.2),
}


def chunks_of(script: Script, model: str, payload: dict[str, Any]) -> list[dict[str, Any]]:
    """The answer's chunks, as the script and the generation config will have them."""
    if script.chunks is not None:
        return list(script.chunks)
    prompt = input_tokens(payload)
    config = payload.get("generationConfig") or {}
    if script.block_reason is not None:
        blocked = {"promptFeedback": {"blockReason": script.block_reason}}
        return [_with_usage(script, {**blocked, "modelVersion": f"{model}-001"}, prompt, 0, 0)]
    text = _text(payload["contents"]) if script.text is None else script.text
    budget = config.get("maxOutputTokens", 65_536)
    thoughts = min(script.thoughts, budget)
    room = (budget - thoughts) * CHARACTERS_PER_TOKEN
    finish = "STOP"
    cuts = [at for stop in config.get("stopSequences", ()) if (at := text.find(stop)) >= 0]
    text = text[: min(cuts)] if cuts else text
    if len(text) > room or (thoughts and not room):
        text, finish = text[:room], "MAX_TOKENS"
    finish = finish if script.finish is None else script.finish

    pieces = [text[i : i + script.chunk_chars] for i in range(0, len(text), script.chunk_chars)] or [""]
    chunks = []
    if script.thought_text:
        part = {"text": script.thought_text, "thought": True}
        chunks.append(_with_usage(script, _candidate(model, [part], None), prompt, 0, thoughts))
    for number, (mime, data) in enumerate(script.blobs, 1):
        part = {"inlineData": {"mimeType": mime, "data": data}}
        chunks.append(_with_usage(script, _candidate(model, [part], None), prompt, number * BLOB_TOKENS, thoughts))
    shown_before = len(script.blobs) * BLOB_TOKENS
    said = 0
    for at, piece in enumerate(pieces):
        said += len(piece)
        parts: list[dict[str, Any]] = [{"text": piece}] if piece else []
        last = at == len(pieces) - 1
        if last and script.blob is not None:
            parts.append({"inlineData": {"mimeType": script.blob[0], "data": script.blob[1]}})
        chunk = _candidate(model, parts, (finish or None) if last else None)
        shown = {"every": True, "last": last, "first": not chunks, "never": False}[script.usage]
        output = _tokens(said) + shown_before + (BLOB_TOKENS if last and script.blob is not None else 0)
        chunks.append(_with_usage(script, chunk, prompt, output, thoughts) if shown else chunk)
    return chunks


def _candidate(model: str, parts: list[dict[str, Any]], finish: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "modelVersion": f"{model}-001", "responseId": "r-1"}


def _with_usage(script: Script, chunk: dict[str, Any], prompt: int, output: int, thoughts: int) -> dict[str, Any]:
    usage = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": output,
        "totalTokenCount": prompt + output + thoughts + script.tool_use,
        "cachedContentTokenCount": min(script.cached, prompt),
        "toolUsePromptTokenCount": script.tool_use,
        "thoughtsTokenCount": thoughts,
    }
    usage = {name: count for name, count in usage.items() if count}
    for name, value in script.usage_set.items():
        usage.pop(name, None)
        if value is not None:
            usage[name] = value
    return {**chunk, "usageMetadata": usage}


def _text(contents: list[dict[str, Any]]) -> str:
    return "\n".join(part["text"] for part in contents[-1]["parts"] if "text" in part)


def input_tokens(payload: dict[str, Any]) -> int:
    contents = list(payload.get("contents") or ())
    if system := payload.get("systemInstruction"):
        contents.append(system)
    parts = [part for content in contents for part in content.get("parts", ())]
    return sum(_tokens(len(part["text"])) if "text" in part else BLOB_TOKENS for part in parts)


def _tokens(characters: int) -> int:
    return -(-characters // CHARACTERS_PER_TOKEN)
