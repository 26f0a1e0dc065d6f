"""What is wrong with a configuration, said so that a person can mend it: file, key, what, what to do.

A message may name keys and quote harmless values; whatever is shaped like a secret is left out of it.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic_core import ErrorDetails

# A configuration is a page of text; a larger file is something else.
MAX_FILE_BYTES = 1 << 20

# What it is, what must be there in lower case for the pattern to be worth trying, the pattern.
_SHAPES: tuple[tuple[str, str, re.Pattern[str]], ...] = (
    ("a Nostr secret key", "sec1", re.compile(r"n(?:crypt)?sec1[02-9ac-hj-np-z]{16,}", re.IGNORECASE)),
    (
        "a wallet connection with its secret",
        "walletconnect:",
        re.compile(r"nostr\+?walletconnect:\S{0,2000}?secret=\w{8,}\S*", re.IGNORECASE),
    ),
    ("a secret", "secret=", re.compile(r"\bsecret=[0-9a-f]{32,}", re.IGNORECASE)),
    ("an API key", "aiza", re.compile(r"\bAIza[0-9A-Za-z_-]{20,}")),
    ("an API key", "sk-", re.compile(r"\bsk-[0-9A-Za-z_-]{16,}")),
)
# The names under which people put a secret into a configuration.
SECRET_NAMES = frozenset(
    {"nsec", "api_key", "apikey", "key", "secret", "password", "uri", "nwc", "nwc_uri", "macaroon", "rune"}
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+").fullmatch

Loc = tuple[str | int, ...]


class ConfigError(Exception):
    """The configuration cannot be used; the command ends with exit code 2.

    `problems` has one line each, `file: key: what is wrong`; none of them repeats a secret.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(printable(redact(problem)) for problem in problems)
        super().__init__("\n".join(self.problems))


def redact(text: str) -> str:
    """`text` without anything that is shaped like a secret."""
    lower = text.lower()
    for _, marker, shape in _SHAPES:
        if marker in lower:
            text = shape.sub("[secret]", text)
    return text


def printable(text: str) -> str:
    """`text` with escapes for what acts on a terminal or begins a line: strangers and files choose words."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises ConfigError when it cannot be read or is not TOML."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError([f"{path}: there is no such file; `dvm init` writes one to start from"]) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        raise ConfigError([f"{path}: cannot be read: {reason}"]) from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError([f"{path}: is larger than {MAX_FILE_BYTES} bytes: not a configuration"])
    try:
        return tomllib.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 text (byte {error.start})"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: is not TOML: {error}"]) from None
    except (ValueError, RecursionError):  # an integer of thousands of digits, arrays nested without end
        raise ConfigError([f"{path}: is not TOML that can be read: a number too long or too deep"]) from None


def secrets_within(tables: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
    """Where in the parsed file something stands that looks like a secret, and what it looks like."""
    waiting: list[tuple[Loc, object]] = [((), tables)]
    while waiting:
        loc, value = waiting.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                if (what := _looks_like(key)) is not None:
                    yield (*loc, "[secret]"), what
                waiting.append(((*loc, key), inner))
        elif isinstance(value, list):
            waiting.extend(((*loc, index), inner) for index, inner in enumerate(value))
        elif isinstance(value, str) and (what := _looks_like(value)) is not None:
            yield loc, what


def _looks_like(text: str) -> str | None:
    return next((what for what, _, shape in _SHAPES if shape.search(text)), None)


def key_of(loc: Loc) -> str:
    """A place in the file as its reader would write it: `models.flash.input`, `service[1].kind`.

    Lists count from one.
    """
    key = ""
    for part in loc:
        if isinstance(part, int):
            key += f"[{part + 1}]"
        elif part != "[key]":  # pydantic's mark for "the name itself is wrong"
            name = part if _BARE_KEY(part) else json.dumps(part)
            key += f".{name}" if key else name
    return key


def line(file: str, loc: Loc, text: str) -> str:
    """One problem as one line."""
    key = key_of(loc)
    return f"{file}: {key}: {text}" if key else f"{file}: {text}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion for a misspelt name, or the list of what there is."""
    names = sorted(known)
    # A plural, a hyphen or a capital is the usual slip, and difflib does not see them as near.
    folded = {re.sub(r"[-_ ]|s$", "", known_name.lower()): known_name for known_name in names}
    near = folded.get(re.sub(r"[-_ ]|s$", "", name.lower()))
    near = near or next(iter(get_close_matches(name, names, n=1, cutoff=0.6)), None)
    if near is not None:
        return f'did you mean "{near}"?'
    return f"known here: {', '.join(names)}" if names else "there is none"


def describe(error: ErrorDetails, known: Callable[[Loc], Iterable[str]]) -> str:
    """What one of pydantic's errors means, in the words of this program.

    `known` gives the keys of the table at a place. The value itself is never repeated.
    """
    context = error.get("ctx", {})
    name = str(error["loc"][-1]) if error["loc"] else ""
    match error["type"]:
        case "extra_forbidden":
            if name.lower() in SECRET_NAMES:
                return (
                    "unknown key; a secret never stands in the configuration: "
                    "put it into the environment or into a file (docs/configuration.md, Secrets)"
                )
            return f"unknown key; {did_you_mean(name, known(error['loc'][:-1]))}"
        case "missing":
            return "is missing"
        case "int_type" | "int_from_float" | "int_parsing":
            return "must be a whole number"
        case "int_parsing_size":
            return "is too large a number"
        case "float_type" | "finite_number":
            return "must be a number"
        case "bool_type":
            return "must be true or false"
        case "string_type":
            return 'must be text, in "quotes"'
        case "tuple_type" | "list_type":
            return "must be a list, in [brackets]"
        case "model_type" | "dict_type" | "model_attributes_type":
            return "must be a table"
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "greater_than":
            return f"must be more than {context['gt']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "string_too_long":
            return f"must be at most {context['max_length']} characters"
        case "string_too_short" | "too_short":
            return "must not be empty"
        case "literal_error":
            return f"must be {context['expected']}"
        case "value_error":
            return str(context["error"])
        case _:
            return error["msg"]
