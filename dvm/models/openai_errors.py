"""What an OpenAI-compatible endpoint says of its failures → `ModelError`. No secret passes through here.

The endpoint tells an error by its HTTP status, or within a stream that had begun well (there is no other
place left); the object is `{"error": {"message", "type", "code"}}`, of which servers vary every part.
Codes: https://platform.openai.com/docs/guides/error-codes, https://openrouter.ai/docs/api-reference/errors
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import httpx

from dvm.models.base import ErrorCode, ModelError, Usage
from dvm.models.failures import MAX_RETRY_AFTER, by_status, retry_after, scrub
from dvm.models.openai_wire import NoApi, Refused, Rejected

# The error's own names, where they are more exact than its status: an account without credit is a 429 too,
# but waiting does not fill it.
_EXACT: dict[str, ErrorCode] = {
    "insufficient_quota": "unauthorized",
    "billing_hard_limit_reached": "unauthorized",
    "billing_not_active": "unauthorized",
    "account_deactivated": "unauthorized",
    "invalid_api_key": "unauthorized",
    "authentication_error": "unauthorized",
    "permission_error": "unauthorized",
    "model_not_found": "not_found",
    "not_found_error": "not_found",
    "context_length_exceeded": "bad_request",
    "exceed_context_size_error": "bad_request",
    "content_filter": "blocked",
    "content_policy_violation": "blocked",
    "rate_limit_exceeded": "rate_limited",
    "rate_limit_error": "rate_limited",
}
# Those that count only where there is no status.
_VAGUE: dict[str, ErrorCode] = {"invalid_request_error": "bad_request", "BadRequestError": "bad_request"}
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def to_model_error(error: Exception, *, key: str, answered: bool, usage: Usage | None) -> ModelError:
    """The ModelError that `error` amounts to.

    key: the API key, taken out of whatever the endpoint said. answered: the answer had begun.
    usage: what was used up to then.
    """
    if isinstance(error, Rejected):
        return _rejected(error, key)
    code: ErrorCode = "broken_off" if answered and not isinstance(error, NoApi) else "unavailable"
    if isinstance(error, Refused):
        text = str(error)
    elif answered:
        text = f"the stream broke off ({type(error).__name__})"
    else:
        text = f"no connection ({type(error).__name__})"
    return ModelError(code, scrub(text, key), usage=usage)


def within_stream(body: Any, *, key: str, usage: Usage | None) -> ModelError | None:
    """The error that a piece of a stream is, if it is one."""
    if not isinstance(body, dict) or not (body.get("error") or body.get("object") == "error"):
        return None
    code = _code(_status_of(body), body)
    return ModelError(code, scrub(f"error within the stream: {said(body)}", key), usage=usage)


def said(body: Any) -> str:
    """The error's own words; nothing of a web page."""
    error = _error(body)
    text = error.get("message") or error.get("detail") or ""
    if isinstance(text, str) and text:
        raw = error.get("metadata")
        more = raw.get("raw") if isinstance(raw, dict) else None  # OpenRouter: what the provider behind it said
        return f"{text} ({more})" if isinstance(more, str) and more else text
    if isinstance(body, str):
        return "it sent a web page instead of JSON" if "<" in body[:200] else body.strip()[:500]
    return str(text)[:500] if text else "it did not say why"


def _rejected(error: Rejected, key: str) -> ModelError:
    text = f"HTTP {error.status}: {said(error.body)}"
    if 300 <= error.status < 400:
        text = f"HTTP {error.status}: the endpoint sends us elsewhere; is base_url right?"
    elif error.status == httpx.codes.METHOD_NOT_ALLOWED:
        text = "HTTP 405: there is no chat here; does base_url lead to the API (…/v1)?"
    lost = error.status == httpx.codes.METHOD_NOT_ALLOWED
    code: ErrorCode = "not_found" if lost else _code(error.status, error.body)
    wait = _wait(error.headers) if code in {"rate_limited", "unavailable"} else None
    return ModelError(code, scrub(text, key), retry_after=wait)


def _code(status: int | None, body: Any) -> ErrorCode:
    error = _error(body)
    metadata = error.get("metadata")
    if status == httpx.codes.FORBIDDEN and isinstance(metadata, dict) and metadata.get("reasons"):
        return "blocked"  # OpenRouter's moderation
    names = [name for name in (error.get("code"), error.get("type")) if isinstance(name, str)]
    for name in names:
        if name in _EXACT:
            return _EXACT[name]
    if status is not None:
        return by_status(status)
    return next((_VAGUE[name] for name in names if name in _VAGUE), "unavailable")


def _status_of(body: Any) -> int | None:
    """The HTTP status that an error object names."""
    error = _error(body)
    for value in (error.get("code"), error.get("status_code"), error.get("status")):
        number = int(value) if isinstance(value, str) and re.fullmatch(r"[1-5]\d\d", value) else value
        if isinstance(number, int) and not isinstance(number, bool) and 300 <= number <= 599:
            return number
    return None


def _error(body: Any) -> dict[str, Any]:
    inner = body.get("error", body) if isinstance(body, dict) else None
    if isinstance(inner, str):
        return {"message": inner}
    return inner if isinstance(inner, dict) else {}


def _wait(headers: Mapping[str, str]) -> float | None:
    """Seconds: Retry-After, else how long until OpenAI's limits of requests and tokens are whole again."""
    if (wait := retry_after(headers)) is not None:
        return wait
    waits = []
    for what in ("-requests", "-tokens", ""):
        reset = headers.get(f"x-ratelimit-reset{what}")
        # Of two limits, the one that still has something left is not the one that was met.
        if reset is not None and headers.get(f"x-ratelimit-remaining{what}", "0").strip() in {"0", ""}:
            waits.append(_duration(reset.strip()))
    known = [wait for wait in waits if wait is not None]
    return min(max(known), MAX_RETRY_AFTER) if known else None


def _duration(text: str) -> float | None:
    """Seconds, from "6m0.5s" or "20ms", from a number of them, or from a point in Unix time (in s or ms)."""
    if re.fullmatch(r"\d{1,15}(\.\d{1,9})?", text):
        number = float(text)
        number = number / 1000 if number > 1e11 else number
        return max(0.0, number - time.time()) if number > 1e9 else number
    if not text or len(text) > 100 or _PART.sub("", text):
        return None
    return sum(float(count) * _SECONDS[unit] for count, unit in _PART.findall(text))
