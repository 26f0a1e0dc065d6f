"""Each way in which a Blossom server fails, as `dvm doctor` shows it, and what it advises."""

from __future__ import annotations

import base64
import io
import json
import wave
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from dvm.doctor import files
from dvm.nostr.keys import Keys
from tests.commands.examined import Examined, doctor
from tests.commands.running import Runner
from tests.commands.shops import write_shop
from tests.standins.blossom import NOT_YOU, Blossom, blossom
from tests.standins.khatru import khatru
from tests.standins.relay import free_port, local_relay

PNG, WAV, SEALED = "image/png", "audio/wav", "application/octet-stream"


@pytest.fixture
async def server() -> AsyncIterator[Blossom]:
    async with blossom() as each:
        yield each


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PAUSE", 0.0)


async def examine(
    here: Path, dvm: Runner, *servers: str, kinds: tuple[int, ...] = (5100,), private: bool = True
) -> Examined:
    async with local_relay() as url:
        write_shop(here, [url], tables=tables(servers, kinds, private=private))
        return await doctor(dvm)


def tables(servers: tuple[str, ...], kinds: tuple[int, ...] = (5100,), *, private: bool = True) -> dict[str, Any]:
    return {
        "service": [{"kind": kind, "models": ["echo"], "price": "per-token"} for kind in kinds],
        "files": {"servers": list(servers)},
        "limits": {"allow_private_addresses": private},
    }


async def test_a_server_that_takes_gives_and_deletes_is_well(here: Path, dvm: Runner, server: Blossom) -> None:
    found = await examine(here, dvm, server.url, kinds=(5100, 5250))
    assert (found.code, found.failed) == (0, [])
    seen = found.one("files")["seen"]
    assert all(mime in seen for mime in (PNG, WAV, SEALED))
    assert "deleted them again" in seen
    assert (server.puts, server.files) == (3, {})
    assert server.asks == 3, "whether it takes files as long as they are"


@pytest.mark.parametrize(("kinds", "types"), [((5100,), {PNG}), ((5250,), {WAV}), ((5050,), {PNG, WAV})])
async def test_what_is_tried_is_what_is_sold_tiny_and_real(
    here: Path, dvm: Runner, server: Blossom, kinds: tuple[int, ...], types: set[str]
) -> None:
    server.deleting = Response("", 405)
    await examine(here, dvm, server.url, kinds=kinds)
    kept = {mime: data for data, mime, _ in server.files.values()}
    assert set(kept) == {*types, SEALED}
    assert sum(map(len, kept.values())) < 500
    if PNG in kept:
        assert kept[PNG].startswith(b"\x89PNG\r\n\x1a\n")
        assert zlib.crc32(b"IEND") == int.from_bytes(kept[PNG][-4:])
    if WAV in kept:
        with wave.open(io.BytesIO(kept[WAV])) as file:
            assert file.getnframes()


async def test_what_cannot_be_deleted_stays_once(here: Path, dvm: Runner, server: Blossom) -> None:
    server.deleting = Response("", 405)
    for again in (await examine(here, dvm, server.url), await doctor(dvm)):
        assert "bytes stay there" in again.one("files")["seen"]
        assert len(server.files) == 2


@pytest.mark.parametrize(
    ("answer", "seen", "advice"),
    [
        (NOT_YOU, "status 403: not on the list", "admit your npub"),
        (Response("", 401), "does not take our key", "admit your npub"),
        (Response("", 401, headers={"X-Reason": "event expired"}), "event expired", "clock"),
        (Response("", 402), "wants to be paid", "Pay its operator"),
        (Response("", 404), "status 404", "must be a Blossom server"),
        (Response("", 405), "status 405", "must be a Blossom server"),
        (Response("", 302, headers={"Location": "/login"}), "status 302", "must be a Blossom server"),
        (Response("<html>"), "no JSON", "must be a Blossom server"),
        (Response("", 503), "status 503", "again in a while"),
        (Response(json.dumps({"sha256": "0" * 64})), "hash differs", "Do not deliver"),
        (Response("", 418), "status 418", "Ask its operator"),
    ],
)
async def test_a_server_that_takes_nothing_is_a_failure(
    here: Path, dvm: Runner, server: Blossom, answer: Response, seen: str, advice: str
) -> None:
    server.answer = answer
    found = await examine(here, dvm, server.url)
    assert (found.code, found.failed) == (1, ["files"])
    assert found.one("files")["seen"].count(seen) == 1
    assert advice in found.one("files")["advice"]


async def test_a_server_that_is_not_there_and_another_that_is(here: Path, dvm: Runner, server: Blossom) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    found = await examine(here, dvm, gone, server.url)
    assert found.failed == ["files"]
    assert "this machine reaches it" in found.one("files", gone)["advice"]
    assert found.one("files", server.url)["state"] == "ok"


async def test_silence_ends_in_time(here: Path, dvm: Runner, server: Blossom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SECONDS", 0.3)
    server.hangs = True
    found = await examine(here, dvm, server.url)
    assert "no answer within 0.3 s" in found.one("files")["seen"]
    assert server.puts <= 2, "once more at most, and not for each type"


async def test_a_type_that_it_does_not_take_is_a_warning(
    here: Path, dvm: Runner, server: Blossom, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = server.take

    async def pictures(request: Request) -> Response:
        if request.method == "PUT" and request.headers["content-type"] != PNG:
            return Response("", 415, headers={"X-Reason": "pictures only"})
        return await whole(request)

    server.pages["/upload"] = pictures
    found = await examine(here, dvm, server.url)
    assert found.code == 0
    assert found.one("files types")["seen"].startswith(f"{SEALED}: status 415")
    assert "files of this type" in found.one("files types")["advice"]
    assert found.one("files")["state"] == "ok"


async def test_a_file_of_the_usual_size_that_it_does_not_take_is_a_warning(
    here: Path, dvm: Runner, server: Blossom
) -> None:
    async def short(request: Request) -> Response:
        return Response("", 413 if int(request.headers["x-content-length"]) > 5_000_000 else 200)

    server.question = short
    found = await examine(here, dvm, server.url, kinds=(5100, 5250))
    assert found.code == 0
    long = found.all("files sizes")
    assert [each["seen"].partition(":")[0] for each in long] == [f"{WAV} of 6 MB", f"{SEALED} of 6 MB"]
    assert all("larger files" in each["advice"] for each in long)


@pytest.mark.parametrize("status", [400, 401, 404, 405, 500])
async def test_who_does_not_answer_the_question_is_not_blamed(
    here: Path, dvm: Runner, server: Blossom, status: int
) -> None:
    server.question = Response("", status)
    found = await examine(here, dvm, server.url)
    assert (found.code, found.all("files sizes")) == (0, [])


@pytest.mark.parametrize(
    ("page", "seen"),
    [
        (Response("", 404), "status 404"),
        (Response("another file"), "something else"),
        (Response("", 302, headers={"Location": "/login"}), "status 404"),
    ],
    ids=["nothing", "something else", "leads away"],
)
async def test_what_nobody_can_fetch_is_a_failure(
    here: Path, dvm: Runner, server: Blossom, page: Response, seen: str
) -> None:
    server.page = page
    found = await examine(here, dvm, server.url)
    assert found.failed == ["files"]
    assert seen in found.one("files")["seen"]
    assert "customers would pay" in found.one("files")["advice"]


async def test_an_address_that_only_this_machine_has_is_a_failure(here: Path, dvm: Runner, server: Blossom) -> None:
    found = await examine(here, dvm, server.url, private=False)
    assert found.failed == ["files"]
    assert "not a public address" in found.one("files")["seen"]
    assert "that customers reach" in found.one("files")["advice"]
    assert server.files == {}


async def test_without_servers_nothing_is_uploaded_anywhere(here: Path, dvm: Runner) -> None:
    found = await examine(here, dvm)
    assert found.all("files") == []
    assert "files.servers" in " ".join(each["seen"] for each in found.all("configuration"))


async def test_the_key_is_not_shown_and_neither_is_what_it_signed(here: Path, dvm: Runner, server: Blossom) -> None:
    async def repeats(request: Request) -> Response:
        return Response("", 403, headers={"X-Reason": f"no: {request.headers['authorization']}"})

    server.pages["/upload"] = repeats
    async with local_relay() as url:
        keys = write_shop(here, [url], tables=tables((server.url,)))
        found = await doctor(dvm)
    assert found.failed == ["files"]
    hexadecimal = (here / "data/nsec").read_text().strip()
    for secret in (keys.nsec(), hexadecimal):
        assert secret not in found.ran.out + found.ran.err
        assert base64.b64encode(secret.encode()).decode() not in found.ran.out
    assert len(found.one("files")["seen"]) < 500


@pytest.mark.blossom
async def test_a_real_server(here: Path, dvm: Runner) -> None:
    stranger = Keys.generate().pubkey
    async with khatru() as kind, khatru(most=4_000_000, types=".png") as strict, khatru(keys=stranger) as closed:
        found = await examine(here, dvm, kind, strict, closed, kinds=(5100, 5250))
    assert "deleted them again" in found.one("files", kind)["seen"]
    assert [each["seen"][:9] for each in found.all("files types", strict)] == ["audio/wav", "applicati"]
    assert found.one("files", strict)["state"] == "ok"
    assert "you are not on the list" in found.one("files", closed)["seen"]
    assert "admit your npub" in found.one("files", closed)["advice"]
