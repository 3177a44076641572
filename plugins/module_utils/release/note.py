"""What makes a directory a release: its note `release.json`, which the build writes last.

The note holds the tasks that the release registers and, under `application`, what the application says of itself: its
schedule, zone, queues and routes (see `celery_fleet.beat.described`). Whether that suits an inventory is told by
`suitability`.
"""

from __future__ import annotations

import os
import re

NOTE = "release.json"

# What an interpreter is called that says its version; where it has another name, nothing is told from that.
_PYTHON = re.compile(r"python3\.[0-9]+")


def built(path: str) -> bool:
    """Whether a directory is a release of this host.

    Without the note it is what a build left half done. And a virtualenv leads to the host's own Python by a link, while
    its packages lie in a directory of the version that it was made with: where the host's distribution was upgraded
    since, nothing finds them.
    """
    return os.path.isfile(f"{path}/{NOTE}") and not outlived(path)


def outlived(path: str) -> str:
    """The interpreter that a release's virtualenv leads to, where its packages are not for that one, or it is gone."""
    python = os.path.realpath(f"{path}/venv/bin/python")
    if not os.access(python, os.X_OK):
        return python
    name = os.path.basename(python)
    foreign = _PYTHON.fullmatch(name) and not os.path.isdir(f"{path}/venv/lib/{name}")
    return python if foreign else ""


def again(path: str) -> str:
    """Words for a release that is there and has to be built once more; nothing where there is none."""
    python = outlived(path) if os.path.isfile(f"{path}/{NOTE}") else ""
    return f" anew: its virtualenv does not work with {python}" if python else ""


def target_of(link: str, target: str) -> str:
    """Path of the release that a link is to point to; nothing for a link that points to something else."""
    path = os.path.normpath(os.path.join(os.path.dirname(link), target))
    ours = os.path.basename(link) == "current" or os.path.basename(os.path.dirname(link)) == "pins"
    return path if ours and os.path.basename(os.path.dirname(path)) == "releases" else ""
