"""Which process this is, so that an answer can be told from its predecessor's."""

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

    @property
    def start_id(self) -> str:
        """Unique on a host between two of its boots, even if a process number comes again."""
        return f"{self.pid}-{self.ticks}"


def read_start_ticks(pid: int) -> int:
    """A process's start time in clock ticks since boot, field 22 of proc(5)'s stat; 0 if unknown.

    /proc/PID/stat stays readable under ``ProcSubset=pid``, /proc/stat does not.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def current() -> Identity:
    """The calling process's identity."""
    pid = os.getpid()
    ticks = read_start_ticks(pid)
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return Identity(pid, ticks, round(time.time() - (age if ticks else 0.0), 3))


#: Carries the main process's identity to pool children that are started by spawn or forkserver:
#: they run the worker's hooks anew, so memory alone would have them take themselves for it.
VARIABLE = "CELERY_FLEET_MAIN_PROCESS"

_main: Identity | None = None


def remember() -> None:
    """Note the worker's main process: this one, unless it was started by a process so noted."""
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
    # One that has ended, or whose number is another's by now, is nobody's main process.
    return Identity(pid, ticks, started) if ticks and read_start_ticks(pid) == ticks else None


def main() -> Identity:
    """The worker's main process, or this one where none was noted."""
    return _main or current()
