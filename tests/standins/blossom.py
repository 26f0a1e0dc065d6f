"""A Blossom server on loopback, strict about what it is sent (BUD-01, 02, 06, 11), which can fail in every way."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dvm.nostr.event import Event
from tests.standins.lnurl_server import Answer, StrangersServer

PATH = re.compile(r"/([0-9a-f]{64})(?:\.[a-z0-9]+)?$")

NOT_YOU = Response("", 403, headers={"X-Reason": "not on the list"})


class Blossom:
    """`files` is what it holds, by hash, with its type and its owner. `puts` counts uploads that were asked for,
    `asks` the questions before them (BUD-06).

    `answer`, when set, is what each upload gets instead (a Response), for `times` of them or for ever; `hangs`: none
    is answered at all. `question`, when set, is what each question gets instead, or what answers it; `deleting` what
    a deletion gets, `page` whoever fetches. `changes` are fields of the descriptor; None takes one out. `allowed`:
    whose uploads it takes. `pages` are all that it answers, `take` how it takes an upload.
    """

    def __init__(self, server: StrangersServer) -> None:
        self._server = server
        self.files: dict[str, tuple[bytes, str, str]] = {}
        self.puts = self.asks = 0
        self.answer: Response | None = None
        self.times: int | None = None
        self.question: Response | Answer | None = None
        self.deleting: Response | None = None
        self.page: Response | None = None
        self.hangs = False
        self.changes: dict[str, Any] = {}
        self.allowed: set[str] | None = None
        self.authorizations: list[Event] = []
        self.pages = server.pages
        self.pages["/upload"] = self.take

    @property
    def url(self) -> str:
        return self._server.url

    def get(self, url: str) -> tuple[bytes, str]:
        """The file at that URL of this server, and its type."""
        assert url.startswith(self.url)
        match = PATH.search(url)
        assert match
        data, mime, _ = self.files[match[1]]
        return data, mime

    async def hang(self, request: Request) -> Response:
        """Answers nothing: for `question`."""
        return await self._server.hang(request)

    async def take(self, request: Request) -> Response:
        """An upload, or the question before it."""
        if request.method == "HEAD":
            return await self._asked(request)
        self.puts += 1
        if self.hangs:
            return await self.hang(request)
        body = await request.body()
        if self.answer is not None and self.times != 0:
            self.times = None if self.times is None else self.times - 1
            return self.answer
        digest = hashlib.sha256(body).hexdigest()
        try:
            owner = self._authorized(request, digest, "upload")
        except ValueError as error:
            return Response(json.dumps({"message": str(error)}), 401, media_type="application/json")
        if request.method != "PUT" or request.headers.get("x-sha-256") != digest:
            return Response("", 400, headers={"X-Reason": "PUT with X-SHA-256 expected"})
        if self.allowed is not None and owner not in self.allowed:
            return NOT_YOU
        mime = request.headers.get("content-type", "application/octet-stream")
        self.files[digest] = (body, mime, owner)
        descriptor = {
            "url": f"{self.url}/{digest}.bin",
            "sha256": digest,
            "size": len(body),
            "type": mime,
            "uploaded": int(time.time()),
            **self.changes,
        }
        for path in (f"/{digest}", f"/{digest}.bin"):
            self.pages[path] = self._file
        kept = {key: value for key, value in descriptor.items() if value is not None}
        return Response(json.dumps(kept), 201, media_type="application/json")

    async def _asked(self, request: Request) -> Response:
        self.asks += 1
        if self.question is not None:
            return self.question if isinstance(self.question, Response) else await self.question(request)
        headers = request.headers
        if not headers["x-content-length"].isdecimal() or "/" not in headers["x-content-type"]:
            return Response("", 400)
        try:
            owner = self._authorized(request, headers["x-sha-256"], "upload")
        except ValueError as error:
            return Response("", 401, headers={"X-Reason": str(error)})
        return NOT_YOU if self.allowed is not None and owner not in self.allowed else Response("")

    async def _file(self, request: Request) -> Response:
        digest = request.url.path[1:65]
        if digest not in self.files:
            return Response("", 404)
        data, mime, owner = self.files[digest]
        if request.method != "DELETE":
            return self.page or Response(data, media_type=mime)
        if self.deleting is not None:
            return self.deleting
        try:
            if self._authorized(request, digest, "delete") != owner:
                return NOT_YOU
        except ValueError as error:
            return Response("", 401, headers={"X-Reason": str(error)})
        del self.files[digest]
        return Response("", 204)

    def _authorized(self, request: Request, digest: str, verb: str) -> str:
        """Who asks for that. Raises ValueError, saying what is wrong."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Nostr":
            raise ValueError("no Nostr authorisation")
        # As new servers read it, and as old ones do.
        if base64.b64decode(token, validate=True) != base64.urlsafe_b64decode(token) or "=" in token:
            raise ValueError("not readable by every server")
        event = Event.from_json(base64.b64decode(token))
        if not event.verify():
            raise ValueError("forged")
        now = time.time()
        expirations = [int(tag[1]) for tag in event.tags if tag[0] == "expiration"]
        if event.kind != 24242 or not event.content or event.created_at > now:
            raise ValueError("no authorisation of kind 24242")
        if len(expirations) != 1 or not now < expirations[0] < now + 3600:
            raise ValueError("expired, or valid for too long")
        if [tag[1] for tag in event.tags if tag[0] == "t"] != [verb]:
            raise ValueError("not for this")
        if digest not in [tag[1] for tag in event.tags if tag[0] == "x"]:
            raise ValueError("for another file")
        self.authorizations.append(event)
        return event.pubkey


@asynccontextmanager
async def blossom() -> AsyncIterator[Blossom]:
    server = StrangersServer()
    await server.start()
    try:
        yield Blossom(server)
    finally:
        await server.close()
