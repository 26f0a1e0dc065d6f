"""HTTP to addresses that strangers name: LNURL servers, and `url` inputs of jobs.

Each connection goes to an address that was checked (see `dvm.nostr.addresses`), those of redirects too; the
name that was asked for stays what TLS verifies. Time and size are bounded, compressed answers refused: a small
one could grow large.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_plus, urlencode, urlsplit

import orjson

from dvm.nostr.addresses import AddressRefused, Endpoint, check_url, resolve_public
from dvm.nostr.frames import clean

if TYPE_CHECKING:
    import httpx

MAX_REDIRECTS = 3
_MAX_URL = 32_768  # a zap request travels in one


class FetchError(Exception):
    """Nothing was had from that address; the text says why, for people, and is bounded.

    `sent` is False where it is certain that no request has left.
    """

    def __init__(self, text: str, *, sent: bool = True) -> None:
        super().__init__(text)
        self.sent = sent


class BodyTooLarge(FetchError):
    """There is something, but more than was allowed."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer, whatever its status; `url` is where redirects have led, `type` its media type, in lower case,
    `charset` what was said of its characters, or ""."""

    url: str
    status: int
    type: str
    body: bytes
    charset: str = ""

    def json(self) -> Any:
        """The JSON in the body. Raises FetchError."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            raise FetchError(f"the answer is no JSON ({self.type or 'no type'}, status {self.status})") from None


class Fetcher:
    """Fetches with GET, over https:// and from onion services. Safe to use from many tasks; close it in the end.

    `allow_private` is for tests and for services on one's own machine: loopback and private addresses, http://.
    `plain` takes http:// as well, to public addresses like the rest. `timeout`, in seconds, holds for the whole of
    one fetch, redirects included.
    """

    def __init__(
        self, *, allow_private: bool = False, plain: bool = False, timeout: float = 10.0, max_bytes: int = 131_072
    ) -> None:
        self._allow_private = allow_private
        self._schemes = ("https", "http") if plain or allow_private else ("https",)
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._client: httpx.AsyncClient | None = None
        self._resolver: ThreadPoolExecutor | None = None

    async def close(self) -> None:
        """Safe to call twice."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
        if self._resolver is not None:
            self._resolver.shutdown(wait=False, cancel_futures=True)
            self._resolver = None

    async def _resolve(self, endpoint: Endpoint) -> list[str]:
        return await resolve_public(
            endpoint, timeout=self._timeout, executor=self._resolver, allow_private=self._allow_private
        )

    async def get(
        self,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        accept: str = "*/*",
        max_bytes: int | None = None,
    ) -> Fetched:
        """What is at that URL, with `params` added to its query. Raises FetchError, nothing else."""
        import httpx  # a tenth of a second, which a start need not wait for

        if self._client is None:
            # Its own few threads: names that never resolve must not use up those of everybody else.
            self._resolver = ThreadPoolExecutor(max_workers=4, thread_name_prefix="dvm-resolve")
            self._client = _client(httpx, self._schemes, self._resolve, self._timeout)
        try:
            async with asyncio.timeout(self._timeout):
                return await _get(self._client, _target(httpx, url, params), accept, max_bytes or self._max_bytes)
        except TimeoutError:
            raise FetchError(f"no answer within {self._timeout:g} s") from None
        except AddressRefused as error:
            raise FetchError(str(error), sent=False) from None
        except UnicodeError:
            raise FetchError("the address holds characters that no URL has", sent=False) from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise FetchError(f"no connection: {clean(str(error))}".rstrip(": "), sent=False) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise FetchError(f"{type(error).__name__}: {clean(str(error))}".rstrip(": ")) from None


def _target(httpx: Any, url: str, params: Mapping[str, str] | None) -> httpx.URL:
    if len(url) > _MAX_URL or not url.isprintable():
        raise AddressRefused("the address is too long, or holds characters that no URL has")
    target = httpx.URL(url)
    if params:
        own = [each for each in target.query.decode("ascii").split("&") if each]
        kept = [each for each in own if unquote_plus(each.partition("=")[0]) not in params]
        # A blank as %20: not every server reads + as one.
        query = "&".join([*kept, urlencode(params, quote_via=quote)])
        target = target.copy_with(query=query.encode("ascii"))
    if len(str(target)) > _MAX_URL:
        raise AddressRefused("the address is too long")
    return target  # type: ignore[no-any-return]


async def _get(client: httpx.AsyncClient, url: httpx.URL, accept: str, max_bytes: int) -> Fetched:
    headers = {"Accept": accept, "Accept-Encoding": "identity"}
    async with client.stream("GET", url, headers=headers) as response:
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise FetchError("the answer is compressed, although none was asked for")
        told = response.headers.get("content-length", "")
        if told.isascii() and told.isdecimal() and len(told) < 20 and int(told) > max_bytes:
            raise BodyTooLarge(f"the answer is larger than {max_bytes} bytes")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > max_bytes:
                raise BodyTooLarge(f"the answer is larger than {max_bytes} bytes")
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        charset = response.charset_encoding or ""
        return Fetched(str(response.url), response.status_code, clean(kind), bytes(body), clean(charset))


def _client(
    httpx: Any, schemes: tuple[str, ...], resolve: Callable[[Endpoint], Awaitable[list[str]]], timeout: float
) -> httpx.AsyncClient:
    """A client of which each connection, redirected or not, goes through the checks below."""

    class Checked(httpx.AsyncBaseTransport):  # type: ignore[misc]
        """Resolves once, checks, and connects to what was checked: a second look-up could differ."""

        def __init__(self) -> None:
            # Kept connections are told apart by address and not by name: none is kept.
            self._inner = httpx.AsyncHTTPTransport(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            parts = urlsplit(str(request.url))
            onion = (parts.hostname or "").rstrip(".").endswith(".onion")
            allowed = ("https", "http") if onion else schemes
            endpoint = check_url(f"{parts.scheme}://{parts.netloc}", allowed)
            found = await resolve(endpoint)
            failure: Exception = AddressRefused(f"{endpoint.host}: no such host")
            for ip in found:
                pinned = httpx.Request(
                    request.method,
                    request.url.copy_with(host=ip),
                    headers=request.headers,  # Host among them, as the name has it
                    stream=request.stream,
                    extensions={**request.extensions, "sni_hostname": endpoint.host},
                )
                try:
                    return await self._inner.handle_async_request(pinned)
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    failure = error
            raise failure

        async def aclose(self) -> None:
            await self._inner.aclose()

    return httpx.AsyncClient(  # type: ignore[no-any-return]
        transport=Checked(),
        timeout=timeout,
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
        trust_env=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # nobody is recognised again
    )
