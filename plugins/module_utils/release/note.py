"""Reads the note `release.json`, which makes a directory a release; the build writes it last.

The note contains the tasks that the release registers and, under `application`, a description of the application: its
schedule, time zone, queues and routes (see `celery_fleet.beat.described`). `suitability` checks whether that fits an
inventory. Under `one_way` it has the migrations that can't be undone, which the source lists in the file `ONE_WAY`.
"""

from __future__ import annotations

import os
import re

NOTE = "release.json"

#: File of the source, in the application's directory, that lists one-way migrations: one per line, with # for comments.
ONE_WAY = "one-way-migrations.txt"

#: The note that makes a directory a complete virtualenv; see `virtualenv.py`.
VIRTUALENV_NOTE = "virtualenv.json"

# Names of interpreters that contain a version; other names say nothing about it.
_PYTHON = re.compile(r"python3\.[0-9]+")


def one_way(code: str) -> list[str]:
    """Return the one-way migrations that a source lists."""
    try:
        # The source may have a link to a file that only root can read.
        handle = os.open(f"{code}/{ONE_WAY}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return []
    with os.fdopen(handle, encoding="utf-8", errors="replace") as stream:
        lines = [line.partition("#")[0].strip() for line in stream]
    return [line for line in lines if line]


def built(path: str) -> bool:
    """Return whether a directory is a usable release of this host.

    Without the note it is an unfinished build. A virtualenv links to the host's own Python, but its packages are in a
    directory named after the version that created it. After an upgrade of the distribution Python doesn't find them.
    """
    return os.path.isfile(f"{path}/{NOTE}") and not outlived(path)


def outlived(path: str) -> str:
    """Return the interpreter of a release's virtualenv if it is gone or the packages are for another version."""
    venv = f"{path}/venv"
    return "" if works(venv) else os.path.realpath(f"{venv}/bin/python")


def works(venv: str) -> bool:
    """Return whether a virtualenv's interpreter is there and its packages are for this version."""
    python = os.path.realpath(f"{venv}/bin/python")
    if not os.access(python, os.X_OK):
        return False
    name = os.path.basename(python)
    return not _PYTHON.fullmatch(name) or os.path.isdir(f"{venv}/lib/{name}")


def again(path: str) -> str:
    """Return text for a release that exists but has to be built again; empty if it does not exist."""
    python = outlived(path) if os.path.isfile(f"{path}/{NOTE}") else ""
    return f" again: its virtualenv does not work with {python}" if python else ""


def target_of(link: str, target: str) -> str:
    """Return the path of the release that a link will point to; empty if the link points to something else."""
    path = os.path.normpath(os.path.join(os.path.dirname(link), target))
    ours = os.path.basename(link) == "current" or os.path.basename(os.path.dirname(link)) == "pins"
    return path if ours and os.path.basename(os.path.dirname(path)) == "releases" else ""
