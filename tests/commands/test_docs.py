"""docs/commands.md describes every command and every option, with its default, and none that there is not."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import typer
from typer.core import TyperArgument, TyperOption

from dvm.cli import COMMANDS
from dvm.doctor.announced import IDENTIFIER
from dvm.doctor.findings import SECONDS
from dvm.doctor.relays import EPHEMERAL, STORED

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "commands.md").read_text()
SECTIONS = dict(re.findall(r"^## dvm (\w+)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))


def described(command: str) -> dict[str, str]:
    """The rows of a command's first table: option, default."""
    rows = re.findall(r"^\| `([A-Z]+|--[a-z-]+)` \| (.+?) \| .+ \|$", SECTIONS[command], re.MULTILINE)
    assert len(rows) == len({name for name, _ in rows}), "described twice"
    return dict(rows)


def offered(command: str) -> dict[str, str]:
    """What the command line has."""
    app = typer.Typer(add_completion=False)
    app.command()(importlib.import_module(f"dvm.commands.{command}").main)
    found = {}
    for param in typer.main.get_command(app).params:
        if isinstance(param, TyperArgument):
            found[(param.metavar or param.name or "").strip("[]{}").upper()] = "*required*" if param.required else "–"
        elif isinstance(param, TyperOption) and param.name != "help":
            found[param.opts[0]] = _default(param)
    return found


def _default(param: TyperOption) -> str:
    if param.is_flag:
        return "off"
    return "–" if param.default is None or param.default == () else f"`{param.default}`"


def test_every_command_has_its_section_and_is_linked() -> None:
    assert set(SECTIONS) == set(COMMANDS)
    for command in COMMANDS:
        assert f"(#dvm-{command})" in TEXT


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_described_with_its_default(command: str) -> None:
    assert described(command) == offered(command)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!#|https?:)([^)#]+)", TEXT):
        assert (DOCS / target).exists()


def test_numbers_in_the_text_are_those_of_the_program() -> None:
    assert f"for {SECONDS:.0f} seconds at most" in TEXT
    assert f"(kind {EPHEMERAL})" in TEXT
    assert f"(kind {STORED})" in TEXT
    assert f"`{IDENTIFIER}`" in TEXT


def test_names_of_checks_are_those_of_the_program() -> None:
    rows = re.findall(r"^\| ((?:`[a-z ]+`(?:, )?)+) \| .+ \|$", SECTIONS["doctor"], re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`([a-z ]+)`", row)}
    source = "\n".join(path.read_text() for path in (DOCS.parent / "dvm/doctor").glob("*.py"))
    assert told == set(re.findall(r'Finding\(\s*"([a-z ]+)"', source)) | {"data directory", "configuration", "secrets"}
