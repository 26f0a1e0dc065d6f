"""`[files]`: where images and speech are uploaded, and what is told when nothing is said about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dvm.building import build_files
from dvm.config import MAKE_FILES, warnings
from dvm.contradictions import Offered
from dvm.jobs import KINDS
from dvm.jobs.kinds import image, speech
from dvm.nostr.keys import Keys
from tests.standins.blossom import blossom
from tests.test_config import THIS_VERSION, changed, load, problems

PAINTERS = Offered(kinds=frozenset({5050, 5100}), wallets=THIS_VERSION.wallets, providers=THIS_VERSION.providers)


def test_the_kinds_that_make_files_are_known_to_the_configuration() -> None:
    kinds = {**KINDS, 5100: image.KIND, 5250: speech.KIND}
    assert {kind for kind, each in kinds.items() if each.makes != "text"} == MAKE_FILES


def test_who_sells_images_and_names_no_server_is_warned(tmp_path: Path) -> None:
    sold = changed("service/0/kind", 5100)
    assert any(warning.startswith("files.servers") for warning in warnings(load(tmp_path, sold, PAINTERS)))
    named = changed("files", {"servers": ["https://blossom.example.com"]}, sold)
    assert not any(warning.startswith("files.servers") for warning in warnings(load(tmp_path, named, PAINTERS)))
    assert not any(warning.startswith("files.servers") for warning in warnings(load(tmp_path, changed("files", {}))))


@pytest.mark.parametrize(
    "files",
    [
        {"servers": "https://blossom.example.com"},
        {"servers": ["ftp://blossom.example.com"]},
        {"servers": ["https://me:secret@blossom.example.com"]},
        {"upload_seconds": 0},
        {"server": []},
    ],
)
def test_a_mistake_in_it_is_named(tmp_path: Path, files: dict[str, Any]) -> None:
    (problem,) = problems(tmp_path, changed("files", files))
    assert "files." in problem
    assert "secret" not in problem.replace("secrets never", "")


async def test_what_is_configured_uploads(tmp_path: Path) -> None:
    async with blossom() as server:
        config = load(tmp_path, changed("files", {"servers": [server.url]}))
        files = build_files(config.files, Keys.generate())
        try:
            assert files._blossom is not None
            assert (await files._blossom.upload(b"1", "image/png")).url.startswith(server.url)
        finally:
            await files.close()
    assert build_files(load(tmp_path, changed("files", {})).files, Keys.generate())._blossom is None
