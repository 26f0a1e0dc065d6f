"""How files reach the customer: by an address, within the answer, or not at all."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from starlette.responses import Response

from dvm.jobs.files import Files, Undeliverable
from dvm.jobs.kinds import image
from dvm.models import Blob
from dvm.nip90 import Answers, JobRequest, parse_request, request_draft
from dvm.nostr.blossom import Blossom as Client
from dvm.nostr.keys import Keys
from tests.standins.blossom import Blossom, blossom

SMALL = Blob("image/png", b"\x89PNG small")
LARGE = Blob("image/png", b"\x89PNG" + bytes(range(256)) * 1000)
HOUR = 3600


@dataclass
class Made:
    request: JobRequest
    answers: Answers
    files: list[Blob] = field(default_factory=list)
    oversized: bool = False


@pytest.fixture
async def server() -> AsyncIterator[Blossom]:
    async with blossom() as each:
        yield each


@pytest.fixture
async def files(server: Blossom) -> AsyncIterator[Files]:
    made = Files(Client(Keys.generate(), (server.url,), timeout=5, pause=0), seconds=10)
    yield made
    await made.close()


def made(*blobs: Blob, scheme: Any = None, output: str | None = None) -> Made:
    provider, customer = Keys.generate(), Keys.generate()
    draft = request_draft(
        5100, ["An ostrich"], keys=customer, providers=[provider.pubkey], scheme=scheme, output=output
    )
    request = parse_request(draft.sign(customer, int(time.time())), provider)
    return Made(request, Answers(provider, request), list(blobs))


def down(server: Blossom) -> None:
    server.answer = Response("", 507)


async def test_files_are_where_their_addresses_say_one_a_line(server: Blossom, files: Files) -> None:
    lines = (await files.deliver(made(LARGE, SMALL), image.KIND)).splitlines()
    assert [server.get(line) for line in lines] == [(LARGE.data, "image/png"), (SMALL.data, "image/png")]


async def test_doing_it_again_gives_the_same_answer(files: Files) -> None:
    assert await files.deliver(made(LARGE), image.KIND) == await files.deliver(made(LARGE), image.KIND)


async def test_a_small_file_stands_in_the_answer_if_no_server_takes_it(server: Blossom, files: Files) -> None:
    down(server)
    content = await files.deliver(made(SMALL), image.KIND)
    assert content == f"data:image/png;base64,{base64.b64encode(SMALL.data).decode()}"
    assert await Files().deliver(made(SMALL), image.KIND) == content
    with pytest.raises(Undeliverable):
        await files.deliver(made(SMALL), replace(image.KIND, inline=False))


async def test_what_fits_into_no_answer_and_on_no_server_is_not_delivered(server: Blossom, files: Files) -> None:
    down(server)
    middle = Blob("image/png", bytes(60_000))  # as base64 it is larger than an event may be
    for each in (LARGE, middle):
        with pytest.raises(Undeliverable, match="could not be uploaded") as caught:
            await files.deliver(made(each), image.KIND)
        assert server.url.removeprefix("http://") not in str(caught.value)


async def test_uploads_end_in_time(server: Blossom) -> None:
    server.hangs = True
    files = Files(Client(Keys.generate(), (server.url,), timeout=HOUR), seconds=0.05)
    with pytest.raises(Undeliverable):
        await files.deliver(made(LARGE), image.KIND)
    await files.close()


async def test_what_was_asked_for_under_encryption_is_not_put_into_the_open(server: Blossom, files: Files) -> None:
    small = await files.deliver(made(SMALL, scheme="nip44"), image.KIND)
    assert small.startswith("data:image/png;base64,")
    assert server.puts == 0

    told = json.loads(await files.deliver(made(LARGE, scheme="nip44"), image.KIND))
    data, mime = server.get(told["url"])
    assert mime == "application/octet-stream"
    assert LARGE.data[:64] not in data
    key, nonce = bytes.fromhex(told["decryption-key"]), bytes.fromhex(told["decryption-nonce"])
    assert AESGCM(key).decrypt(nonce, data, None) == LARGE.data
    assert told["file-type"] == "image/png"
    assert told["x"] == hashlib.sha256(data).hexdigest()
    assert told["ox"] == hashlib.sha256(LARGE.data).hexdigest()


async def test_a_type_that_was_asked_for_is_held(server: Blossom, files: Files) -> None:
    jpeg = Blob("image/jpeg", b"JPEG")
    with pytest.raises(Undeliverable, match="image/jpeg, not image/png"):
        await files.deliver(made(jpeg, output="image/png"), image.KIND)
    assert server.puts == 0
    assert await files.deliver(made(jpeg), image.KIND)
    assert await files.deliver(made(SMALL, output="image/png"), image.KIND)


@pytest.mark.parametrize("mime", ["", "image", "image/png\r\nX: y", "text/html<script>", "x" * 200 + "/y"])
async def test_a_type_that_is_none_is_just_bytes(server: Blossom, files: Files, mime: str) -> None:
    url = await files.deliver(made(Blob(mime, b"1")), image.KIND)
    assert server.get(url) == (b"1", "application/octet-stream")


async def test_more_than_is_ever_delivered_is_not(server: Blossom, files: Files) -> None:
    each = made()
    each.oversized = True
    with pytest.raises(Undeliverable, match="larger"):
        await files.deliver(each, image.KIND)
    assert server.puts == 0
