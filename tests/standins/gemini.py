"""A stand-in for the Gemini API (v1beta, REST and SSE) on loopback, which can fail in every known way.

In process:            `async with GeminiStandIn() as gemini: … gemini.url, gemini.key`
As a process of its own: `python -m tests.standins.gemini --port 0` prints `{"url": …, "key": …}` and serves.

What it answers is a `Script`, found by the model's name: first one set by `script()` (or over HTTP:
`POST /_control {"model": "gemini-x", "script": {"status": 503, "times": 2}}`, the model "*" being all),
then one of NAMED, then the default, which repeats the prompt. Only names that begin with "gemini" exist.
`GET /_control` gives the counters, `DELETE /_control` forgets all scripts.

It counts a token per four characters, and 258 for a blob; like the real API it leaves zeros out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
from collections import Counter, deque
from types import TracebackType
from typing import Any, Self

import h11
import orjson

from tests.standins.gemini_api import ApiError, Recorded, route
from tests.standins.gemini_scripts import NAMED, Script

MAX_BODY = 32 * 1024 * 1024


class GeminiStandIn:
    """The server. `requests` holds the latest thousand; `counters` counts requests by outcome,
    `disconnects` those answers from which the client walked away."""

    def __init__(self, *, key: str = "test-gemini-key", port: int = 0, input_limit: int = 1_000_000) -> None:
        self.key = key
        self.input_limit = input_limit
        self.requests: deque[Recorded] = deque(maxlen=1000)
        self.counters: Counter[str] = Counter()
        self.connections: set[Connection] = set()
        self.port = port
        self._scripts: dict[str, Script] = {}
        self._play: deque[Script] = deque()
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen on `port`: 0 is a free one; after `close` it is the one that it was."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening (connections are refused from now on) and drop those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = [c.task for c in self.connections if c.task is not None]
        for connection in list(self.connections):
            connection.abort()
        await asyncio.gather(*tasks, return_exceptions=True)

    def script(self, model: str, script: Script | None = None, **settings: Any) -> None:
        """From now on `model` ("*": every one) answers like this; no settings: as by default."""
        if script is None and not settings:
            self._scripts.pop(model, None)
        else:
            self._scripts[model] = script or Script(**settings)

    def play(self, *scripts: Script) -> None:
        """The next answers, whichever models are asked, are these, one after the other."""
        self._play = deque(scripts)

    def forget(self) -> None:
        """No scripts any more."""
        self._scripts.clear()
        self._play.clear()

    def script_for(self, model: str, endpoint: str) -> Script:
        """The script that this request is answered by; counts its `times`."""
        if endpoint == "generate" and self._play:
            return self._play.popleft()
        for name in (model, "*"):
            script = self._scripts.get(name)
            if script is None or script.endpoint not in {endpoint, "any"}:
                continue
            if script.times is not None:
                if script.times <= 1:
                    del self._scripts[name]
                else:
                    self._scripts[name] = dataclasses.replace(script, times=script.times - 1)
            return script
        return NAMED.get(model, Script()) if endpoint == "generate" else Script()

    def count(self, what: str, by: int = 1) -> None:
        self.counters[what] += by
        self._changed.set()

    async def until(self, what: str, at_least: int = 1, *, seconds: float = 10.0) -> None:
        """Wait until the counter has reached this. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while self.counters[what] < at_least:
                self._changed.clear()
                await self._changed.wait()


class Connection(asyncio.Protocol):
    """One client connection: requests one after the other."""

    def __init__(self, server: GeminiStandIn) -> None:
        self._server = server
        self._http = h11.Connection(h11.SERVER)
        self._transport: asyncio.Transport | None = None
        self._gone = asyncio.Event()
        self._request: h11.Request | None = None
        self._body = bytearray()
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(self)
        self._server.count("connections")

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        self._server.connections.discard(self)
        if self.task is not None and not self.task.done():
            self._server.count("disconnects")

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    self._request, self._body = event, bytearray()
                elif isinstance(event, h11.Data):
                    self._body += event.data
                    if len(self._body) > MAX_BODY:
                        self.abort()
                        return
                elif isinstance(event, h11.EndOfMessage):
                    assert self._request is not None
                    self.task = asyncio.create_task(self._handle(self._request, bytes(self._body)))
                else:  # NEED_DATA, PAUSED, ConnectionClosed
                    return
        except h11.RemoteProtocolError:
            self.abort()

    def send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data and self._transport is not None and not self._gone.is_set():
            self._transport.write(data)

    async def pause(self, seconds: float | None) -> None:
        """Wait so long, or for ever, but not beyond the client's stay. Raises ConnectionError."""
        if seconds != 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._gone.wait()
            except TimeoutError:
                pass
        if self._gone.is_set():
            raise ConnectionError

    def begin(self, status: int, content_type: str, headers: dict[str, str], length: int | None = None) -> None:
        fields = [("content-type", content_type), *headers.items()]
        if length is not None:
            fields.append(("content-length", str(length)))
        self.send(h11.Response(status_code=status, headers=fields))

    def reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body.encode() if isinstance(body, str) else orjson.dumps(body)
        kind = "text/html" if isinstance(body, str) else "application/json; charset=UTF-8"
        self.begin(status, kind, headers or {}, len(data))
        self.send(h11.Data(data=data))
        self.send(h11.EndOfMessage())

    def chunk(self, data: bytes) -> None:
        self.send(h11.Data(data=data))

    def end(self) -> None:
        self.send(h11.EndOfMessage())

    def hang_up(self) -> None:
        """Close without the end that HTTP demands."""
        if self._transport is not None:
            self._transport.close()

    async def _handle(self, request: h11.Request, body: bytes) -> None:
        method, target = request.method.decode(), request.target.decode()
        headers = {name.decode(): value.decode("latin-1") for name, value in request.headers}
        try:
            await route(self._server, self, method, target, headers, body)
        except ApiError as error:
            self._server.count(f"status {error.status}")
            self.reply(error.status, {"error": error.body})
        except ConnectionError:
            return
        self.ready()

    def ready(self) -> None:
        """Ready for the connection's next request, if it stays open."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        elif self._http.our_state in {h11.MUST_CLOSE, h11.CLOSED, h11.ERROR}:
            self.hang_up()


async def _serve(arguments: argparse.Namespace) -> None:
    async with GeminiStandIn(key=arguments.key, port=arguments.port) as server:
        if arguments.delay or arguments.thoughts:
            server.script("*", delay=arguments.delay, thoughts=arguments.thoughts)
        print(json.dumps({"url": server.url, "key": server.key}), flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A stand-in for the Gemini API.")
    parser.add_argument("--port", type=int, default=0, help="0 is a free one")
    parser.add_argument("--key", default="test-gemini-key")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--thoughts", type=int, default=0, help="thinking tokens of each answer")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
