"""Uploading to Blossom servers: what is asked, what is believed, and what happens when they fail."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.responses import Response

from dvm.nostr.blossom import WORTH_ASKING, Blossom, Stored, UploadError
from dvm.nostr.keys import Keys
from tests.standins.blossom import Blossom as Server
from tests.standins.blossom import blossom
from tests.standins.relay import free_port

DATA = b"\x89PNG" + bytes(range(256)) * 300
DIGEST = hashlib.sha256(DATA).hexdigest()
ELSEWHERE = f"https://cdn.example.com/{DIGEST}.png"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with blossom() as each:
        yield each


@pytest.fixture
async def second() -> AsyncIterator[Server]:
    async with blossom() as each:
        yield each


async def upload(*servers: str, keys: Keys | None = None, timeout: float = 5.0, data: bytes = DATA) -> Stored:
    client = Blossom(keys or Keys.generate(), servers, timeout=timeout, pause=0)
    try:
        return await client.upload(data, "image/png")
    finally:
        await client.close()
        await client.close()


async def refused(*servers: str, **settings: Any) -> str:
    with pytest.raises(UploadError) as caught:
        await upload(*servers, **settings)
    return str(caught.value)


async def test_a_file_is_stored_under_our_key(server: Server) -> None:
    keys = Keys.generate()
    stored = await upload(f"{server.url}/", keys=keys)
    assert stored == Stored(f"{server.url}/{DIGEST}.bin", DIGEST, len(DATA), "image/png")
    assert server.files[DIGEST] == (DATA, "image/png", keys.pubkey)
    assert server.get(stored.url) == (DATA, "image/png")


async def test_the_same_file_again_is_the_same_address(server: Server) -> None:
    assert await upload(server.url) == await upload(server.url)
    assert len(server.files) == 1


async def test_any_length_of_authorisation_is_readable_by_old_and_new_servers(server: Server) -> None:
    """The stand-in decodes it in both alphabets and takes no padding; the numbers in it differ in length."""
    for seconds in (10, 10**6, 10**9, 1_700_000_000):
        client = Blossom(Keys.generate(), (server.url,), clock=lambda at=seconds: at)  # type: ignore[misc]
        header = client._authorization("upload", DIGEST)
        assert not set("+/-_=") & set(header.partition(" ")[2])
        assert len(header.partition(" ")[2]) % 4 == 0


async def test_the_next_server_is_asked_when_one_fails(server: Server, second: Server) -> None:
    server.answer = Response("<html>Bad gateway</html>", 502, media_type="text/html")
    dead = f"http://127.0.0.1:{free_port()}"
    stored = await upload(dead, server.url, second.url)
    assert stored.url.startswith(second.url)
    assert (server.puts, second.puts) == (1, 1)


async def test_the_order_is_the_operators(server: Server, second: Server) -> None:
    assert (await upload(second.url, server.url)).url.startswith(second.url)
    assert server.puts == 0


async def test_a_server_that_fails_for_a_moment_is_asked_again(server: Server) -> None:
    server.answer, server.times = Response("", 503), 1
    assert (await upload(server.url)).sha256 == DIGEST
    assert server.puts == 2


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "does not take our key"),
        (402, "wants to be paid"),
        (403, "status 403: go away"),
        (413, "too large"),
        (415, "go away"),
        (301, "status 301"),
        (204, "status 204"),
    ],
)
async def test_who_refuses_for_good_is_asked_once(server: Server, status: int, said: str) -> None:
    headers = {"X-Reason": "go\x7f away", "Location": "http://127.0.0.1:1/upload"}
    server.answer = Response("", status, headers=headers)
    assert said.replace("go away", "go") in (await refused(server.url)).replace("go  away", "go")
    assert server.puts == 1


async def test_the_reason_is_read_where_the_server_puts_it(server: Server) -> None:
    server.answer = Response(json.dumps({"message": "no\nvideos" + "!" * 5000}), 400)
    text = await refused(server.url)
    assert "status 400: no videos!!" in text
    assert len(text) < 1000
    server.answer = Response("", 403, headers={"Blossom-Upload-Message": "not you"})
    assert "status 403: not you" in await refused(server.url)
    server.answer = Response(json.dumps(["message"]), 400)
    assert (await refused(server.url)).endswith("status 400")


async def test_a_stranger_to_the_server_is_told_so(server: Server) -> None:
    server.allowed = set()
    for data in (DATA, b"small"):
        assert "not on the list" in await refused(server.url, data=data)


# The question before an upload (BUD-06)


async def test_a_long_file_is_asked_about_and_a_short_one_is_not(server: Server) -> None:
    await upload(server.url)
    assert (server.asks, server.puts) == (1, 1)
    await upload(server.url, data=b"x" * WORTH_ASKING)
    assert (server.asks, server.puts) == (1, 2)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "does not take our key"),
        (402, "wants to be paid"),
        (403, "status 403: go away"),
        (413, "too large"),
        (415, "files of this type"),
    ],
)
async def test_nothing_is_sent_to_a_server_that_would_not_take_it(
    server: Server, second: Server, status: int, said: str
) -> None:
    server.question = Response("", status, headers={"X-Reason": "go away"})
    assert said in await refused(server.url)
    assert (server.asks, server.puts) == (1, 0)
    assert (await upload(server.url, second.url)).url.startswith(second.url)


@pytest.mark.parametrize("status", [429, 503])
async def test_who_cannot_take_it_now_is_asked_once_more(server: Server, status: int) -> None:
    server.question = Response("", status)
    assert f"status {status}" in await refused(server.url)
    assert (server.asks, server.puts) == (2, 0)


@pytest.mark.parametrize(
    "question",
    [*(Response("", status) for status in (404, 405, 501)), None],
    ids=["404", "405", "501", "hangs"],
)
async def test_who_does_not_know_the_question_gets_the_file_and_is_not_asked_again(
    server: Server, question: Response | None
) -> None:
    server.question = question or server.hang
    client = Blossom(Keys.generate(), (server.url,), timeout=4.0)
    for _ in range(2):
        assert (await client.upload(DATA, "image/png")).sha256 == DIGEST
    assert (server.asks, server.puts) == (1, 2)
    await client.close()


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "500 Internal Server Error"])
async def test_a_question_that_is_answered_with_a_body_costs_no_more_than_an_attempt(status: str) -> None:
    """HTTP has none there, and it would be read as the beginning of the next answer."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                asked.append(head.split()[0])
                if asked[-1] == "head":
                    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nhello".encode())
                    continue
                await reader.readexactly(len(DATA))
                told = json.dumps({"url": f"{url}/{DIGEST}", "sha256": DIGEST})
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(told)}\r\n\r\n{told}".encode())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        assert (await upload(url)).sha256 == DIGEST
    assert asked == ["head", "put", "put"]


@pytest.mark.parametrize("status", [204, 301, 400, 411, 418, 500])
async def test_an_answer_that_refuses_nothing_keeps_no_file_back(server: Server, status: int) -> None:
    server.question = Response("", status, headers={"Location": "http://127.0.0.1:1/upload"})
    assert (await upload(server.url)).sha256 == DIGEST


async def test_the_question_alone_says_yes_no_or_nothing(server: Server) -> None:
    client = Blossom(Keys.generate(), (server.url,))
    assert await client.allows(server.url, 10, "image/png", DIGEST)
    server.question = Response("", 405)
    assert not await client.allows(server.url, 10, "image/png", DIGEST)
    server.question = Response("", 413)
    with pytest.raises(UploadError, match="too large"):
        await client.allows(server.url, 10**9, "image/png", DIGEST)
    with pytest.raises(UploadError, match="Connect"):
        await client.allows(f"http://127.0.0.1:{free_port()}", 10, "image/png", DIGEST)
    assert not server.puts
    await client.close()


async def test_what_was_uploaded_is_taken_back(server: Server) -> None:
    client = Blossom(Keys.generate(), (server.url,))
    await client.upload(DATA, "image/png")
    server.deleting = Response("", 405)
    with pytest.raises(UploadError, match="status 405"):
        await client.delete(server.url, DIGEST)
    server.deleting = None
    await client.delete(f"{server.url}/", DIGEST)
    assert not server.files
    with pytest.raises(UploadError, match="status 404"):
        await client.delete(server.url, DIGEST)
    await client.close()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sha256": "0" * 64}, "hash differs"),
        ({"sha256": None}, "hash differs"),
        ({"size": 1}, "size differs"),
        ({"url": None}, "does not say where"),
        ({"url": 7}, "does not say where"),
        ({"url": f"http://example.com/{DIGEST}"}, "not https://"),
        ({"url": f"file:///{DIGEST}"}, "none to send anyone to"),
        ({"url": f"javascript:alert('{DIGEST}')"}, "none to send anyone to"),
        ({"url": f"https://user:pw@example.com/{DIGEST}"}, "none to send anyone to"),
        ({"url": f"https://example.com/{DIGEST}\nhttps://evil.example"}, "none to send anyone to"),
        ({"url": "https://example.com/latest.png"}, "does not hold its hash"),
        ({"url": f"https://example.com/?{DIGEST}"}, "does not hold its hash"),
        ({"url": "https://example.com/" + DIGEST * 20}, "none to send anyone to"),
    ],
)
async def test_a_descriptor_that_cannot_be_right_is_not_believed(
    server: Server, changes: dict[str, Any], said: str
) -> None:
    server.changes = changes
    assert said in await refused(server.url)
    assert server.puts == 1


async def test_a_file_may_be_at_another_address_over_https(server: Server) -> None:
    server.changes = {"url": ELSEWHERE, "size": None, "extra": [1]}
    assert (await upload(server.url)).url == ELSEWHERE


@pytest.mark.parametrize(
    ("body", "said"),
    [("<html>", "no JSON"), ("[]", "no descriptor"), ("7", "no descriptor"), ("", "no JSON"), ("x" * 100_000, "large")],
)
async def test_an_answer_that_is_no_descriptor_is_refused(server: Server, body: str, said: str) -> None:
    server.answer = Response(body, 200)
    assert said in await refused(server.url)


async def test_a_compressed_answer_is_not_unpacked(server: Server) -> None:
    server.answer = Response("x", 200, headers={"Content-Encoding": "gzip"})
    assert "compressed" in await refused(server.url)


async def test_a_server_that_hangs_is_left(server: Server, second: Server) -> None:
    server.hangs = True
    assert (await upload(server.url, second.url, timeout=1.0)).url.startswith(second.url)
    assert "no answer within 0.1 s" in await refused(server.url, timeout=0.1)


async def test_without_a_server_it_says_so() -> None:
    assert "no server" in await refused()


async def test_a_cancelled_upload_ends(server: Server) -> None:
    server.hangs = True
    client = Blossom(Keys.generate(), (server.url,))
    task = asyncio.create_task(client.upload(DATA, "image/png"))
    while not server.puts:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await client.close()
