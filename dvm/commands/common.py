"""What the commands share: their common options, how they print, how they fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dvm.pricing import sats

__all__ = [
    "CONFIG",
    "DATA",
    "RELAYS",
    "AsJson",
    "ConfigPath",
    "DataPath",
    "Failure",
    "RelaysPath",
    "count",
    "print_json",
    "sats",
]

ConfigPath = Annotated[Path, typer.Option("--config", help="What is sold, for how much, where it is paid.")]
RelaysPath = Annotated[Path, typer.Option("--relays", help="Where to listen and publish.")]
DataPath = Annotated[Path, typer.Option("--data", help="Directory of the ledger and the key.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

CONFIG = Path("dvm.toml")
RELAYS = Path("relays.toml")
DATA = Path("data")


class Failure(Exception):
    """The command could not do what was asked; the text says why and what to do. Exit code 1."""


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def count(number: int, what: str) -> str:
    """So many of something, with its plural."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")
