"""Find tasks of the current release by the names that an operator types.

It runs in the operator's command and only reads ``release.json``, which the build of the release wrote.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from celery_fleet.cli.application import Application
from celery_fleet.cli.errors import USAGE, CommandError, need_root

#: The file in which the build of a release recorded its tasks.
NOTE = "release.json"


def note_of(application: Application) -> dict[str, Any]:
    """Return what the build of the current release has recorded.

    Raises:
        CommandError: There is no release here, or its record can't be read.
    """
    path = application.release / NOTE
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found["tasks"] = sorted(map(str, found["tasks"]))
        return found
    except PermissionError:
        raise need_root(f"read {path}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        words = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CommandError(f"{path} can't be read ({words}); deploy with site.yml") from None


def registered(application: Application) -> list[str]:
    """Return the names of the tasks that the current release registers.

    Raises:
        CommandError: As :func:`note_of`.
    """
    return list(note_of(application)["tasks"])


def queue_of(task: str, told: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """Return the queue that a task goes to if the call names none; None if the record does not say.

    Args:
        task: Its name.
        told: What the release's record says about the application.
        settings: The sender's Celery settings from the inventory, which override the application's own.
    """
    own = (told.get("goes_to") or {}).get(task)
    if own is None:
        return None
    if own["fixed"]:
        return None if own["goes_to"] is None else str(own["goes_to"])
    pinned = told.get("pinned") or ()
    default = settings.get("task_default_queue")
    if default is None and "task_default_queue" not in pinned:
        default = told.get("default_queue")
    routes: Mapping[str, Any] = settings.get("task_routes") or {}
    if routes:
        fitting = (one for name, one in routes.items() if fnmatch.fnmatchcase(task, name))
        route: Any = routes.get(task) or next(fitting, {})
        return (route if isinstance(route, str) else route.get("queue")) or default
    if "task_routes" in pinned:
        return None
    return default if own["goes_to"] == told.get("default_queue") else own["goes_to"]


def endings(name: str) -> Iterator[str]:
    """Return all endings of a task's name, the shortest first: `c`, `b.c`, `a.b.c`."""
    parts = name.split(".")
    return (".".join(parts[begin:]) for begin in range(len(parts) - 1, -1, -1))


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return the shortest unambiguous name of each task."""
    every = list(names)
    meant = Counter(ending for name in every for ending in endings(name))
    return {
        # If all endings are ambiguous, the full name still means this task.
        name: next((ending for ending in endings(name) if meant[ending] == 1), name)
        for name in every
    }


def resolve(names: Iterable[str], given: str) -> str:
    """Return the task with this name, or the only one with a name that ends with it.

    Raises:
        CommandError: There is none, or there are several.
    """
    every = list(names)
    if given in every:
        return given
    found = [name for name in every if name.endswith(f".{given}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise CommandError(f"task {given}: may be {', '.join(found)}; use one of these", USAGE)
    raise CommandError(
        f"task {given}: the release has no task of this name; {_hint(every, given)}", USAGE
    )


def _hint(names: list[str], given: str) -> str:
    near = difflib.get_close_matches(given, names, n=3)
    last = given.rpartition(".")[2]
    by_last = {name.rpartition(".")[2]: name for name in names}
    near += [by_last[one] for one in difflib.get_close_matches(last, list(by_last), n=3)]
    if near:
        return f"did you mean {', '.join(dict.fromkeys(near))}?"
    return "see `celery-fleet tasks`"
