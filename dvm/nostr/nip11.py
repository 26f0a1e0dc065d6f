"""NIP-11: what a relay says of itself. All of it is hearsay, and every field may be missing or wrong."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from dvm.nostr.addresses import AddressRefused, check_url
from dvm.nostr.frames import clean

if TYPE_CHECKING:
    import httpx

_MAX_NUMBER = 1 << 53
_MAX_NIPS = 500


class RelayInfoUnavailable(Exception):
    """The document could not be had or read; the text says why."""


@dataclass(frozen=True, slots=True)
class Limitation:
    """A relay's limits. None: not said. Lengths are bytes (of a message) or characters (of a content)."""

    max_message_length: int | None = None
    max_subscriptions: int | None = None
    max_filters: int | None = None
    max_limit: int | None = None
    default_limit: int | None = None
    max_subid_length: int | None = None
    max_event_tags: int | None = None
    max_content_length: int | None = None
    min_pow_difficulty: int | None = None
    created_at_lower_limit: int | None = None
    created_at_upper_limit: int | None = None
    auth_required: bool | None = None
    payment_required: bool | None = None
    restricted_writes: bool | None = None


@dataclass(frozen=True, slots=True)
class RelayInfo:
    """A relay's information document. `created_at` limits are seconds before and after now."""

    name: str = ""
    description: str = ""
    software: str = ""
    version: str = ""
    supported_nips: frozenset[int] = frozenset()
    limitation: Limitation = Limitation()


async def fetch_relay_info(
    url: str,
    *,
    timeout: float = 10,  # noqa: ASYNC109
    max_bytes: int = 131_072,
    client: httpx.AsyncClient | None = None,
) -> RelayInfo:
    """Ask the relay at a `ws://` or `wss://` URL for its document. Raises RelayInfoUnavailable.

    `timeout`, in seconds, holds for all of it. For configured relays: the address is not checked.
    """
    import httpx  # a tenth of a second, which a start need not wait for

    try:
        endpoint = check_url(url, ("ws", "wss"))
    except AddressRefused as error:
        raise RelayInfoUnavailable(str(error)) from None
    asker = client or httpx.AsyncClient(follow_redirects=False)
    try:
        async with asyncio.timeout(timeout):
            return parse_relay_info(await _get(asker, f"http{endpoint.url[2:]}", max_bytes))
    except TimeoutError:
        raise RelayInfoUnavailable("no answer in time") from None
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        raise RelayInfoUnavailable(f"{type(error).__name__}: {clean(str(error))}") from None
    finally:
        if client is None:
            await asker.aclose()


async def _get(client: httpx.AsyncClient, url: str, max_bytes: int) -> bytes:
    # Compression would let a small answer grow large in memory.
    headers = {"Accept": "application/nostr+json", "Accept-Encoding": "identity"}
    async with client.stream("GET", url, headers=headers) as response:
        if response.status_code != 200:
            raise RelayInfoUnavailable(f"HTTP status {response.status_code}")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > max_bytes:
                raise RelayInfoUnavailable(f"the document is larger than {max_bytes} bytes")
        return bytes(body)


def parse_relay_info(text: str | bytes) -> RelayInfo:
    """The document, read strictly: a field of the wrong type counts as missing. Raises RelayInfoUnavailable."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise RelayInfoUnavailable("the document is not JSON") from None
    if not isinstance(document, dict):
        raise RelayInfoUnavailable("the document is not a JSON object")
    limits = document.get("limitation")
    limits = limits if isinstance(limits, dict) else {}
    nips = document.get("supported_nips")
    nips = nips[:_MAX_NIPS] if isinstance(nips, list) else []
    return RelayInfo(
        name=_text(document, "name"),
        description=_text(document, "description"),
        software=_text(document, "software"),
        version=_text(document, "version"),
        supported_nips=frozenset(nip for nip in nips if type(nip) is int and 0 < nip < 100_000),
        limitation=Limitation(
            **{name: _number(limits, name) for name in _NUMBERS},
            **{name: _flag(limits, name) for name in _FLAGS},
        ),
    )


_FLAGS = ("auth_required", "payment_required", "restricted_writes")
_NUMBERS = tuple(name for name in Limitation.__slots__ if name not in _FLAGS)


def _text(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    return clean(value) if isinstance(value, str) else ""


def _number(document: dict[str, Any], name: str) -> Any:
    value = document.get(name)
    return value if type(value) is int and 0 <= value < _MAX_NUMBER else None


def _flag(document: dict[str, Any], name: str) -> Any:
    value = document.get(name)
    return value if isinstance(value, bool) else None
