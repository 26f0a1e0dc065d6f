"""LND's REST interface (its gRPC calls behind grpc-gateway): requests, streams, and what its refusals mean.

LND answers nearly every refusal with HTTP status 500 and gRPC code 2, so it is the message that tells them apart.
Numbers of 64 bits come as strings, bytes as base64, and a stream as one `{"result": …}` a line.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import httpx
import orjson

from dvm.lightning.base import WalletError, WalletErrorCode
from dvm.lightning.rest import NotSent, Refused, Rest, clean

MAX_LINE = 1 << 20  # bytes: an invoice or a payment with all its HTLCs takes some ten thousand
NEEDED = "info:read invoices:read invoices:write offchain:read offchain:write"

_NOT_FOUND, _UNIMPLEMENTED = 5, 12  # gRPC codes
# What LND's message begins with or contains → what it means, and what to do.
_AWAY = {
    "wallet locked": "lnd's wallet is locked: unlock it (lncli unlock), or give lnd a wallet-unlock-password-file",
    "wallet not created": "lnd has no wallet yet: make one (lncli create)",
    "in the process of starting up": "lnd is starting up",
    "waiting to start": "lnd waits to be started, as the standby of a cluster does",
}
_STRANGE_MACAROON = (
    "verification failed",
    "cannot get macaroon",
    "cannot determine data format",
    "unmarshal v2",
    "expected 1 macaroon",
    "unknown macaroon version",
    "invalid id",
    "root key",
)


class LndClient:
    """LND behind `rest`. Every error is a WalletError: NotSent where nothing was begun, Refused where LND said no."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest

    @property
    def url(self) -> str:
        return self._rest.url

    async def close(self) -> None:
        await self._rest.close()

    async def get(self, path: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return await self._call("GET", path, params=params)

    async def post(self, path: str, json: Mapping[str, Any]) -> dict[str, Any]:
        return await self._call("POST", path, json=json)

    async def updates(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Mapping[str, Any] | None = None,
        silence: float,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """What a stream tells, for as long as LND keeps it open; `unreachable` when nothing came for `silence`
        seconds, which is not always bad news. LND's gateway sends not even the headers before the first update."""
        try:
            async with (
                self._rest.stream(method, path, params=params, json=json, timeout=silence) as response,
                aclosing(_lines(response)) as lines,
            ):
                async for line in lines:
                    yield _result(line, f"{method} {path}")
        except Refused as error:
            raise explained(error) from None

    async def _call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            answer = await self._rest.call(method, path, **request)
        except Refused as error:
            raise explained(error) from None
        if not isinstance(answer, dict):
            raise WalletError("untrustworthy", f"{method} {path}: not the answer of an lnd")
        return answer


def explained(error: Refused) -> WalletError:
    """The same refusal, in words that help. NotSent if LND has not even begun with it."""
    grpc_code, message = grpc_error(error.body)
    lower = message.lower()
    for said, text in _AWAY.items():
        if said in lower:
            return NotSent(text)
    code: WalletErrorCode = error.code
    text = str(error).partition(": ")[2]
    if "permission denied" in lower:
        code, text = "restricted", f"the macaroon may not do this; bake one that may: lncli bakemacaroon {NEEDED}"
    elif "caveat" in lower and "not satisfied" in lower:
        code, text = "unauthorized", "the macaroon has expired, or is bound to another address: bake a new one"
    elif any(said in lower for said in _STRANGE_MACAROON):
        code = "unauthorized"
        text = "the macaroon is not this node's: take admin.macaroon of the node and network that wallet.url names"
    elif grpc_code == _UNIMPLEMENTED or (error.status == 404 and message in ("", "Not Found")):
        code, text = "unsupported", f"{text}: this lnd does not know that call; is wallet.url its REST interface?"
    elif error.status == 400 and not error.body:
        text = f"{text}: is it https:// that wallet.url needs?"
    return Refused(code, text, error.status, error.body)


def grpc_error(body: object) -> tuple[int, str]:
    """Code and message of an error's JSON, plain or within a stream; (0, "") where there is none."""
    if isinstance(body, dict):
        within = body.get("error")
        said = within if isinstance(within, dict) else body
        code, message = said.get("code"), said.get("message")
        if type(code) is int and isinstance(message, str):
            return code, clean(message)
    return 0, ""


def is_unknown_thing(error: WalletError) -> bool:
    """Whether LND said that it has no such invoice or payment; not whether it lacks the call."""
    if not isinstance(error, Refused) or error.code == "unsupported":
        return False
    code, message = grpc_error(error.body)
    named = ("unable to locate invoice", "no existing invoices", "payment isn't initiated")
    return code == _NOT_FOUND or any(each in message for each in named)


# --- what LND's JSON holds -----------------------------------------------------------------------------


def number(of: Mapping[str, Any], field: str, most: int = (1 << 63) - 1) -> int:
    """A whole number from 0 to `most`, as a number or a string of digits. Raises WalletError."""
    raw = of.get(field, 0)
    if isinstance(raw, str) and raw.isascii() and raw.isdigit() and len(raw) <= 20:
        raw = int(raw)
    if type(raw) is not int or not 0 <= raw <= most:
        raise WalletError("untrustworthy", f"lnd's {field} is no such number")
    return raw


def hex32(of: Mapping[str, Any], field: str) -> str:
    """Thirty-two bytes in base64, as hex. Raises WalletError."""
    try:
        raw = base64.b64decode(of.get(field, ""), validate=True)
    except (ValueError, TypeError):
        raw = b""
    if len(raw) != 32:
        raise WalletError("untrustworthy", f"lnd's {field} is not 32 bytes")
    return raw.hex()


def to_base64(text: str) -> str:
    """Hex as the base64 of a JSON field."""
    return base64.b64encode(bytes.fromhex(text)).decode()


def for_path(text: str) -> str:
    """Hex as the base64 of a path, where `/` and `+` mean something else."""
    return base64.urlsafe_b64encode(bytes.fromhex(text)).decode()


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    rest = bytearray()
    async for chunk in response.aiter_bytes():
        *lines, last = chunk.split(b"\n")
        for line in lines:
            rest += line
            if rest.strip():
                yield bytes(rest)
            rest.clear()
        rest += last
        if len(rest) > MAX_LINE:
            raise WalletError("untrustworthy", f"a line of more than {MAX_LINE} bytes")
    if rest.strip():
        yield bytes(rest)


def _result(line: bytes, call: str) -> dict[str, Any]:
    try:
        told = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise WalletError("untrustworthy", f"{call}: a line that is no JSON; is this an lnd's address?") from None
    if isinstance(told, dict):
        if isinstance(told.get("result"), dict):
            result: dict[str, Any] = told["result"]
            return result
        if isinstance(told.get("error"), dict):
            code, message = grpc_error(told)
            raise Refused("not_found" if code == _NOT_FOUND else "failed", f"{call}: {message}", 200, told)
    raise WalletError("untrustworthy", f"{call}: not the stream of an lnd")
