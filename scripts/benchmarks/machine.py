"""The machine: its processors and how they are shared out, and what a process has used of them."""

from __future__ import annotations

import os
import platform
import sqlite3
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

BUSY_LOAD = 0.5  # of a processor: more before the run begins, and the figures say more about the others


@dataclass(frozen=True, slots=True)
class Cores:
    """Which processors the daemon has for itself, and which relay and customer share. On a machine with
    one processor nothing is pinned: both are all there is."""

    daemon: frozenset[int]
    others: frozenset[int]

    @property
    def pinned(self) -> bool:
        return self.daemon != self.others


def share_out() -> Cores:
    """The first processor that this process may use is the daemon's, the rest are the others'."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) == 1:
        return Cores(frozenset(usable), frozenset(usable))
    return Cores(frozenset(usable[:1]), frozenset(usable[1:]))


def cpu_seconds(pid: int) -> float:
    """The processor time that a process and all its threads, ended ones too, have used; to the nanosecond.

    Linux's clock of another process (clock_getcpuclockid(3)): utime and stime without the ticks' rounding.
    """
    return time.clock_gettime((~pid << 3) | 2)


def resident_bytes(pid: int) -> int:
    """The memory of a process that is in use (RSS)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def describe(cores: Cores, directory: Path) -> dict[str, Any]:
    """What the figures depend on, and how busy the machine is as we begin."""
    load = os.getloadavg()[0]
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(cores.daemon | cores.others),
        "daemon_core": sorted(cores.daemon) if cores.pinned else None,
        "other_cores": sorted(cores.others) if cores.pinned else None,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "fsync_ms": round(_fsync_seconds(directory) * 1e3, 3),
        "load_average": round(load, 2),
        "busy": load > BUSY_LOAD,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _fsync_seconds(directory: Path) -> float:
    """What making a page durable costs where the databases will lie: on a memory disk, nothing."""
    took = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(20):
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return median(took)
