"""What goes over the wire to an OpenAI-compatible endpoint, and comes back as server-sent events.

Redirects are not followed (they would carry the key to wherever they point), nothing compressed is read
(a few kilobytes can unpack to gigabytes), and an answer is bounded.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

import httpx

CONNECT_SECONDS = 10.0
# Of an error's body: what it says of itself is short, and a page of HTML is of no interest.
_MAX_ERROR_BYTES = 64 * 1024
_DONE = "[DONE]"
_BOM = b"\xef\xbb\xbf"


class Refused(Exception):
    """The endpoint's answer is one that we do not read. The text says why."""


class NoApi(Refused):
    """What answered is something else than the API."""


class Rejected(Exception):
    """The endpoint answered with an HTTP status other than 200; `body` is its JSON, or what text it was."""

    def __init__(self, status: int, headers: httpx.Headers, body: Any) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.headers = headers
        self.body = body


class Events:
    """A parser of server-sent events (WHATWG HTML, 9.2): bytes in, in pieces of any size; `data` out.

    Of an event only its data is of interest here; comments, which some routers send to keep a connection
    open, are dropped. No line is looked at twice, however small the pieces are.
    """

    def __init__(self) -> None:
        self._begun: list[bytes] = []  # of a line
        self._data: list[bytes] = []  # of an event, its lines
        self._after_cr = False
        self._first = True

    def feed(self, piece: bytes) -> list[str]:
        """The data of the events that `piece` completes."""
        if not piece:
            return []
        skip_lf = self._after_cr and piece.startswith(b"\n")
        self._after_cr = piece.endswith(b"\r")
        lines = piece[skip_lf:].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        found: list[str] = []
        for line in lines[:-1]:
            self._begun.append(line)
            whole, self._begun = b"".join(self._begun), []
            if (data := self._line(whole)) is not None:
                found.append(data)
        self._begun.append(lines[-1])
        return found

    def end(self) -> list[str]:
        """What is left when the stream has ended: an event whose empty line the server did not send."""
        return self.feed(b"\n\n")

    def _line(self, line: bytes) -> str | None:
        if self._first:
            self._first, line = False, line.removeprefix(_BOM)
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            elif name == b"error":  # as older servers of llama.cpp tell an error
                self._data.append(b'{"error":' + value + b"}")
            return None
        if not self._data:
            return None
        data, self._data = b"\n".join(self._data), []
        return data.decode("utf-8", "replace")


class Wire:
    """An httpx client for one endpoint, and the answers that are under way."""

    def __init__(self, *, max_response_bytes: int) -> None:
        self._max_response_bytes = max_response_bytes
        self._exchanges: set[Exchange] = set()
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            headers={"accept-encoding": "identity"},
            # How many jobs run at once is the engine's decision, and how long an answer may take the caller's.
            # No connection is used twice: where the server closes one (llama.cpp's does) just as the next request
            # goes out, nobody knows whether that was received, and asking again might be billed twice.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
        )

    async def post(self, url: httpx.URL, headers: dict[str, str], body: bytes) -> Exchange:
        """Send the request; the answer, once it begins. Raises Rejected, Refused, httpx.HTTPError."""
        request = self._client.build_request("POST", url, headers=headers, content=body)
        response = await self._client.send(request, stream=True)
        exchange = Exchange(response, self._max_response_bytes, self._exchanges.discard)
        self._exchanges.add(exchange)
        try:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise Refused("the answer is compressed although none of that was accepted")
            if response.status_code != httpx.codes.OK:
                raise Rejected(response.status_code, response.headers, await exchange.error_body())
        except BaseException:
            await exchange.close()
            raise
        return exchange

    async def close(self) -> None:
        """Break off everything. Safe to call twice."""
        for exchange in list(self._exchanges):
            await exchange.close()
        await self._client.aclose()


class Exchange:
    """One answer, as JSON in pieces."""

    def __init__(self, response: httpx.Response, limit: int, forget: Callable[[Exchange], None]) -> None:
        self._response = response
        self._left = limit
        self._forget = forget
        self._bytes = self._bounded()
        self._events = Events()
        self._pieces: deque[str] = deque()
        self._ended = False

    async def next(self) -> Any:
        """The next piece; None after the last. Raises Refused, httpx.HTTPError.

        What is not streamed although a stream was asked for is one piece.
        """
        kind = self._response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "text/event-stream" and not self._ended:
            self._pieces.append(await self._whole(kind))
        while not self._pieces and not self._ended:
            piece = await anext(self._bytes, None)
            if piece is None:
                self._ended = True
                self._pieces.extend(self._events.end())
            else:
                self._pieces.extend(self._events.feed(piece))
        if not self._pieces:
            return None
        text = self._pieces.popleft()
        if text.strip() == _DONE:
            self._ended = True
            self._pieces.clear()
            return None
        return _parsed(text)

    async def error_body(self) -> Any:
        """The body of an error: JSON, else text, of which not much is read. Raises httpx.HTTPError."""
        read = b""
        async for piece in self._bytes:
            read += piece
            if len(read) > _MAX_ERROR_BYTES:
                break
        text = read[:_MAX_ERROR_BYTES].decode("utf-8", "replace")
        try:
            return _parsed(text)
        except Refused:
            return text

    async def close(self) -> None:
        """Break it off if it is under way: the connection is closed, upon which servers stop the model."""
        self._forget(self)
        with suppress(RuntimeError):  # it is being read by another task, which then ends with an error
            await self._bytes.aclose()
        await self._response.aclose()

    async def _whole(self, kind: str) -> str:
        if kind not in {"application/json", ""}:
            what = "a web page" if kind == "text/html" else f"of type {kind[:40]}"
            raise NoApi(f"the answer is {what}, no JSON: does base_url lead to the API (…/v1)?")
        read = b"".join([piece async for piece in self._bytes])
        self._ended = True
        return read.decode("utf-8", "replace")

    async def _bounded(self) -> AsyncGenerator[bytes, None]:
        async for piece in self._response.aiter_raw():
            self._left -= len(piece)
            if self._left < 0:
                raise Refused("the answer is too large")
            yield piece


def _parsed(text: str) -> Any:
    """JSON. Raises Refused."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # a ValueError too: a number of more digits than Python takes
        raise Refused("the endpoint's answer makes no sense: no JSON") from None
