"""`Prompt` and `Limits` → the body of a request for a chat completion.

https://platform.openai.com/docs/api-reference/chat/create; `top_k` is no part of it, but most servers have it.
"""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from typing import Any

from dvm.models.base import Blob, Limits, ModelError, Prompt, Turn

_ROLES = {"user": "user", "model": "assistant"}
# Sound is named by the format of its file (`input_audio`).
_SOUND = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
}
MEDIA = ("image/", "application/pdf", *_SOUND)
_SETTINGS = ("temperature", "top_p", "top_k", "frequency_penalty")


@dataclass(slots=True)
class Dialect:
    """In what servers differ, as far as their refusals have taught us.

    Nearly all know `max_tokens`; OpenAI's own newer models refuse it and want `max_completion_tokens`. A few
    older ones do not know `stream_options`.
    """

    limit: str
    stream_options: bool = True

    def learn(self, status: int, text: str) -> bool:
        """Whether this refusal says what to do otherwise; then it will be done from now on."""
        if status not in {400, 422}:
            return False
        if self.limit == "max_tokens" and "max_completion_tokens" in text:
            self.limit = "max_completion_tokens"
            return True
        if self.stream_options and "stream_options" in text:
            self.stream_options = False
            return True
        return False


def body(prompt: Prompt, limits: Limits, *, model: str, most: int, dialect: Dialect) -> bytes:
    """The request, in JSON. most: the model's own limit of output tokens. Raises ModelError `bad_request`."""
    request: dict[str, Any] = {
        "model": model,
        "messages": messages(prompt),
        dialect.limit: min(limits.max_output_tokens, most),
        "stream": True,
    }
    if dialect.stream_options:
        request["stream_options"] = {"include_usage": True}
    for setting in _SETTINGS:
        if (value := getattr(limits, setting)) is not None:
            if not math.isfinite(value):
                raise ModelError("bad_request", f"{setting} is no number")
            request[setting] = value
    if stop := [text for text in limits.stop if text]:
        request["stop"] = stop
    try:
        return json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise ModelError("bad_request", "the prompt is no valid Unicode") from None


def messages(prompt: Prompt) -> list[dict[str, Any]]:
    """The chat. Raises ModelError `bad_request` for what has no place in it."""
    found: list[dict[str, Any]] = [{"role": "system", "content": prompt.system}] if prompt.system else []
    found += [{"role": _ROLES[turn.role], "content": _content(turn)} for turn in prompt.turns]
    if not any(message["content"] for message in found):
        raise ModelError("bad_request", "the prompt is empty")
    return found


def _content(turn: Turn) -> str | list[dict[str, Any]]:
    texts = [part for part in turn.parts if isinstance(part, str)]
    if len(texts) == len(turn.parts):
        return "\n".join(texts)  # many servers take nothing else
    if turn.role != "user":
        raise ModelError("bad_request", "what the model answered before can only be text")
    return [{"type": "text", "text": part} if isinstance(part, str) else _media(part) for part in turn.parts]


def _media(blob: Blob) -> dict[str, Any]:
    """One part of a message. Whether the model behind it can see or hear, only its endpoint knows."""
    mime = blob.mime.partition(";")[0].strip().lower()
    data = base64.b64encode(blob.data).decode()
    if mime.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{data}"}}
    if mime in _SOUND:
        return {"type": "input_audio", "input_audio": {"data": data, "format": _SOUND[mime]}}
    if mime == "application/pdf":
        document = {"filename": "document.pdf", "file_data": f"data:{mime};base64,{data}"}
        return {"type": "file", "file": document}
    raise ModelError("bad_request", f"the OpenAI protocol has no place for {mime[:60]}")
