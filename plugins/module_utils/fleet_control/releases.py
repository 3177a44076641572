"""What makes a directory a release: its note `release.json`, which the build writes last, with the tasks it found."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

NOTE = "release.json"


def built(path: str) -> bool:
    """Whether a directory is a release; without the note it is what a build left half done."""
    return os.path.isfile(f"{path}/{NOTE}")


def target_of(link: str, target: str) -> str:
    """Path of the release that a link is to point to; nothing for a link that points to something else."""
    path = os.path.normpath(os.path.join(os.path.dirname(link), target))
    ours = os.path.basename(link) == "current" or os.path.basename(os.path.dirname(link)) == "pins"
    return path if ours and os.path.basename(os.path.dirname(path)) == "releases" else ""


def lacking(identity: str, note: str, tasks: Iterable[str]) -> str:
    """What to tell a person where a release has not all tasks that are scheduled; nothing where it has.

    Args:
        identity: Its name.
        note: Text of its note.
        tasks: Names of the tasks.
    """
    try:
        found = set(json.loads(note)["tasks"])
    except (ValueError, KeyError, TypeError):
        return f"release {identity}: its {NOTE} can't be read. Remove the release's directory and run again."
    missing = sorted(set(tasks) - found)
    if not missing:
        return ""
    return (
        f"celery_beat_schedule: release {identity} has no task {', '.join(missing)}. "
        "Correct the entry, or deploy code that has it."
    )
