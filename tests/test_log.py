"""The log: one object or one line a record, bounded, and without secrets wherever they hide."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvm import log
from dvm.nostr.keys import Keys

SECRET = 'pass"word/with+odd\\ünes'
KEYS = Keys.generate()
_room = logging.getLogger("dvm.room")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Logging is the process's: put everything back."""
    root, ours = logging.getLogger(), logging.getLogger("dvm")
    before = (root.handlers[:], root.level, ours.level)
    hooks = (sys.excepthook, sys.unraisablehook, threading.excepthook)
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level, ours.level = before
    sys.excepthook, sys.unraisablehook, threading.excepthook = hooks


class Log:
    """What was written so far."""

    def __init__(self, style: log.Style, secrets: list[str]) -> None:
        self._stream = io.StringIO()
        logging.getLogger().handlers.clear()  # pytest's raise what ours must bear
        log.set_up(style, secrets, stream=self._stream)

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def as_json() -> Log:
    return Log("json", [SECRET, KEYS.nsec()])


@pytest.fixture
def as_text() -> Log:
    return Log("text", [SECRET, KEYS.nsec()])


def test_each_record_is_one_json_object_with_its_event_and_fields(as_json: Log) -> None:
    _room.info("ready", extra={"relays": ["wss://a.example"], "count": 3, "nothing": None})
    (record,) = as_json.records
    assert record.pop("time").endswith("Z")
    assert record == {
        "level": "info",
        "event": "ready",
        "logger": "dvm.room",
        "relays": ["wss://a.example"],
        "count": 3,
        "nothing": None,
    }


def test_text_is_one_readable_line(as_text: Log) -> None:
    _room.warning("relay %s is away", "wss://a.example", extra={"for_seconds": 5, "why": "it refuses"})
    line = as_text.text
    assert line.endswith(' warning  relay wss://a.example is away  for_seconds=5  why="it refuses"\n')


def test_a_field_that_has_a_name_of_the_formats_own_is_kept_beside_it(as_json: Log) -> None:
    _room.info("event seen", extra={"event": "abc", "time": 5})
    (record,) = as_json.records
    assert (record["event"], record["event_"], record["time_"]) == ("event seen", "abc", 5)


def test_libraries_speak_from_warning_on_and_we_from_info_on(as_json: Log) -> None:
    for name in ("httpx", "websockets.client", "google_genai.models", "asyncio"):
        logging.getLogger(name).info("chatter")
        logging.getLogger(name).warning("heed")
    _room.debug("detail")
    _room.info("news")
    assert [record["event"] for record in as_json.records] == ["heed"] * 4 + ["news"]


def log_everywhere(secret: str) -> None:
    """Log it in every place that a record has."""
    _room.info(f"in the message {secret}")
    _room.info("in an argument %s", secret)
    _room.info("in an argument's repr %r", {"inner": secret})
    _room.info("in a field", extra={"field": secret, "nested": [{"deep": (secret, {secret})}], secret: 1})
    _room.info("in a URL", extra={"url": f"https://example.com/?key={quote(secret, safe='')}"})
    _room.info("in an object", extra={"thing": ValueError(secret)})
    _room.info("at a cut", extra={"long": "x" * (log.MAX_TEXT - 5) + secret})
    try:
        raise RuntimeError(f"in an exception {secret}") from ValueError(secret)
    except RuntimeError:
        _room.exception("failed")


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize("secret", [SECRET, KEYS.nsec()], ids=["password", "nsec"])
def test_a_secret_is_blacked_out_wherever_it_hides(style: log.Style, secret: str) -> None:
    written = Log(style, [SECRET, KEYS.nsec()])
    log_everywhere(secret)
    decoded = written.text if style == "text" else json.dumps(written.records, ensure_ascii=False)
    spellings = {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
    for form in spellings | {quote(secret, safe=""), secret[:5]}:
        assert form not in written.text
        assert form not in decoded
    assert written.text.count("[secret]") >= 9


def test_what_is_shaped_like_a_secret_is_blacked_out_although_nobody_named_it(as_json: Log) -> None:
    strangers = Keys.generate().nsec()
    uri = f"nostr+walletconnect://{'b' * 64}?relay=wss://r.example&secret={'5e' * 32}"
    _room.info("a customer wrote", extra={"text": f"my key is {strangers}, my wallet {uri}"})
    assert strangers not in as_json.text
    assert "5e5e" not in as_json.text


def test_a_long_text_and_a_deep_structure_are_cut(as_json: Log) -> None:
    nest: list[Any] = []
    for _ in range(10_000):
        nest = [nest]
    _room.info("big", extra={"text": "x" * 1_000_000, "many": list(range(10_000)), "raw": b"x" * 500, "int": 10**400})
    _room.info("deep", extra={"nest": nest})
    assert len(as_json.text) < 10_000
    assert as_json.records[1]["event"] == "deep"
    assert as_json.records[0]["raw"] == "500 bytes"
    assert as_json.records[0]["text"].endswith("(1000000 characters)")


def test_a_relays_words_cannot_forge_a_line_or_steer_a_terminal(as_text: Log) -> None:
    words = "hello\n12:00:00.000Z critical stolen\x1b[2J\u202e"
    _room.info("notice %s", words, extra={"said": words, "short": "a\nb"})
    assert as_text.text.count("\n") == 1
    assert all(character.isprintable() for character in as_text.text.rstrip("\n"))


class Hostile:
    def __str__(self) -> str:
        raise ValueError("no")

    __repr__ = __str__


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_record_that_cannot_be_shown_says_so(style: log.Style) -> None:
    written = Log(style, [])
    _room.info("odd", extra={"thing": Hostile()})
    _room.info("%d", "no number")
    assert written.text.count("a record of dvm.room could not be formatted") == 2


@given(
    fields=st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers() | st.text(), inner, max_size=3),
            max_leaves=5,
        ),
        max_size=4,
    )
)
def test_whatever_the_fields_are_a_record_is_one_strict_json_line(fields: dict[str, Any]) -> None:
    written = Log("json", [])
    _room.info("any", extra={f"x_{key}": value for key, value in fields.items()})

    def refuse(constant: str) -> None:
        raise ValueError(constant)  # NaN is no JSON

    (line,) = written.text.splitlines()
    assert json.loads(line, parse_constant=refuse)["event"] == "any"


async def test_what_a_task_raises_and_nobody_retrieves_is_a_record(as_json: Log) -> None:
    async def fails() -> None:
        raise RuntimeError(f"lost with {SECRET}")

    log.watch(asyncio.get_running_loop())
    task = asyncio.create_task(fails(), name="sweeper")
    await asyncio.wait([task])
    del task
    gc.collect()
    (record,) = as_json.records
    assert record["event"] == "uncaught exception in a task"
    assert record["task"] == "sweeper"
    assert record["error"] == "RuntimeError: lost with [secret]"
    assert "in fails" in record["traceback"]


def test_what_a_thread_raises_and_a_warning_are_records(as_json: Log) -> None:
    def fails() -> None:
        raise RuntimeError("in the thread")

    thread = threading.Thread(target=fails, name="writer")
    thread.start()
    thread.join()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    first, second = as_json.records
    assert (first["event"], first["thread_name"]) == ("uncaught exception in a thread", "writer")
    assert second["logger"] == "py.warnings"


def test_what_nobody_catches_ends_the_process_with_a_record_and_no_secret() -> None:
    program = f"""
from dvm import log
log.set_up("json", [{SECRET!r}])
raise RuntimeError("the end of " + {SECRET!r})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    record = json.loads(line)
    assert (record["level"], record["error"]) == ("critical", "RuntimeError: the end of [secret]")
    assert SECRET not in record["traceback"]


def test_setting_up_again_replaces_the_first_and_learns_the_secrets(as_json: Log) -> None:
    stream = io.StringIO()
    log.set_up("text", ["another-secret"], stream=stream)
    _room.info("another-secret")
    assert as_json.text == ""
    assert stream.getvalue().endswith(" [secret]\n")


def test_a_closed_stderr_stops_nothing(as_json: Log, capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    log.set_up("json", [], stream=stream)
    stream.close()
    _room.info("unheard %s", SECRET)
    assert capsys.readouterr().err == ""


def test_a_flood_of_one_warning_is_cut_off_and_said_and_nothing_else_is(
    as_json: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, bounded = 0.0, log._Bounded
    monkeypatch.setattr(log, "_Bounded", lambda: bounded(lambda: now))
    log.set_up("json", stream=(stream := io.StringIO()))

    def said() -> list[dict[str, Any]]:
        records = [json.loads(line) for line in stream.getvalue().splitlines()]
        stream.seek(0)
        stream.truncate()
        return records

    for job in range(100):
        _room.error("a job could not be stored", extra={"job": job})
        _room.info("delivered", extra={"job": job})
    records = said()
    assert sum(record["event"] == "delivered" for record in records) == 100
    assert [r["job"] for r in records if r["level"] == "error"] == list(range(log.SAME_A_MINUTE))
    _room.error("the wallet is empty")
    assert len(said()) == 1
    now = log.MINUTE
    _room.error("a job could not be stored")
    _room.error("a job could not be stored")
    assert [record.get("left_out") for record in said()] == [100 - log.SAME_A_MINUTE, None]


def test_texts_that_are_never_the_same_take_no_memory_without_end() -> None:
    bounded = log._Bounded()
    for number in range(3 * log.MAX_KINDS):
        assert bounded.filter(logging.makeLogRecord({"msg": f"made up {number}", "levelno": logging.ERROR}))
    assert len(bounded._said) <= log.MAX_KINDS
