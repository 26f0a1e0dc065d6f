"""The data directory: one daemon at a time, a key that is never overwritten, a heartbeat that goes stale."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dvm.datadir import STALE_SECONDS, DataDir
from dvm.problems import ConfigError


def test_it_is_made_for_its_owner_only(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "some" / "where")
    data.make()
    data.make()
    assert data.path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["file/data", "a\0b"])
def test_what_cannot_be_made_is_one_clear_message(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^--data .*: cannot be made: "):
        DataDir(tmp_path / name).make()


HOLDER = """
import sys
from pathlib import Path
from dvm.datadir import DataDir
with DataDir(Path(sys.argv[1])).only_one():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_daemon_is_refused_until_the_first_is_gone_even_if_killed(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another daemon is running there"), data.only_one():
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with data.only_one():
        pass


def test_a_key_is_written_once_for_its_owner_only(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.write_nsec("nsec1first")
    with pytest.raises(FileExistsError):
        data.write_nsec("nsec1second")
    assert data.nsec.read_text() == "nsec1first\n"
    assert data.nsec.stat().st_mode & 0o777 == 0o600


def test_a_fresh_heartbeat_is_health_and_an_old_or_missing_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataDir(tmp_path)
    assert data.health() == (False, "no daemon has run here")
    data.beat({"relays": 3})
    assert data.health() == (True, "the last heartbeat is 0 seconds old")
    assert json.loads((tmp_path / "health.json").read_bytes())["relays"] == 3
    later = time.time() + STALE_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    healthy, words = data.health()
    assert not healthy
    assert words.startswith(f"the last heartbeat is {STALE_SECONDS + 1} seconds old")
    data.beat({})
    data.end()
    data.end()
    assert data.health() == (False, "no daemon has run here")


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"{}", b'{"at": null}', b'{"at": "x"}', b'{"at": NaN}', b"[" * 100_000, b"\xff"]
)
def test_a_heartbeat_that_makes_no_sense_is_no_health(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "health.json").write_bytes(raw)
    healthy, words = DataDir(tmp_path).health()
    assert not healthy
    assert words


def test_a_directory_that_may_not_be_written_is_one_clear_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # for root everything may be written
    with pytest.raises(ConfigError, match="this user may not write there"):
        DataDir(tmp_path).make()
