"""The HTTP under google-generativeai: requests, made to bound what it reads, and to be broken off from outside.

The SDK is synchronous, so each of its calls blocks a worker thread, and nothing but the end of its socket wakes
that up. By itself it would follow redirects with the key in a header, decompress without bound, and read a
stream byte by byte.
"""

from __future__ import annotations

import codecs
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import httpx
import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from dvm.models.gemini_wire import Refused

_PIECE = 65_536
_here = threading.local()


class ApiError(Exception):
    """The endpoint's own error, in the shape in which gemini_errors knows it."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(f"HTTP {response.status_code}")
        try:
            body = response.json()
        except (ValueError, RecursionError):
            body = None
        inner = body.get("error") if isinstance(body, dict) else None
        told: dict[str, Any] = inner if isinstance(inner, dict) else {}
        self.code = response.status_code
        self.status = told.get("status") or ""
        self.message = told.get("message") or "it gave no reason"
        self.details = {"error": told}
        self.response = SimpleNamespace(headers=httpx.Headers(dict(response.headers)))


class Call:
    """One call of the SDK's, which works in one thread after another."""

    def __init__(self) -> None:
        self.answered = False  # the endpoint has begun to answer
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cancelled = False

    def run(self, function: Any, *arguments: Any) -> Any:
        """Call `function` as a part of this call, in a worker thread."""
        _here.call = self
        try:
            return function(*arguments)
        finally:
            _here.call = None

    def cancel(self) -> None:
        """End its connection, upon which the thread that waits for it goes on. Safe to call twice."""
        with self._lock:
            self._cancelled = True
            self._end()

    def connected(self, connection: socket.socket) -> None:
        with self._lock:
            self._socket = connection
            if self._cancelled:
                self._end()

    def _end(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def harden(session: requests.Session, *, max_response_bytes: int, connections: int) -> None:
    """Make the session of an SDK's client one that we know."""
    adapter = _Adapter(max_response_bytes, connections)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    session.headers["accept-encoding"] = "identity"


class _Adapter(HTTPAdapter):  # type: ignore[misc]
    def __init__(self, max_response_bytes: int, connections: int) -> None:
        self._max_response_bytes = max_response_bytes
        super().__init__(pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *arguments: Any, **settings: Any) -> None:
        super().init_poolmanager(*arguments, **settings)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def send(self, *arguments: Any, **settings: Any) -> requests.Response:
        response = super().send(*arguments, **settings)
        if (call := getattr(_here, "call", None)) is not None:
            call.answered = True
        if response.headers.get("content-encoding", "identity") != "identity":
            response.close()
            raise Refused("the answer is compressed although none of that was accepted")
        limit = self._max_response_bytes

        def iter_content(chunk_size: int | None = 1, decode_unicode: bool = False) -> Iterator[Any]:
            return _read(response, limit, text=decode_unicode)

        response.iter_content = iter_content
        if response.status_code != requests.codes.ok:
            # Here, before the SDK would ask again (it takes a key that is refused for one that has expired), follow
            # a redirect, or stumble over an error of an unusual shape.
            raise ApiError(response)
        return response


def _read(response: requests.Response, limit: int, *, text: bool) -> Iterator[Any]:
    """What has come, as soon as it has come. Raises Refused, urllib3's HTTPError."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in response.raw.stream(_PIECE, decode_content=False):
        limit -= len(piece)
        if limit < 0:
            raise Refused("the answer is too large")
        part = decoder.decode(piece) if text else piece
        if part:
            yield part


class _Watched(HTTPConnection):  # type: ignore[misc]
    """Tells the call of its thread which socket it works with."""

    def request(self, *arguments: Any, **settings: Any) -> None:
        super().request(*arguments, **settings)
        if (call := getattr(_here, "call", None)) is not None and self.sock is not None:
            call.connected(self.sock)


class _WatchedTls(_Watched, HTTPSConnection):  # type: ignore[misc]
    pass


class _Pool(HTTPConnectionPool):  # type: ignore[misc]
    ConnectionCls = _Watched


class _TlsPool(HTTPSConnectionPool):  # type: ignore[misc]
    ConnectionCls = _WatchedTls
