"""What is wrong with database, directory and disk, as `dvm doctor` shows it, and what it advises."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from dvm.datadir import DataDir
from dvm.doctor import here as checks
from dvm.doctor.findings import Finding
from dvm.ledger import SqliteStore
from dvm.ledger.examine import examine
from dvm.ledger.sqlite import FILE
from tests.commands.examined import doctor
from tests.commands.running import Runner
from tests.commands.shops import write_shop
from tests.ledger.books import database, paid, post, running
from tests.standins.relay import local_relay


@pytest.fixture
async def ledger(tmp_path: Path) -> Path:
    """A directory with a database that has seen some business, closed."""
    store = await SqliteStore.open(tmp_path / "data")
    for number in range(20):
        await post(store, await running(store, number, 10_000), 5_000)
    await paid(store, "open", 3_000)
    await store.close()
    return tmp_path / "data"


async def examined(path: Path) -> list[Finding]:
    return [finding async for finding in checks.database(path)]


async def test_a_whole_database_is_called_so_beside_its_writer(ledger: Path) -> None:
    store = await SqliteStore.open(ledger)
    try:
        (found,) = await examined(ledger)
    finally:
        await store.close()
    assert found.state == "ok"
    assert "21 jobs, every msat accounted for" in found.seen


async def test_a_damaged_database(ledger: Path) -> None:
    path = ledger / FILE
    size = path.stat().st_size
    with path.open("r+b") as file:
        for page in range(4096, size, 4096):
            file.seek(page + 8)
            file.write(b"\xff" * 200)
    found = await examined(ledger)
    assert found[0].state == "failed"
    assert "backup" in found[0].advice


@pytest.mark.parametrize("content", [b"", b"no database at all" * 1000])
async def test_a_file_that_is_no_ledger(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    (found,) = await examined(tmp_path)
    assert found.state == ("failed" if content else "ok")  # SQLite takes an empty file for an empty database


async def test_accounts_that_do_not_sum_up_to_zero(ledger: Path) -> None:
    with database(ledger) as db:
        db.execute("UPDATE accounts SET msat = msat + 7 WHERE name = 'revenue'")
    (found,) = await examined(ledger)
    assert found.state == "failed"
    assert "7 msat instead of 0" in found.seen
    assert "report this" in found.advice


async def test_a_database_of_a_newer_version(ledger: Path) -> None:
    with database(ledger) as db:
        db.execute("INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('dvm', 'm999_later', 'x')")
    (found,) = await examined(ledger)
    assert found.state == "failed"
    assert "m999_later" in found.seen
    assert "newer" in found.advice


async def test_a_database_of_an_older_version_is_brought_up_to_date_at_the_start(ledger: Path) -> None:
    with database(ledger) as db:
        db.execute("DELETE FROM _sqlite_migrations WHERE name = 'm002_jobs'")
    (found,) = await examined(ledger)
    assert found.state == "ok"
    assert "up to date" in found.seen


def test_the_search_for_damage_ends_in_time_and_changes_nothing(ledger: Path) -> None:
    with database(ledger) as db:
        db.execute(
            "CREATE TABLE big AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)"
            " SELECT i, hex(randomblob(20)) AS x FROM n"
        )
        db.execute("CREATE INDEX big_x ON big(x)")
    before = (ledger / FILE).read_bytes()
    assert not examine(ledger, 0).complete
    assert examine(ledger, 60).complete
    assert (ledger / FILE).read_bytes() == before


async def test_the_command_shows_a_damaged_ledger_and_fails(here: Path, dvm: Runner, ledger: Path) -> None:
    (ledger / FILE).write_bytes(b"no database at all" * 1000)
    async with local_relay() as url:
        write_shop(here, [url])
        found = await doctor(dvm)
    assert (found.code, found.failed) == (1, ["database"])


def directory(path: Path) -> Finding:
    return next(iter(checks.directory(DataDir(path))))


def test_a_directory_that_others_can_look_into(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    found = directory(tmp_path)
    assert (found.state, "chmod 700" in found.advice) == ("warning", True)
    tmp_path.chmod(0o700)
    assert directory(tmp_path).state == "ok"


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    assert "dvm init" in directory(tmp_path / "missing").advice
    (tmp_path / "file").write_text("")
    assert directory(tmp_path / "file").state == "failed"
    assert directory(tmp_path / "file" / "below").state == "failed"


def test_a_directory_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # as root everything may be written
    found = directory(tmp_path)
    assert (found.state, "chown" in found.advice) == ("failed", True)


@pytest.mark.parametrize(("free", "state"), [(5 << 30, "ok"), (500 << 20, "warning"), (5 << 20, "failed")])
def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    *_, found = checks.directory(DataDir(tmp_path))
    assert (found.name, found.state) == ("disk", state)
    assert bool(found.advice) == (state != "ok")
