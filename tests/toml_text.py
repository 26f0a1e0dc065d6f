"""Writing TOML, for tests only: everything inline, which is legal and short."""

from __future__ import annotations

import datetime
import json
from typing import Any


def to_toml(tables: dict[str, Any]) -> str:
    """The tables as text, one top-level key a line."""
    return "".join(f"{_key(key)} = {_value(value)}\n" for key, value in tables.items())


def _key(key: str) -> str:
    return _text(key)


def _text(text: str) -> str:
    # JSON's escapes are TOML's, but for the pairs of surrogates and DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value)  # "nan" and "inf" are TOML's words as well
        case str():
            return _text(value)
        case datetime.date():
            return value.isoformat()
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case dict():
            return "{" + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items()) + "}"
        case _:
            raise TypeError(type(value))
