"""What goes wrong between google-genai and its endpoint → `ModelError`. No secret passes through here.

The SDK's exceptions carry the response, its request and so the key; none of them is kept or chained.
Codes: https://ai.google.dev/gemini-api/docs/troubleshooting, google/rpc/code.proto, error_details.proto.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx

from dvm.models.base import ErrorCode, ModelError, Usage
from dvm.models.failures import MAX_RETRY_AFTER, by_status, retry_after, scrub
from dvm.models.gemini_wire import Refused


def to_model_error(
    error: Exception, *, key: str, answered: bool, usage: Usage | None, api_error: type[Exception]
) -> ModelError:
    """The ModelError that `error` amounts to.

    key: the API key, taken out of whatever the endpoint said. answered: the endpoint had begun to answer.
    usage: what was used up to then. api_error: the SDK's `APIError` (it is imported late).
    """
    code: ErrorCode
    wait = None
    if isinstance(error, api_error):
        status = _int(getattr(error, "code", None))
        reasons = {str(d.get("reason")) for d in _details(error)}
        code = _by_status(status, str(getattr(error, "status", "")), reasons)
        wait = _retry_after(error)
        text = f"HTTP {status} {getattr(error, 'status', None) or ''}: {getattr(error, 'message', None) or ''}"
        if 300 <= status < 400:
            text = f"HTTP {status}: the endpoint sends us elsewhere; is base_url right?"
    elif isinstance(error, Refused):
        code, text = "unavailable", str(error)
    elif isinstance(error, httpx.HTTPError):
        code = "broken_off" if answered else "unavailable"
        text = f"{'the stream broke off' if answered else 'no connection'} ({type(error).__name__})"
    elif answered:
        # Garbage in the stream: UnknownApiResponseError, pydantic's ValidationError, and for error
        # objects of a wrong shape any of TypeError, AttributeError, KeyError, RecursionError.
        code, text = "broken_off", f"the endpoint's answer makes no sense ({type(error).__name__})"
    else:
        code, text = "bad_request", f"the request cannot be put into Gemini's form ({type(error).__name__})"
    return ModelError(code, scrub(text, key), retry_after=wait, usage=usage)


def _by_status(status: int, name: str, reasons: set[str]) -> ErrorCode:
    # A wrong key is a 400, and so is a region or an account that is not served: for these the operator
    # must act, and the next request fails alike.
    if reasons & {"API_KEY_INVALID", "API_KEY_EXPIRED"} or name in {"FAILED_PRECONDITION", "UNAUTHENTICATED"}:
        return "unauthorized"
    return by_status(status)


def _retry_after(error: Exception) -> float | None:
    """Seconds, from google.rpc.RetryInfo ("3.5s") or else the header Retry-After (RFC 9110, 10.2.3)."""
    for detail in _details(error):
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and (found := re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)s", delay)):
            return min(float(found[1]), MAX_RETRY_AFTER)
    headers = getattr(getattr(error, "response", None), "headers", None)
    return retry_after(headers) if isinstance(headers, httpx.Headers) else None


def _details(error: Exception) -> Iterator[dict[str, Any]]:
    body = getattr(error, "details", None)
    inner = body.get("error", body) if isinstance(body, dict) else None
    details = inner.get("details") if isinstance(inner, dict) else None
    if isinstance(details, list):
        yield from (detail for detail in details if isinstance(detail, dict))


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0
