"""Uploading to a Blossom server that is not ours: what it stores, gives to anyone, refuses, and lets go of."""

from __future__ import annotations

import hashlib
import time

import httpx
import pytest

from dvm.nostr.blossom import WORTH_ASKING, Blossom, UploadError
from dvm.nostr.keys import Keys
from tests.standins.khatru import khatru
from tests.standins.relay import free_port

pytestmark = pytest.mark.blossom

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 500
SMALL = PNG[:1000]
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(2000)
assert len(SMALL) < WORTH_ASKING < len(PNG)


@pytest.mark.parametrize(
    ("data", "mime"),
    [(PNG, "image/png"), (SMALL, "image/png"), (WAV, "audio/wav"), (PNG[8:], "application/octet-stream")],
    ids=["long", "short", "speech", "sealed"],
)
async def test_a_file_is_had_by_anyone_from_its_address_and_can_be_taken_back(data: bytes, mime: str) -> None:
    digest = hashlib.sha256(data).hexdigest()
    async with khatru() as server, httpx.AsyncClient() as anyone:
        client = Blossom(Keys.generate(), (server,))
        stored = await client.upload(data, mime)
        assert (stored.sha256, stored.size) == (digest, len(data))
        assert digest in stored.url
        assert (await anyone.get(stored.url)).content == data
        # By its hash alone as well, and without its content (BUD-01).
        assert (await anyone.get(f"{server}/{digest}")).content == data
        head = await anyone.head(stored.url)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(data)))
        part = await anyone.get(stored.url, headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, data[10:20])

        assert await client.upload(data, mime) == stored
        await client.delete(server, digest)
        assert (await anyone.head(stored.url)).status_code == 404
        await client.close()


async def test_the_question_is_answered_without_the_file() -> None:
    digest = hashlib.sha256(PNG).hexdigest()
    async with khatru(most=len(PNG)) as server:
        client = Blossom(Keys.generate(), (server,))
        assert await client.allows(server, len(PNG), "image/png", digest)
        with pytest.raises(UploadError, match="status 413: the file is too large for it: too large"):
            await client.allows(server, len(PNG) + 1, "image/png", digest)
        await client.close()


@pytest.mark.parametrize("data", [PNG, SMALL], ids=["by the question", "by the upload"])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"most": 999}, "status 413: the file is too large for it: too large"),
        ({"types": ".mp3"}, "status 415: it does not take files of this type: not this type: .png"),
        ({"keys": "00" * 32}, "status 403: you are not on the list"),
    ],
)
async def test_what_it_refuses_is_refused_once_and_another_server_has_it(
    settings: dict[str, object], said: str, data: bytes
) -> None:
    async with khatru(**settings) as strict, khatru() as kind:  # type: ignore[arg-type]
        client = Blossom(Keys.generate(), (strict,), pause=60)
        with pytest.raises(UploadError, match=said):
            await client.upload(data, "image/png")
        await client.close()
        client = Blossom(Keys.generate(), (strict, kind), pause=60)
        assert (await client.upload(data, "image/png")).url.startswith(kind)
        await client.close()


async def test_the_key_that_it_knows_may_upload() -> None:
    known = Keys.generate()
    async with khatru(keys=f"{'00' * 32},{known.pubkey}") as server:
        client = Blossom(known, (server,))
        assert (await client.upload(PNG, "image/png")).url.startswith(server)
        await client.close()


@pytest.mark.parametrize("data", [PNG, SMALL], ids=["long", "short"])
async def test_an_authorisation_of_yesterday_is_not_taken(data: bytes) -> None:
    """A clock that is wrong by a day; the advice is in what the server says."""
    async with khatru() as server:
        client = Blossom(Keys.generate(), (server,), clock=lambda: time.time() - 86_400, pause=0)
        with pytest.raises(UploadError, match="event expired"):
            await client.upload(data, "image/png")
        await client.close()


async def test_another_key_cannot_take_the_file_away() -> None:
    digest = hashlib.sha256(PNG).hexdigest()
    async with khatru() as server, httpx.AsyncClient() as anyone:
        client, other = Blossom(Keys.generate(), (server,)), Blossom(Keys.generate(), (server,))
        stored = await client.upload(PNG, "image/png")
        await other.delete(server, digest)
        assert (await anyone.get(stored.url)).content == PNG
        await client.close()
        await other.close()


async def test_a_server_that_is_gone_is_passed_over() -> None:
    async with khatru() as server:
        client = Blossom(Keys.generate(), (f"http://127.0.0.1:{free_port()}", server))
        assert (await client.upload(PNG, "image/png")).url.startswith(server)
        await client.close()
