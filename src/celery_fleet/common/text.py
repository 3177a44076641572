"""Format counts and timeouts for messages; standard library only."""

from __future__ import annotations

import math
import os

#: Characters of a name or reason that are shown.
LONGEST = 200


def count(number: int, noun: str) -> str:
    """Return ``1 task`` or ``3 tasks``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def tasks_wait(number: int) -> str:
    """Return ``1 task waits`` or ``3 tasks wait``."""
    return f"{count(number, 'task')} wait{'s' if number == 1 else ''}"


def late(seconds: float, why: str = "") -> str:
    """Return ``no answer within 10 s; this host is busy (load 17 on 2 processors); --timeout 30 waits longer``."""
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    busy = f"this host is busy (load {load:.0f} on {count(processors, 'processor')})"
    longer = f"--timeout {max(30, math.ceil(3 * seconds))} waits longer"
    parts = [f"no answer within {seconds:g} s", why, busy if load > processors else "", longer]
    return "; ".join(part for part in parts if part)


def shown(text: object) -> str:
    """Return a text as one line of bounded length: it goes into logs and into the status for systemd."""
    words = " ".join(str(text).split())
    return "".join(char for char in words if char.isprintable())[:LONGEST]
