"""What models that are asked over HTTP have in common: a failure's code, wait and text, and text that is Unicode."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import quote

from dvm.models.base import ErrorCode

MAX_TEXT = 300
MAX_RETRY_AFTER = 86_400.0  # seconds; daily quotas begin anew after at most that


def is_key(key: str) -> bool:
    """Whether it can stand in a header: a key that was copied with its line's end cannot."""
    return bool(key) and key.isascii() and key.isprintable() and " " not in key


def scrub(text: str, key: str) -> str:
    """`text` on one line of at most MAX_TEXT characters, without the key."""
    for secret in {key, quote(key, safe="")} - {""}:
        text = text.replace(secret, "[key]")
    text = "".join(c if c.isprintable() else " " for c in text[: 4 * MAX_TEXT])
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def by_status(status: int) -> ErrorCode:
    """What an HTTP status amounts to (RFC 9110, 15); 402 is an account without credit."""
    match status:
        case 401 | 402 | 403:
            return "unauthorized"
        case 404:
            return "not_found"
        case 429:
            return "rate_limited"
        case 408 | 409 | 425 | 499:
            return "unavailable"
    if 300 <= status < 400:
        return "not_found"
    return "bad_request" if 400 <= status < 500 else "unavailable"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from the header Retry-After: a number of them, or a date (RFC 9110, 10.2.3)."""
    value = headers.get("retry-after")
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value):
        return min(float(value), MAX_RETRY_AFTER)
    try:
        return min(max(0.0, parsedate_to_datetime(value).timestamp() - time.time()), MAX_RETRY_AFTER)
    except (ValueError, OverflowError):
        return None


def well_formed(text: str) -> str:
    """`text` without half surrogate pairs, which JSON can hold and UTF-8 (and so a Nostr event) cannot."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
