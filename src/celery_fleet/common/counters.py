"""Counters in a file that outlives the processes of a unit, and that everybody may read.

A worker's restart may start a second instance, ``<app>-worker@<name>.next.service``. It counts for the worker. Standard
library only.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from celery_fleet.common import json_file

FORMAT = 1

#: What the name of a worker's second instance ends with.
SECOND = ".next"

#: The file that a writer locks. Only the same user can open it, so no other one can hold up the end of a unit.
_LOCK = ".lock"


def add(path: Path, more: Mapping[str, int], group: str = "") -> None:
    """Add to the counters in a file. A file that is missing or can't be read begins at zero.

    Args:
        path: The file, named after a unit.
        more: How much to add, by the counter's name.
        group: The key below which the file has its counters; empty for the top level.

    Raises:
        OSError: The file can't be written.
    """
    path = path.with_name(path.name.replace(f"{SECOND}.", "."))
    lock = os.open(path.with_name(_LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        document: dict[str, Any] = {"format": FORMAT}
        with suppress(FileNotFoundError, ValueError):
            found = json.loads(path.read_bytes())
            document = found if found["format"] == FORMAT else document
        counts = document.setdefault(group, {}) if group else document
        for name, number in more.items():
            counts[name] = counts.get(name, 0) + number
        json_file.replace(path, document, 0o644)
    finally:
        os.close(lock)
