"""The HTTP client under google-genai: ours, so that what it does is known whatever else is installed.

The SDK would choose httpx2 or aiohttp by what it finds, follow redirects (and carry the key, in a header
that no client knows to be secret, to wherever they point), decompress without bound, and close a response
whenever the garbage collector comes by. Here redirects are not followed, an answer is bounded, and each
call's response can be closed at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx

# Marks a request as one call's. It is taken off again before the request leaves.
CALL_HEADER = "x-dvm-call"
CONNECT_SECONDS = 10.0


class Refused(Exception):
    """The endpoint's answer is one that we do not read. The text says why."""


class Wire:
    """An httpx client, and the response of each call that is under way."""

    def __init__(self, *, max_response_bytes: int) -> None:
        self._max_response_bytes = max_response_bytes
        self._responses: dict[str, httpx.Response] = {}
        self.client = httpx.AsyncClient(
            follow_redirects=False,
            headers={"accept-encoding": "identity"},
            # How many jobs run at once is the engine's decision.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
            event_hooks={"request": [self._on_request], "response": [self._on_response]},
        )

    async def _on_request(self, request: httpx.Request) -> None:
        request.extensions["call"] = request.headers.pop(CALL_HEADER, None)
        # The caller times everything else: how long an answer may take is no property of a socket.
        request.extensions["timeout"] = {"connect": CONNECT_SECONDS}

    async def _on_response(self, response: httpx.Response) -> None:
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":  # a few kilobytes can unpack to gigabytes
            raise Refused("the answer is compressed although none of that was accepted")
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 (for the type checker)
        response.stream = _Bounded(response.stream, self._max_response_bytes)
        if (call := response.request.extensions.get("call")) is not None:
            self._responses[call] = response

    def answered(self, call: str) -> bool:
        """Whether the endpoint has begun to answer."""
        return call in self._responses

    async def end(self, call: str) -> None:
        """Forget the call; if it is still under way, break it off."""
        if (response := self._responses.pop(call, None)) is not None:
            await response.aclose()

    async def close(self) -> None:
        """Break off everything. Safe to call twice."""
        for response in list(self._responses.values()):
            await response.aclose()
        await self.client.aclose()


class _Bounded(httpx.AsyncByteStream):
    """A response's bytes, up to a limit."""

    def __init__(self, stream: httpx.AsyncByteStream, limit: int) -> None:
        self._stream = stream
        self._left = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            self._left -= len(piece)
            if self._left < 0:
                raise Refused("the answer is too large")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
