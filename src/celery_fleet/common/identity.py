"""Identify this process, so that replies from an earlier process with the same name can be told apart."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Identity:
    """A worker's main process: ``started`` is Unix time, ``ticks`` the kernel's start time."""

    pid: int
    ticks: int
    started: float


def read_start_ticks(pid: int) -> int:
    """Return a process's start time in clock ticks since boot, field 22 of proc(5)'s stat; 0 if unknown.

    /proc/PID/stat stays readable under ``ProcSubset=pid``, /proc/stat does not.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def current() -> Identity:
    """Return the identity of the calling process."""
    pid = os.getpid()
    ticks = read_start_ticks(pid)
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return Identity(pid, ticks, round(time.time() - (age if ticks else 0.0), 3))


#: Passes the main process's identity to pool children that are started by spawn or forkserver.
#: They run the worker's hooks again, so without it they would take themselves for the main process.
VARIABLE = "CELERY_FLEET_MAIN_PROCESS"

_main: Identity | None = None


def remember() -> None:
    """Remember the worker's main process: this one, unless the process that started it has already been remembered."""
    global _main
    if _main is None:
        _main = _read(os.environ.get(VARIABLE, "")) or current()
        os.environ[VARIABLE] = f"{_main.pid}:{_main.ticks}:{_main.started}"


def _read(text: str) -> Identity | None:
    parts = text.split(":")
    try:
        pid, ticks, started = int(parts[0]), int(parts[1]), float(parts[2])
    except (ValueError, IndexError):
        return None
    # The process may have ended, or its number may belong to another one by now.
    return Identity(pid, ticks, started) if ticks and read_start_ticks(pid) == ticks else None


def main() -> Identity:
    """Return the identity of the worker's main process, or of this process if none is remembered."""
    return _main or current()
