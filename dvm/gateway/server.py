"""uvicorn inside the daemon's own event loop: it starts and stops with it, and leaves the signals to it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Iterator
from errno import EADDRINUSE

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dvm.gateway.app import App

log = logging.getLogger(__name__)

CONNECTIONS = 500  # at once; more are told to come again
KEEP_ALIVE_SECONDS = 15
REQUEST_SECONDS = 15.0  # for a request's head to arrive
HEADER_BYTES = 65_536
BACKLOG = 512


class GatewayError(Exception):
    """The gateway cannot listen; the text says why, and what to do."""


class Gateway:
    """Serves `app` at `listen`, "host:port"; port 0 takes any free one (tests)."""

    def __init__(self, app: App, listen: str, *, shutdown_seconds: float = 5.0) -> None:
        self._app = app
        self._listen = listen
        self._seconds = shutdown_seconds
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """Where it listens, once it does."""
        return self._port

    async def start(self) -> None:
        """Listen. When this returns, whoever connects is served. Raises GatewayError."""
        listening = await asyncio.to_thread(bind, self._listen)  # a host name is looked up
        self._port = listening.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            loop="none",
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # each malformed request is a warning of uvicorn's, and strangers make them
            access_log=False,
            server_header=False,
            # Only a proxy on this machine is believed when it says whom it asks for.
            proxy_headers=True,
            forwarded_allow_ips="127.0.0.1,::1",
            limit_concurrency=CONNECTIONS,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(self._seconds)),
            h11_max_incomplete_event_size=HEADER_BYTES,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve([listening]), name="gateway")
        while not self._server.started:
            if self._task.done():
                listening.close()
                raise GatewayError(f"gateway.listen: {self._listen}: the server did not start")
            await asyncio.sleep(0)
        if not _is_local(self._listen):
            log.warning(
                "the gateway listens beyond this machine, and /metrics with it, unencrypted: put a reverse proxy "
                "with TLS before it, and let nobody else reach that port",
                extra={"listen": self._listen},
            )

    async def close(self) -> None:
        """Take no more requests, finish those that are being answered. Safe to call twice."""
        task, self._task = self._task, None
        if task is None or self._server is None:
            return
        self._server.should_exit = True
        await task


class _Protocol(H11Protocol):
    """Ends connections on which no request arrives, byte by byte or not at all: uvicorn waits for ever, and so few
    who say nothing could take all the places."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._last: object = None
        self._timer = self.loop.call_later(REQUEST_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        answered = self.cycle is None or self.cycle.response_complete
        if answered and self.cycle is self._last:
            self.transport.close()
            return
        self._last = self.cycle if answered else None
        self._timer = self.loop.call_later(REQUEST_SECONDS, self._look)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The daemon's handlers stay."""
        yield


def bind(listen: str) -> socket.socket:
    """A socket that listens at "host:port". Raises GatewayError."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    made: socket.socket | None = None
    try:
        if not 0 <= int(port) <= 65_535:
            raise ValueError("there is no such port")
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(BACKLOG)
        made.setblocking(False)
    except (OSError, ValueError) as error:
        if made is not None:
            made.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        taken = (
            " (by another program, or by another run of this one)" if getattr(error, "errno", 0) == EADDRINUSE else ""
        )
        raise GatewayError(f"gateway.listen: {listen}: {reason}{taken}") from None
    return made


def _is_local(listen: str) -> bool:
    host = listen.rpartition(":")[0].strip("[]")
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
