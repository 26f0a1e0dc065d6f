"""A stranger's HTTP server: an LNURL provider that can lie, fail, and be slow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dvm.gateway.server import Gateway

Answer = Callable[[Request], Awaitable[Response]]


class StrangersServer:
    """Answers at `url`. `pages` are what stands at each path: JSON, a Response, or a function of the request."""

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {}
        self.asked: list[str] = []  # paths, with their queries
        self.headers: list[dict[str, str]] = []
        self.closing = asyncio.Event()
        self._gateway = Gateway(self._serve, "127.0.0.1:0", shutdown_seconds=1)

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self._gateway.port}"

    @property
    def url(self) -> str:
        return f"http://{self.authority}"

    def pays(self, name: str, **changes: Any) -> str:
        """Offer LNURL-pay under that name; its Lightning address. A change to None leaves the field out."""
        offer = {
            "tag": "payRequest",
            "callback": f"{self.url}/pay/{name}",
            "minSendable": 1_000,
            "maxSendable": 100_000_000,
            "metadata": json.dumps([["text/plain", f"Pay {name}"]]),
            **changes,
        }
        self.pages[f"/.well-known/lnurlp/{name}"] = {key: value for key, value in offer.items() if value is not None}
        return f"{name}@{self.authority}"

    async def hang(self, _request: Request) -> Response:
        """A page that never comes."""
        await self.closing.wait()
        return Response("too late")

    async def start(self) -> None:
        await self._gateway.start()

    async def close(self) -> None:
        self.closing.set()
        await self._gateway.close()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.asked.append(f"{request.url.path}?{request.url.query}".rstrip("?"))
        self.headers.append(dict(request.headers))
        page = self.pages.get(request.url.path, Response("nothing here", 404))
        if callable(page) and not isinstance(page, Response):
            page = await page(request)
        if not isinstance(page, Response):
            page = Response(json.dumps(page), media_type="application/json")
        await page(scope, receive, send)


@asynccontextmanager
async def strangers_server() -> AsyncIterator[StrangersServer]:
    server = StrangersServer()
    await server.start()
    try:
        yield server
    finally:
        await server.close()
