"""HTTP to a wallet's REST interface: one client, bounded answers, every failure a WalletError.

The address is the operator's own, so private addresses are allowed; redirects are not followed, since they
would carry the key elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn, TypedDict, Unpack

import httpx
import orjson

from dvm.lightning.base import WalletError, WalletErrorCode

MAX_ANSWER = 8 << 20  # bytes; a page of a thousand invoices is about one
_SAID_CHARS = 200
_PATIENCE = 3  # times its seconds, until an answer that comes in drips is given up

_STATUS: Mapping[int, WalletErrorCode] = {401: "unauthorized", 403: "restricted", 404: "not_found", 429: "rate_limited"}


class NotSent(WalletError):
    """`unreachable`, and certain that nothing has reached the wallet: no connection was made."""

    def __init__(self, text: str) -> None:
        super().__init__("unreachable", text)


class Refused(WalletError):
    """The wallet answered with an HTTP error; `status` is its number, `body` its JSON, or {}."""

    def __init__(self, code: WalletErrorCode, text: str, status: int, body: Any) -> None:
        super().__init__(code, text)
        self.status = status
        self.body = body if isinstance(body, dict) else {}


class Request(TypedDict, total=False):
    """What goes with a request. `timeout`: seconds, in place of the client's own."""

    params: Mapping[str, Any] | None
    json: Any
    data: Mapping[str, str] | None
    timeout: float | None


class Rest:
    """JSON over HTTP. `secret` headers or credentials go with each request and into no error."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        auth: httpx.BasicAuth | None = None,
        tls_cert: Path | None = None,
        timeout: float = 30.0,
        connections: int = 40,
    ) -> None:
        """`tls_cert`: the PEM file of a node's own certificate, which is then trusted and checked as such.
        `connections`: the most at once.

        Raises WalletError for a certificate that cannot be read, and an address that is none.
        """
        self.url = url.rstrip("/")
        self._timeout = timeout
        try:
            self._client = httpx.AsyncClient(
                base_url=self.url,
                # What is a few bytes on the wire shall be no more when it is read.
                headers={**(headers or {}), "Accept-Encoding": "identity"},
                auth=auth,
                verify=tls_context(tls_cert),
                timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
                follow_redirects=False,
                trust_env=False,
                limits=httpx.Limits(max_connections=connections, max_keepalive_connections=16),
            )
        except httpx.InvalidURL as error:
            raise WalletError("failed", f"wallet.url is no address: {error}") from None

    async def close(self) -> None:
        """Safe to call twice."""
        await self._client.aclose()

    async def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        return await self.call("GET", path, params=params)

    async def post(self, path: str, json: Any = None, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        return await self.call("POST", path, json=json, timeout=timeout)

    async def call(self, method: str, path: str, **request: Unpack[Request]) -> Any:
        """The JSON that the wallet answers. Raises WalletError: NotSent where nothing left, any other
        `unreachable` and `untrustworthy` (a 200 that is no JSON) where it may have been done all the same,
        Refused for an HTTP error."""
        whole = _PATIENCE * (request.get("timeout") or self._timeout)
        try:
            async with asyncio.timeout(whole), self.stream(method, path, **request) as response:
                return await _json(response)
        except TimeoutError:  # each wait for more of it was short enough for httpx
            raise WalletError("unreachable", f"{self.url}: no whole answer within {whole:g} s") from None

    @asynccontextmanager
    async def stream(self, method: str, path: str, **request: Unpack[Request]) -> AsyncIterator[httpx.Response]:
        """An answer that is read as it comes, with a status of success. Raises as `call`."""
        seconds = request.pop("timeout", None) or self._timeout
        wait = httpx.Timeout(seconds, connect=min(seconds, 10.0))
        try:
            async with self._client.stream(
                method,
                path,
                params=request.get("params"),
                json=request.get("json"),
                data=request.get("data"),
                timeout=wait,
            ) as response:
                if not response.is_success:
                    await _refuse(response, method, path)
                _check_plain(response)
                yield response
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotSent(f"{self.url}: {_connecting(error)}") from None
        except httpx.TimeoutException:
            raise WalletError("unreachable", f"{self.url}: no answer within {seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            hint = "if it always is: http:// or https://, and the right port?"
            raise WalletError(
                "unreachable", f"{self.url}: the connection was broken off ({type(error).__name__}); {hint}"
            ) from None
        except RuntimeError as error:  # httpx says so of a client that was closed
            if not self._client.is_closed:
                raise
            raise NotSent("the wallet was closed") from error


def _check_plain(response: httpx.Response) -> None:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise WalletError("untrustworthy", "a compressed answer, which was not asked for")


async def _read(response: httpx.Response) -> bytes:
    _check_plain(response)
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER:
            raise WalletError("untrustworthy", f"an answer of more than {MAX_ANSWER} bytes")
    return bytes(body)


async def _json(response: httpx.Response) -> Any:
    body = await _read(response)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        what = response.headers.get("content-type", "no type")[:60]
        raise WalletError(
            "untrustworthy", f"an answer that is no JSON ({what}): is this the wallet's address?"
        ) from None


async def _refuse(response: httpx.Response, method: str, path: str) -> NoReturn:
    status = response.status_code
    code: WalletErrorCode = _STATUS.get(status, "failed")
    if status in (502, 503, 504):  # a proxy's word, not the wallet's
        code = "unreachable"
    if 300 <= status < 400:
        text = (
            f"{method} {path.partition('?')[0]}: {status}: it is elsewhere: set wallet.url to where it really answers"
        )
        raise Refused(code, text, status, None)
    body: Any = None
    with contextlib.suppress(WalletError, orjson.JSONDecodeError):
        raw = await _read(response)
        if response.headers.get("content-type", "").startswith("text/plain"):
            body = raw[:_SAID_CHARS].decode(errors="replace")
        body = orjson.loads(raw)
    raise Refused(code, f"{method} {path.partition('?')[0]}: {status} {said(body)}".rstrip(), status, body)


def said(body: Any) -> str:
    """What an error's JSON, or its plain text, says, for people: cut, and on one line."""
    while isinstance(body, dict):  # no recursion: what nests is a stranger's
        inner = (body.get(key) for key in ("message", "detail", "error", "reason"))
        body = next((each for each in inner if isinstance(each, str | dict)), None)
    return clean(body) if isinstance(body, str) else ""


def clean(text: str) -> str:
    """A stranger's words on one line of bounded length."""
    return "".join(c if c.isprintable() else " " for c in text[:_SAID_CHARS])


def _connecting(error: Exception) -> str:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return (
            "its certificate cannot be verified: set wallet.tls_cert_file to the node's own (tls.cert of lnd, "
            "ca.pem of clnrest), and use a host name that stands in it"
        )
    if "SSL" in text:
        return "it does not speak TLS there: http:// instead of https://, or another port?"
    return "no connection: is it running, and is wallet.url its address?"


def tls_context(tls_cert: Path | None) -> ssl.SSLContext:
    """The machine's certificates, or only the one in that PEM file. Raises WalletError for a file that is none."""
    context = ssl.create_default_context()
    if tls_cert is not None:
        try:
            context = ssl.create_default_context(cafile=str(tls_cert))
        except ssl.SSLError:  # an OSError as well
            raise WalletError("failed", f"wallet.tls_cert_file: {tls_cert}: is no certificate (PEM)") from None
        except OSError as error:
            raise WalletError("failed", f"wallet.tls_cert_file: {tls_cert}: {error.strerror}") from None
    return context
