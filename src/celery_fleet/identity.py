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


_main: Identity | None = None


def remember() -> None:
    """Note this process as the worker's main one; pool children inherit it by fork."""
    global _main
    if _main is None:
        _main = current()


def main() -> Identity:
    """The worker's main process, or this one where none was noted."""
    return _main or current()
