"""The shape of the house: imports point one way, files stay short, nothing names one machine."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dvm"
LONGEST_FILE = 450

# Written in halves, so that this file does not find itself.
MACHINES = [f"/{name}" + "/" for name in ("work", "root", "farm")]
HOSTS = ["pypi" + ".org", "files.python" + "hosted.org", "registry.npm" + "js.org", "registry.yarn" + "pkg.com"]
SETTINGS = ["index-" + "url", '"resolved"' + ': "http']


def contracts() -> dict[str, Any]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return {contract["name"]: contract for contract in settings["contracts"]}


def test_imports_point_one_way() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_room_and_file_has_its_place_in_the_rules() -> None:
    """A new package without a rule would be free to import anything."""
    listed: set[str] = set()
    for contract in contracts().values():
        for layer in contract.get("layers", ()):
            listed |= {name.strip(" ()") for name in layer.split("|")}
        listed |= {name.removeprefix("dvm.") for name in contract.get("source_modules", ())}
    there = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    there |= {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert there <= listed, f"without a rule in pyproject.toml: {sorted(there - listed)}"


def test_no_file_of_the_package_is_two_things_long() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    long = {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > LONGEST_FILE}
    assert not long


@pytest.mark.parametrize("text", MACHINES + HOSTS + SETTINGS)
def test_nothing_names_one_machine_or_a_registry(text: str) -> None:
    done = subprocess.run(
        ["git", "grep", "-nIF", "-e", text, "--", ".", ":!*.svg"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, f"git grep: {done.stderr or done.stdout}"
