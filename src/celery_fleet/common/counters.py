"""Counters in a file that outlives the processes of a unit, and that everybody may read.

A worker's restart may start a second instance, ``<app>-worker@<name>.next.service``. It counts for the worker. Standard
library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery_fleet.common import json_file
from celery_fleet.common.small_file import DAMAGED, content

FORMAT = 1

#: What the name of a worker's second instance ends with.
SECOND = ".next"

#: Seconds for which a writer waits for the lock.
PATIENCE = 1.0

#: The file that a writer locks. Only the same user can open it, so no other one can hold up the end of a unit.
_LOCK = ".lock"


def add(path: Path, more: Mapping[str, int], group: str = "") -> None:
    """Add to the counters in a file. A file that is missing or can't be read begins at zero.

    Args:
        path: The file, named after a unit.
        more: How much to add, by the counter's name.
        group: The key below which the file has its counters; empty for the top level.

    Raises:
        OSError: The file can't be written, or another process holds the lock.
    """
    path = path.with_name(path.name.replace(f"{SECOND}.", "."))
    lock = os.open(path.with_name(_LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(lock)
        try:
            document = _added(json.loads(content(path)), more, group)
        except (FileNotFoundError, *DAMAGED):
            document = _added({"format": FORMAT}, more, group)
        json_file.replace(path, document, 0o644)
    finally:
        os.close(lock)


def _lock(descriptor: int) -> None:
    """Lock a file within :data:`PATIENCE` seconds: a task, which has the same user, may hold the lock.

    Raises:
        BlockingIOError: Another process holds it.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.02)
        else:
            return


def _added(found: Any, more: Mapping[str, int], group: str) -> dict[str, Any]:
    """Return counters with more added to them.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: They are not what `add` writes.
    """
    if found["format"] != FORMAT:
        raise ValueError("another format")
    document: dict[str, Any] = found
    counts = document.setdefault(group, {}) if group else document
    for name, number in more.items():
        counts[name] = int(counts.get(name, 0)) + number
    return document
