"""What lies on this machine: the data directory, the database, the disk, and whether a daemon runs."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from dvm.datadir import DataDir
from dvm.doctor.findings import Finding, Steps
from dvm.ledger import StoreError
from dvm.ledger.examine import examine, exists

DATABASE_SECONDS = 20.0
# A day of jobs takes some megabytes; SQLite needs room for its log and for a backup of itself.
LITTLE_DISK = 1 << 30
NO_DISK = 100 << 20


def directory(data: DataDir) -> Iterator[Finding]:
    """Is it there, is it ours, can nobody else look into it?"""
    path = data.path
    name, where = "data directory", str(path)
    try:
        found = path.stat()
    except FileNotFoundError:
        yield Finding(name, where, "warning", "there is none yet", "Run `dvm init`, or name the right one with --data.")
        return
    except OSError as error:
        yield Finding(name, where, "failed", f"cannot be looked at: {error.strerror}", "Name another one with --data.")
        return
    if not stat.S_ISDIR(found.st_mode):
        yield Finding(name, where, "failed", "is not a directory", "Name another one with --data.")
        return
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        what = f"Make it this user's: chown -R $(id -u) {path}"
        yield Finding(name, where, "failed", "this user may not read and write there", what)
        return
    if os.name == "posix" and found.st_mode & 0o077:
        seen = f"others can look into it (mode {stat.S_IMODE(found.st_mode):o})"
        yield Finding(name, where, "warning", seen, f"Close it to them: chmod 700 {path}")
    else:
        yield Finding(name, where, "ok", "readable and writable for this user only")
    yield _disk(path)


def _disk(path: Path) -> Finding:
    free = shutil.disk_usage(path).free
    seen = f"{free / (1 << 30):,.1f} GiB free"
    what = "Make room: without it no payment can be recorded."
    state = "failed" if free < NO_DISK else "warning" if free < LITTLE_DISK else "ok"
    return Finding("disk", str(path), state, seen, "" if state == "ok" else what)  # type: ignore[arg-type]


def daemon(data: DataDir, *, running: bool) -> Finding:
    """Is one running here, and does it live?"""
    where = str(data.path)
    if not running:
        return Finding("daemon", where, "ok", "none is running here")
    healthy, word = data.health()
    if healthy:
        return Finding("daemon", where, "ok", f"one is running: {word}")
    what = "Look into its log, and restart it if it does not come round: that loses nothing."
    return Finding("daemon", where, "failed", f"one is running, but {word}", what)


async def database(path: Path) -> Steps:
    """Whole, of this version, and every msat accounted for?"""
    where = str(path)
    if not exists(path):
        yield Finding("database", where, "ok", "there is none yet: the first `dvm run` makes it")
        return
    try:
        found = await asyncio.to_thread(examine, path, DATABASE_SECONDS)
    except StoreError as error:
        what = "Stop the daemon, keep a copy of the data directory, and put back your last backup of it."
        yield Finding("database", where, "failed", f"it cannot be read: {error}", what)
        return
    if found.damage:
        what = "Stop the daemon, keep a copy of the data directory, and put back your last backup of it."
        yield Finding("database", where, "failed", f"it is damaged: {found.damage[0]}", what)
    if found.foreign:
        what = "Install the version of this program that made it, or a newer one."
        seen = f"a newer version made it ({', '.join(found.foreign)})"
        yield Finding("database", where, "failed", seen, what)
    if found.sum_msat:
        what = "Stop the daemon, keep a copy of the data directory and report this: money has been miscounted."
        yield Finding("database", where, "failed", f"the accounts sum up to {found.sum_msat} msat instead of 0", what)
    if not (found.damage or found.foreign or found.sum_msat):
        whole = "whole" if found.complete else f"no damage found within {DATABASE_SECONDS:g} s"
        new = "; the next start brings it up to date" if found.pending else ""
        jobs = f"{found.jobs:,} job{'' if found.jobs == 1 else 's'}"
        yield Finding("database", where, "ok", f"{whole}, {jobs}, every msat accounted for{new}")
