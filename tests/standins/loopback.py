"""An HTTP server on loopback that a test can stop, start again on its port, and make fail in every way."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Literal

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.standins.ports import free_port

Scope, Receive, Send = Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Before anything is done: "hang" (no answer), "cut" (the connection), "500", "502", "html" (a page with 200),
# "text" (JSON that is no object). After it is done: "done-hang", "done-cut", "done-500", "done-html".
Fault = Literal["hang", "cut", "500", "502", "html", "text", "done-hang", "done-cut", "done-500", "done-html"]
_PAGES: dict[str, tuple[int, bytes, bytes]] = {
    "500": (500, b"text/html", b"<h1>Internal Server Error</h1>"),
    "502": (502, b"text/html", b"<h1>Bad Gateway</h1>"),
    "html": (200, b"text/html", b"<html>Welcome to nginx!</html>"),
    "text": (200, b"application/json", b'"nothing of the kind"'),
}


class Loopback:
    """Serves `app`. `faults` by path, or "*", strike until they are taken away; `calls` counts by path."""

    def __init__(self, app: App, *, ssl_certfile: str | None = None, ssl_keyfile: str | None = None) -> None:
        self._app = app
        self._tls = {"ssl_certfile": ssl_certfile, "ssl_keyfile": ssl_keyfile}
        self._port = free_port()  # its own while it is stopped, too
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self.faults: dict[str, Fault] = {}
        self.calls: Counter[str] = Counter()
        self._broken: list[Exception] = []

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls['ssl_certfile'] else ''}://127.0.0.1:{self._port}"

    async def start(self) -> None:
        # Named as TCP, without which asyncio leaves Nagle's algorithm on: 40 ms for every answer.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        config = uvicorn.Config(
            self._serve,
            interface="asgi3",
            log_config=None,
            log_level="critical",
            lifespan="off",
            ws="websockets-sansio",
            **self._tls,
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve([listener]))
        while not self._server.started:
            await asyncio.sleep(0.002)

    async def stop(self) -> None:
        """Refuse connections from now on, and cut those that there are."""
        if self._server is None or self._serving is None:
            return
        self._server.stopping.set()
        await self._serving
        self.cut()
        self._server = None
        if self._broken:
            raise ExceptionGroup("the stand-in is broken", self._broken)

    def cut(self) -> None:
        """Cut every connection there is."""
        assert self._server is not None
        for connection in list(self._server.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()
        for task in list(self._server.server_state.tasks):
            task.cancel()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        fault = self.faults.get(path) or self.faults.get("*")
        self.calls[path] += 1
        if scope["type"] != "http" or fault is None:
            await self._answer(scope, receive, send)
            return
        if fault.startswith("done-"):
            await self._answer(scope, receive, _swallow)
            fault = fault.removeprefix("done-")  # type: ignore[assignment]
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "cut":
            headers = [(b"content-length", b"100")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"{", "more_body": True})
            raise ConnectionAbortedError
        status, kind, body = _PAGES[fault]
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            self._broken.append(error)
            raise


async def body_of(receive: Receive) -> bytes | None:
    """A request's body; None where the connection was cut before all of it had come."""
    body, more = b"", True
    while more:
        part = await receive()
        if part["type"] == "http.disconnect":
            return None
        body, more = body + part.get("body", b""), part.get("more_body", False)
    return body


def own_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody has signed but itself, and its key: two PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a node")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = directory / "cert.pem", directory / "key.pem"
    files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


class _Server(uvicorn.Server):
    """Without signal handlers, which are the test runner's, and without its ticks of a tenth of a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await self._serve(sockets)

    async def main_loop(self) -> None:
        await self.stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()


async def _swallow(message: Any) -> None:
    pass
