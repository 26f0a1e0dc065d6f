"""A relay's own words about itself: read where they make sense, ignored where they do not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvm.nostr import Limitation, RelayInfo, RelayInfoUnavailable, fetch_relay_info
from dvm.nostr.nip11 import parse_relay_info

DOCUMENT = {
    "name": "A relay",
    "software": "https://example.com/relay",
    "version": "1.2",
    "supported_nips": [1, 9, 11, 42],
    "limitation": {"max_message_length": 131072, "max_subscriptions": 20, "auth_required": True},
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=10,
)


@asynccontextmanager
async def http_server(
    body: bytes, status: str = "200 OK", *, length: bool = True
) -> AsyncIterator[tuple[str, list[str]]]:
    """A server that gives the same answer to everyone, its URL as a relay's, and the requests that it saw."""
    requests: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        size = f"Content-Length: {len(body)}\r\n" if length else ""
        writer.write(f"HTTP/1.1 {status}\r\n{size}Connection: close\r\n\r\n".encode() + body)
        with suppress(ConnectionError):
            await writer.drain()
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests


async def test_the_document_is_fetched_and_read() -> None:
    async with http_server(json.dumps(DOCUMENT).encode()) as (url, requests):
        info = await fetch_relay_info(url)
    assert info == RelayInfo(
        name="A relay",
        software="https://example.com/relay",
        version="1.2",
        supported_nips=frozenset({1, 9, 11, 42}),
        limitation=Limitation(max_message_length=131072, max_subscriptions=20, auth_required=True),
    )
    assert "accept: application/nostr+json" in requests[0].lower()


@pytest.mark.parametrize("length", [True, False])
async def test_a_document_without_end_is_not_read(length: bool) -> None:
    async with http_server(b"x" * 3_000_000, length=length) as (url, _):
        with pytest.raises(RelayInfoUnavailable, match="larger than"):
            await fetch_relay_info(url)


@pytest.mark.parametrize("status", ["404 Not Found", "301 Moved\r\nLocation: http://127.0.0.1:1/", "500 Error"])
async def test_other_answers_are_no_document(status: str) -> None:
    async with http_server(json.dumps(DOCUMENT).encode(), status) as (url, requests):
        with pytest.raises(RelayInfoUnavailable, match="HTTP status"):
            await fetch_relay_info(url)
        assert len(requests) == 1


async def test_silence_refusal_and_nonsense_are_the_one_error() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(RelayInfoUnavailable, match="in time"):
        await fetch_relay_info(url, timeout=0.1)
    server.close()
    await server.wait_closed()
    with pytest.raises(RelayInfoUnavailable):
        await fetch_relay_info(url, timeout=5)
    with pytest.raises(RelayInfoUnavailable):
        await fetch_relay_info("https://relay.example")
    async with http_server(b"[]") as (url, _):
        with pytest.raises(RelayInfoUnavailable, match="JSON object"):
            await fetch_relay_info(url)


class Body(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"{}"


async def test_a_client_of_the_callers_is_used_and_left_open() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Body()))
    async with httpx.AsyncClient(transport=transport) as client:
        assert await fetch_relay_info("wss://relay.example", client=client) == RelayInfo()
        assert not client.is_closed


@given(JSON | st.fixed_dictionaries({}, optional={"name": JSON, "supported_nips": JSON, "limitation": JSON}))
def test_any_json_is_read_or_refused(document: object) -> None:
    try:
        info = parse_relay_info(json.dumps(document))
    except RelayInfoUnavailable:
        return
    assert len(info.name) <= 200
    assert all(type(nip) is int for nip in info.supported_nips)


@given(
    st.dictionaries(st.sampled_from(Limitation.__slots__), JSON),
)
def test_a_limit_of_the_wrong_type_counts_as_not_said(limits: dict[str, object]) -> None:
    info = parse_relay_info(json.dumps({"limitation": limits}))
    for name in Limitation.__slots__:
        value = getattr(info.limitation, name)
        assert value is None or (type(value) is type(limits[name]) and value == limits[name])


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_the_one_error(data: bytes) -> None:
    with suppress(RelayInfoUnavailable):
        parse_relay_info(data)
