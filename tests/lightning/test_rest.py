"""What any server can do to whoever asks it: answer in drips, compressed, or without an end."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from dvm.lightning import rest
from dvm.lightning.base import WalletError
from dvm.lightning.rest import NotSent, Refused, Rest
from tests.standins.ports import free_port

Answering = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def answering(answer: Answering, timeout: float = 20.0) -> AsyncIterator[tuple[Rest, list[bytes]]]:
    """A client of a server that answers like that, and the heads of the requests."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = Rest(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout=timeout)
    try:
        yield client, asked
    finally:
        await client.close()
        server.close()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = (f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize("part", ["head", "body"])
async def test_an_answer_in_drips_is_given_up(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "_PATIENCE", 1)  # so that no single wait, however slow the machine, is longer

    async def drip(writer: asyncio.StreamWriter) -> None:
        whole = answer(b"7" * 50_000, *(f"X-{n}: {n}" for n in range(5_000)))
        if part == "body":
            head, _, whole = whole.partition(b"\r\n\r\n")
            writer.write(head + b"\r\n\r\n")
        for byte in whole:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.01)

    async with answering(drip, timeout=1.0) as (client, _):
        with pytest.raises(WalletError, match=r"unreachable: .*no whole answer within 1 s") as refused:
            await client.get("/v1/getinfo")
        assert not isinstance(refused.value, NotSent), "it may have been done"


@pytest.mark.parametrize("status", ["200 OK", "500 Internal Server Error"])
async def test_no_compressed_answer_is_asked_for_or_unpacked(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "MAX_ANSWER", 1_000)
    bomb = answer(gzip.compress(bytes(100_000)), "Content-Encoding: gzip", status=status)

    async def explode(writer: asyncio.StreamWriter) -> None:
        writer.write(bomb)
        await writer.drain()

    async with answering(explode) as (client, asked):
        with pytest.raises(WalletError) as refused:
            await client.get("/v1/getinfo")
        assert b"accept-encoding: identity" in asked[0].lower()
        if status == "200 OK":
            assert str(refused.value) == "untrustworthy: a compressed answer, which was not asked for"
        else:
            assert isinstance(refused.value, Refused)
            assert refused.value.body == {}


@pytest.mark.parametrize("depth", [3, 1_000])
async def test_what_a_refusal_says_may_be_nested_as_deep_as_it_likes(depth: int) -> None:
    body = b'{"error":' * depth + b'"too\\nlittle"' + b"}" * depth

    async def refuse(writer: asyncio.StreamWriter) -> None:
        writer.write(answer(body, status="500 Internal Server Error"))
        await writer.drain()

    async with answering(refuse) as (client, _):
        with pytest.raises(Refused, match="failed: GET /v1/getinfo: 500 too little"):
            await client.get("/v1/getinfo")


@pytest.mark.parametrize("url", ["http://\x00", "http://localhost:ten", "http://" + "ä" * 300])
def test_an_address_that_is_none_is_said_at_once(url: str) -> None:
    with pytest.raises(WalletError, match=r"wallet\.url is no address"):
        Rest(url)


async def test_an_answer_without_an_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "MAX_ANSWER", 1_000)

    async def pour(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"7" * 500)
            await writer.drain()

    async with answering(pour) as (client, _):
        with pytest.raises(WalletError, match="untrustworthy: an answer of more than 1000 bytes"):
            await client.get("/v1/getinfo")


async def test_what_cannot_have_arrived_is_told_apart() -> None:
    client = Rest(f"http://127.0.0.1:{free_port()}", timeout=20.0)
    with pytest.raises(NotSent, match="is it running"):
        await client.post("/v1/pay", {})
    await client.close()
    with pytest.raises(NotSent, match="the wallet was closed"):
        await client.post("/v1/pay", {})
