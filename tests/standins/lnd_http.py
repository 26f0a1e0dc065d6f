"""A small HTTP/1.1 server for stand-ins: it can answer, stream, fall silent, and cut the connection at any point."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

import h11

from tests.standins.ports import free_port


class Cut(Exception):
    """Raised by a handler: the connection ends without another byte."""


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """`body`, or the chunks of a stream: its status and headers go out with the first of them, as grpc-gateway
    does it."""

    status: int = 200
    body: bytes = b""
    chunks: AsyncGenerator[bytes, None] | None = None
    content_type: str = "application/json"


@dataclass
class HttpServer:
    handle: Callable[[Request], Awaitable[Answer]]
    url: str = ""
    port: int = field(default_factory=free_port)  # its own while it is stopped, too
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _streaming: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        """After a stop, on the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.url = f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """No connection survives."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut_streams(self) -> int:
        """End every stream, as a network does: without a word. How many there were."""
        cut = list(self._streaming)
        for writer in cut:
            writer.transport.abort()
        return len(cut)

    @property
    def streams(self) -> int:
        """How many there are."""
        return len(self._streaming)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = h11.Connection(h11.SERVER)
        try:
            while (request := await _request(connection, reader)) is not None:
                await self._answer(request, connection, reader, writer)
                if connection.our_state is h11.MUST_CLOSE:
                    break
                connection.start_next_cycle()
        except (Cut, OSError, h11.ProtocolError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(
        self, request: Request, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        answer = await self.handle(request)
        headers = [("content-type", answer.content_type)]
        if answer.chunks is None:
            headers.append(("content-length", str(len(answer.body))))
            head = connection.send(h11.Response(status_code=answer.status, headers=headers))
            writer.write((head or b"") + (connection.send(h11.Data(data=answer.body)) or b""))
            writer.write(connection.send(h11.EndOfMessage()) or b"")
            await writer.drain()
            return
        self._streaming.add(writer)
        headers.append(("connection", "close"))
        # A client that goes away while nothing is told is noticed by what it sends no more.
        gone = asyncio.create_task(reader.read(1))
        pumping = asyncio.create_task(self._pump(answer, headers, connection, writer))
        try:
            await asyncio.wait({gone, pumping}, return_when=asyncio.FIRST_COMPLETED)
            if not pumping.done():
                raise Cut
            await pumping
            writer.write(connection.send(h11.EndOfMessage()) or b"")
            await writer.drain()
        finally:
            self._streaming.discard(writer)
            gone.cancel()
            pumping.cancel()
            await asyncio.gather(gone, pumping, return_exceptions=True)

    @staticmethod
    async def _pump(
        answer: Answer, headers: list[tuple[str, str]], connection: h11.Connection, writer: asyncio.StreamWriter
    ) -> None:
        assert answer.chunks is not None
        head = h11.Response(status_code=answer.status, headers=[*headers, ("transfer-encoding", "chunked")])
        async with aclosing(answer.chunks) as chunks:
            async for chunk in chunks:
                if connection.our_state is h11.SEND_RESPONSE:
                    writer.write(connection.send(head) or b"")
                writer.write(connection.send(h11.Data(data=chunk)) or b"")
                await writer.drain()
        if connection.our_state is h11.SEND_RESPONSE:
            writer.write(connection.send(head) or b"")


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection, or None at its end."""
    head: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65_536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            address = urlsplit(head.target.decode())
            headers = {name.decode().lower(): value.decode() for name, value in head.headers}
            return Request(head.method.decode(), address.path, dict(parse_qsl(address.query)), headers, body)
        else:
            return None


@asynccontextmanager
async def served(server: HttpServer) -> AsyncIterator[HttpServer]:
    await server.start()
    try:
        yield server
    finally:
        with contextlib.suppress(OSError):
            await server.stop()
