"""JSON answers with the headers that each needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

NO_STORE = "no-store"
A_MINUTE = "public, max-age=60"


def json(content: Any, *, cache: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`content` as JSON, for our own machines."""
    given = {"Cache-Control": cache, "X-Content-Type-Options": "nosniff", **(headers or {})}
    return Response(orjson.dumps(content), status, given, "application/json")


def public_json(content: Any, *, cache: str, status: int = 200) -> Response:
    """The same for pages of any origin: wallets and Nostr clients run in browsers (NIP-05, LUD-06)."""
    return json(content, cache=cache, status=status, headers={"Access-Control-Allow-Origin": "*"})


def lnurl_error(reason: str, *, status: int = 200) -> Response:
    """An error as wallets read it: in the JSON, under the status of success (LUD-06)."""
    return public_json({"status": "ERROR", "reason": reason}, cache=NO_STORE, status=status)
