"""What the daemon says while it runs, on stderr: one JSON object a line, or the same as readable text.

Every room logs through the standard library, `logging.getLogger(__name__).info("job delivered",
extra={"job": id})`, and knows nothing of this file: the message is the event, `extra` are its fields.

Last line of defence: whatever a record, a field or a traceback contains, the secrets that were named at
start-up, and whatever is shaped like one, are blacked out before the line leaves the process.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import IO, Any, Literal
from urllib.parse import quote

import orjson

from dvm.problems import printable, redact

Style = Literal["text", "json"]

# A relay's notice or a model's error may be of any size; a line of the log may not.
MAX_TEXT = 4_000
MAX_TRACEBACK = 20_000
MAX_ITEMS = 50
_MAX_DEPTH = 4

SAME_A_MINUTE = 30
"""So many warnings or errors with the same text are written within a minute."""
MINUTE = 60.0
MAX_KINDS = 1_000

_HIDDEN = "[secret]"
# What every LogRecord has; anything beyond it came with `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OWN = ("time", "level", "event", "logger")

_log = logging.getLogger(__name__)


def set_up(
    style: Style,
    secrets: Iterable[str] = (),
    *,
    level: int = logging.INFO,
    stream: IO[str] | None = None,
) -> None:
    """Send all records to `stream` (stderr if None); safe to call again, for instance with the secrets.

    This program speaks from `level` on, its libraries from WARNING on. Warnings and exceptions that
    nobody caught become records too, those of threads included; for tasks see `watch`.
    """
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, _Handler):
            root.removeHandler(handler)
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.addFilter(_Bounded())
    handler.setFormatter(_Json(secrets) if style == "json" else _Text(secrets))
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("dvm").setLevel(level)
    logging.captureWarnings(capture=True)
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable
    threading.excepthook = _uncaught_in_thread


def watch(loop: asyncio.AbstractEventLoop) -> None:
    """Log what tasks and callbacks of this loop raise and nobody retrieves."""
    loop.set_exception_handler(_uncaught_in_task)


class _Bounded(logging.Filter):
    """Lets only so many lines through that say the same, from WARNING on: whatever fails in a loop, or for each of a
    stranger's thousand requests, must neither fill the disk nor bury what else there is to read. The next one that
    gets through says how many were left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[tuple[str, int, str], list[float]] = {}  # since when, how many, of them left out

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        text = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        now, key = self._clock(), (record.name, record.levelno, text)
        said = self._said.get(key)
        if said is None or now - said[0] >= MINUTE:
            if said is None and len(self._said) >= MAX_KINDS:  # texts that are never the same: libraries make them
                self._said.clear()
            self._said[key] = [now, 1, 0]
            if said is not None and said[2]:
                record.left_out = int(said[2])
            return True
        said[1] += 1
        if said[1] <= SAME_A_MINUTE:
            return True
        said[2] += 1
        return False


class _Handler(logging.StreamHandler[IO[str]]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Nothing: stderr is gone, and logging's own report would print the arguments unredacted."""


class _Formatter(logging.Formatter):
    """Turns a record into one line, from which every secret was taken."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        spellings = {spelling for text in secrets if text for spelling in _spellings(text)}
        # Longest first: one secret may contain another.
        self._secrets = sorted(spellings, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        """The line. Never raises: a record that cannot be shown is replaced by one that says so."""
        try:
            return self.scrub(self.line(record))
        except Exception:  # noqa: BLE001 - the reprs of foreign objects may raise anything
            note = f"a record of {record.name} could not be formatted"
            shown = {"msg": note, "levelname": record.levelname, "name": record.name}
            return self.scrub(self.line(logging.makeLogRecord(shown)))

    def line(self, record: logging.LogRecord) -> str:
        raise NotImplementedError

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Time, level, event, then what came with `extra`, then the exception, all of it plain."""
        seconds, thousandths = divmod(int(record.created * 1000), 1000)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        fields: dict[str, Any] = {
            "time": f"{stamp}.{thousandths:03d}Z",
            "level": record.levelname.lower(),
            "event": self.clean(record.getMessage()),
            "logger": record.name,
        }
        for key, value in vars(record).items():
            if key not in _STANDARD:
                fields[f"{key}_" if key in _OWN else self.clean(key)] = self.plain(value)
        if record.exc_info and record.exc_info[0] is not None:
            fields["error"] = self.clean(f"{record.exc_info[0].__name__}: {record.exc_info[1]}")
            fields["traceback"] = self.clean("".join(traceback.format_exception(*record.exc_info)), MAX_TRACEBACK)
        elif record.exc_text:
            fields["traceback"] = self.clean(record.exc_text, MAX_TRACEBACK)
        return fields

    def clean(self, text: str, limit: int = MAX_TEXT) -> str:
        """`text` cut to `limit`, and not through a secret: half of one would no longer be known. What is
        short enough is scrubbed with the whole line, once."""
        if len(text) <= limit:
            return text
        text = self.scrub(text)
        return f"{text[:limit]}… ({len(text)} characters)"

    def scrub(self, text: str) -> str:
        """`text` without secrets."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, _HIDDEN)
        return redact(text)

    def plain(self, value: object, depth: int = 0) -> Any:
        """`value` as JSON can have it, bounded in depth and length."""
        match value:
            case None | bool() | int():
                return value if not isinstance(value, int) or abs(value) < 1 << 63 else self.clean(str(value))
            case float():
                return value if math.isfinite(value) else str(value)
            case str():
                return self.clean(value)
            case bytes() | bytearray():
                return f"{len(value)} bytes"
            case Mapping() | list() | tuple() | set() | frozenset() if depth >= _MAX_DEPTH:
                return "…"
            case Mapping():
                pairs = list(value.items())[:MAX_ITEMS]
                return {self.clean(str(key)): self.plain(inner, depth + 1) for key, inner in pairs}
            case list() | tuple() | set() | frozenset():
                return [self.plain(inner, depth + 1) for inner in list(value)[:MAX_ITEMS]]
            case _:
                return self.clean(str(value))


def _spellings(secret: str) -> tuple[str, ...]:
    """The secret as it is, and as it looks within a URL, a repr or JSON."""
    in_json, in_json_ascii = json.dumps(secret, ensure_ascii=False), json.dumps(secret)
    return secret, quote(secret, safe=""), repr(secret)[1:-1], in_json[1:-1], in_json_ascii[1:-1]


class _Json(_Formatter):
    def line(self, record: logging.LogRecord) -> str:
        fields = self.fields(record)
        try:
            line = orjson.dumps(fields)
        except TypeError:  # a number beyond 64 bits, half a surrogate pair
            return json.dumps(fields)
        # Some readers break a line at U+0085 or U+2028: json escapes what is not ASCII, orjson does not.
        return line.decode() if line.isascii() else json.dumps(fields)


class _Text(_Formatter):
    def line(self, record: logging.LogRecord) -> str:
        fields = self.fields(record)
        stamp, level, event = fields.pop("time")[11:], fields.pop("level"), fields.pop("event")
        logger, trace = fields.pop("logger"), fields.pop("traceback", "")
        if not logger.startswith("dvm"):
            fields["logger"] = logger
        pairs = "".join(f"  {printable(key)}={_shown(value)}" for key, value in fields.items())
        rest = "".join(f"\n  {printable(part)}" for part in trace.splitlines())
        return f"{stamp} {level:<8} {printable(event)}{pairs}{rest}"


def _shown(value: object) -> str:
    if isinstance(value, str) and value and " " not in value and '"' not in value:
        return printable(value)
    return printable(json.dumps(value, ensure_ascii=False))


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    _log.critical("uncaught exception", exc_info=(kind, error, trace))


def _unraisable(hook: sys.UnraisableHookArgs) -> None:
    if hook.exc_value is not None:
        trace = (hook.exc_type, hook.exc_value, hook.exc_traceback)
        _log.error("exception that could not be raised", exc_info=trace)


def _uncaught_in_thread(hook: threading.ExceptHookArgs) -> None:
    if hook.exc_value is not None and not issubclass(hook.exc_type, SystemExit):
        name = hook.thread.name if hook.thread is not None else None
        trace = (hook.exc_type, hook.exc_value, hook.exc_traceback)
        _log.error("uncaught exception in a thread", exc_info=trace, extra={"thread_name": name})


def _uncaught_in_task(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    task = context.get("task") or context.get("future")
    name = task.get_name() if isinstance(task, asyncio.Task) else None
    trace = (type(error), error, error.__traceback__) if isinstance(error, BaseException) else None
    _log.error("uncaught exception in a task", exc_info=trace, extra={"what": context["message"], "task": name})
