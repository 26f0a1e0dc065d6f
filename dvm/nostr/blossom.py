"""Blossom: files on HTTP servers, addressed by their hash (BUD-01, BUD-02, BUD-06; authorisation: kind 24242).

The servers are the operator's choice, so they may stand anywhere; what they answer is not believed: it must name
the hash that we computed, and an address that a customer can be sent to.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson

from dvm.nostr.addresses import AddressRefused, check_url
from dvm.nostr.frames import clean
from dvm.nostr.keys import Keys

if TYPE_CHECKING:
    import httpx

AUTHORIZATION = 24242
ROUNDS = 2
_PURPOSES = {"upload": "Upload the result of a job", "delete": "Delete a file of a test"}
_PAUSE_SECONDS = 1.0
_VALID_SECONDS = 600
# Some servers refuse what was signed in their future: a clock may be off by so much.
_BACKDATED_SECONDS = 30
_MAX_ANSWER_BYTES = 65_536
_PASSING = frozenset({408, 425, 429})
# A smaller file is sent as quickly as the question whether it may be.
WORTH_ASKING = 65_536
_ASKING_SECONDS = 5.0
# What BUD-06 has for a refusal that the upload would meet as well. Anything else may be a server that knows no
# HEAD /upload, and says so in its own way: the upload itself then tells.
_REFUSALS = frozenset({401, 402, 403, 413, 415, 429, 503})
_UNKNOWN = frozenset({404, 405, 501})


@dataclass(frozen=True, slots=True)
class Stored:
    """A file on a server: where anyone finds it, and what it is."""

    url: str
    sha256: str
    size: int
    mime: str


class UploadError(Exception):
    """No server took the file (or gave it up); the text says of each why, for the operator, and is bounded."""


class _Refused(Exception):
    """This server did not take it; `passing`: it may later."""

    def __init__(self, text: str, *, passing: bool) -> None:
        super().__init__(text)
        self.passing = passing


class Blossom:
    """Uploads to the first of `servers` that takes a file. Safe to use from many tasks; close it in the end.

    `timeout`, in seconds, bounds one attempt at one server. Who refuses for good is not asked a second time. Before
    more than WORTH_ASKING bytes are sent the server is asked whether it takes them (BUD-06): some break a long upload
    off without a word on why. A server that does not know the question is not asked it again.
    """

    def __init__(
        self,
        keys: Keys,
        servers: Sequence[str],
        *,
        timeout: float = 30.0,
        pause: float = _PAUSE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self.servers = tuple(dict.fromkeys(server.rstrip("/") for server in servers))
        self._timeout = timeout
        self._pause = pause
        self._clock = clock
        self._client: httpx.AsyncClient | None = None
        self._unasked: set[str] = set()  # servers that do not know BUD-06

    async def close(self) -> None:
        """Safe to call twice."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def upload(self, data: bytes, mime: str) -> Stored:
        """The file, once a server has it. The same file again has the same hash. Raises UploadError."""
        digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        left = list(self.servers)
        reasons: dict[str, str] = {}
        for turn in range(ROUNDS):
            if turn and left:
                await asyncio.sleep(self._pause)
            for server in list(left):
                try:
                    return await self._put(server, data, mime, digest)
                except _Refused as error:
                    reasons[server] = str(error)
                    if not error.passing:
                        left.remove(server)
        raise UploadError(_told(reasons) or "there is no server to upload to")

    async def allows(self, server: str, size: int, mime: str, digest: str) -> bool:
        """Whether that server says that it takes such a file (BUD-06); False where it does not say.

        Raises UploadError where it says that it does not.
        """
        try:
            async with self._attempt() as client:
                return await self._asked(client, server, size, mime, digest, self._authorization("upload", digest))
        except _Refused as error:
            raise UploadError(_told({server: str(error)})) from None

    async def delete(self, server: str, digest: str) -> None:
        """Take our file back (BUD-02). Raises UploadError; not every server lets anyone."""
        try:
            async with self._attempt() as client:
                headers = {"Authorization": self._authorization("delete", digest)}
                response, body = await _send(client, "DELETE", f"{server.rstrip('/')}/{digest}", headers)
            if not response.is_success:
                raise _refusal(response, body)
        except _Refused as error:
            raise UploadError(_told({server: str(error)})) from None

    async def _put(self, server: str, data: bytes, mime: str, digest: str) -> Stored:
        import httpx

        authorization = self._authorization("upload", digest)
        async with self._attempt() as client:
            if len(data) > WORTH_ASKING and server not in self._unasked:
                await self._asked(client, server, len(data), mime, digest, authorization)
            headers = {"Authorization": authorization, "Content-Type": mime, "X-SHA-256": digest}
            try:
                response, body = await _send(client, "PUT", f"{server}/upload", headers, data)
            except httpx.RemoteProtocolError:
                # Some send a body after the answer to a HEAD, which then stands where this answer should be.
                self._unasked.add(server)
                raise
        if response.status_code not in (200, 201):
            raise _refusal(response, body)
        return _stored(server, body, mime, digest, len(data))

    async def _asked(
        self, client: httpx.AsyncClient, server: str, size: int, mime: str, digest: str, authorization: str
    ) -> bool:
        """BUD-06: HEAD /upload. Raises _Refused, and what httpx raises where there is no connection at all."""
        import httpx

        headers = {
            "Authorization": authorization,
            "X-SHA-256": digest,
            "X-Content-Type": mime,
            "X-Content-Length": str(size),
        }
        try:
            async with asyncio.timeout(min(_ASKING_SECONDS, self._timeout / 4)):
                response, body = await _send(client, "HEAD", f"{server.rstrip('/')}/upload", headers)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise
        except (TimeoutError, httpx.HTTPError, _Refused):  # who chokes on the question may take the file
            self._unasked.add(server)
            return False
        if response.status_code in _REFUSALS:
            raise _refusal(response, body)
        if response.status_code in _UNKNOWN:
            self._unasked.add(server)
        return response.is_success

    @asynccontextmanager
    async def _attempt(self) -> AsyncIterator[httpx.AsyncClient]:
        """Bounds what is done within, and turns what can go wrong on the way into _Refused."""
        import httpx  # a tenth of a second, which a start need not wait for

        if self._client is None:
            # Redirects are not followed: they would carry file and authorisation to wherever they point.
            self._client = httpx.AsyncClient(timeout=self._timeout, follow_redirects=False, trust_env=False)
        try:
            async with asyncio.timeout(self._timeout):
                yield self._client
        except TimeoutError:
            raise _Refused(f"no answer within {self._timeout:g} s", passing=True) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, UnicodeError) as error:
            raise _Refused(f"{type(error).__name__}: {clean(str(error))}".rstrip(": "), passing=True) from None

    def _authorization(self, verb: str, digest: str) -> str:
        """The header's value. Without a `server` tag: servers read that differently, and all that it would keep
        others from is storing the same public file, or taking it away from there."""
        now = int(self._clock())
        tags = [["t", verb], ["x", digest], ["expiration", str(now + _VALID_SECONDS)]]
        event = self._keys.sign(AUTHORIZATION, tags, _PURPOSES[verb], now - _BACKDATED_SECONDS)
        text = event.to_json().encode()
        # BUD-11 wants base64url without padding, older servers padded base64. JSON ends in any number of blanks,
        # so there is no padding; and this event's characters leave no sextet in which the two alphabets differ.
        return "Nostr " + base64.urlsafe_b64encode(text + b" " * (-len(text) % 3)).decode()


def _told(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{urlsplit(server).netloc}: {reason}" for server, reason in reasons.items())


async def _send(
    client: httpx.AsyncClient, method: str, url: str, headers: dict[str, str], data: bytes | None = None
) -> tuple[httpx.Response, bytes]:
    """The answer and its body. Raises _Refused, and what httpx raises."""
    headers = {**headers, "Accept-Encoding": "identity"}
    async with client.stream(method, url, content=data, headers=headers) as response:
        return response, await _read(response)


async def _read(response: httpx.Response) -> bytes:
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise _Refused("the answer is compressed, although none was asked for", passing=False)
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > _MAX_ANSWER_BYTES:
            raise _Refused("the answer is too large", passing=False)
    return bytes(body)


def _refusal(response: httpx.Response, body: bytes) -> _Refused:
    """What the server says of itself: a header (BUD-06, older: X-Reason) or the JSON's `message` (BUD-01)."""
    status = response.status_code
    said = response.headers.get("x-reason") or response.headers.get("blossom-upload-message") or ""
    if not said:
        try:
            found = orjson.loads(body)
        except orjson.JSONDecodeError:
            found = None
        if isinstance(found, dict) and isinstance(found.get("message"), str):
            said = found["message"]
    known = {
        401: "it does not take our key",
        402: "it wants to be paid",
        413: "the file is too large for it",
        415: "it does not take files of this type",
    }
    text = ": ".join(each for each in (f"status {status}", known.get(status, ""), clean(said)) if each)
    return _Refused(text, passing=status >= 500 or status in _PASSING)


def _stored(server: str, body: bytes, mime: str, digest: str, size: int) -> Stored:
    """The descriptor (BUD-02), checked."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise _Refused("the answer is no JSON", passing=False) from None
    if not isinstance(found, dict):
        raise _Refused("the answer is no descriptor of a file", passing=False)
    if found.get("sha256") != digest:
        raise _Refused("it has stored something else: the hash differs", passing=False)
    if found.get("size") not in (None, size):
        raise _Refused("it has stored something else: the size differs", passing=False)
    url = found.get("url")
    if not isinstance(url, str):
        raise _Refused("it does not say where the file is", passing=False)
    return Stored(_checked(server, url, digest), digest, size, mime)


def _checked(server: str, url: str, digest: str) -> str:
    """An address for customers: https:// anywhere, or on the operator's own server, whatever that is."""
    try:
        place, own = check_url(url, ("https", "http")), check_url(server, ("https", "http"))
    except AddressRefused as error:
        raise _Refused(f"the file's address is none to send anyone to: {error}", passing=False) from None
    if place.scheme != "https" and (place.scheme, place.host, place.port) != (own.scheme, own.host, own.port):
        raise _Refused("the file's address is not https://", passing=False)
    # BUD-01: wherever a file is, its address holds its hash; anything else may become another file tomorrow.
    if digest not in urlsplit(place.url).path.lower():
        raise _Refused("the file's address does not hold its hash", passing=False)
    return place.url
