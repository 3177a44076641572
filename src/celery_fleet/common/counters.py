"""Counters in a file that outlives the processes of a unit; root writes it and everybody may read it.

A worker's restart may start a second instance, ``<app>-worker@<name>.next.service``. It counts for the worker. Standard
library only.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from celery_fleet.common import json_file

FORMAT = 1

#: What the name of a worker's second instance ends with.
SECOND = ".next"

#: The file that a writer locks. Only root can open it, so no other user can hold up the end of a unit.
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


@contextmanager
def adding(path: Path) -> Iterator[dict[str, int]]:
    """Yield an empty dictionary; at the end of the block add what is in it to the counters in a file.

    A child process does that, so the block may give up root for good. A failure is told on standard output.
    """
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(sink)
        _add_what_comes(path, source)
    os.close(source)
    more: dict[str, int] = {}
    try:
        yield more
    finally:
        with open(sink, "w", encoding="utf-8") as stream:
            stream.write(json.dumps(more) + "\n")
        os.waitpid(child, 0)


def _add_what_comes(path: Path, source: int) -> NoReturn:
    try:
        with open(source, encoding="utf-8") as stream:
            for line in stream:
                add(path, json.loads(line))
    except Exception as error:  # noqa: BLE001  # the caller's code must not go on in this process
        # The journal reads a line's level at its beginning (sd-daemon(3)).
        print(f"<4>{path} can't be written: {type(error).__name__}: {error}", flush=True)
    finally:
        os._exit(0)
