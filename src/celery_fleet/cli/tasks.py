"""The tasks of the current release by the names that an operator types."""

from __future__ import annotations

import difflib
import fnmatch
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from celery_fleet.cli.application import Application
from celery_fleet.cli.errors import USAGE, CommandError, need_root

#: The file in which the build of a release wrote down what it registers.
NOTE = "release.json"


def note_of(application: Application) -> dict[str, Any]:
    """What the build of the current release wrote down.

    Raises:
        CommandError: There is no release here, or its note can't be read.
    """
    path = application.release / NOTE
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found["tasks"] = sorted(map(str, found["tasks"]))
        return found
    except PermissionError:
        raise need_root(path) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        words = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CommandError(f"{path} can't be read ({words}); deploy with site.yml") from None


def registered(application: Application) -> list[str]:
    """Names of the tasks that the current release registers.

    Raises:
        CommandError: As :func:`note_of`.
    """
    return list(note_of(application)["tasks"])


def queue_of(task: str, told: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """The queue that a task goes to where nobody names another; None where the note does not say it.

    Args:
        task: Its name.
        told: What the note says of the application.
        settings: Celery's, of whoever sends it: the inventory's stand in place of the application's own.
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
    """All names by which a task may be called, the shortest first: `c`, `b.c`, `a.b.c`."""
    parts = name.split(".")
    return (".".join(parts[begin:]) for begin in range(len(parts) - 1, -1, -1))


def short_names(names: Iterable[str]) -> dict[str, str]:
    """For each task the shortest name by which it alone is meant."""
    every = list(names)
    meant = Counter(ending for name in every for ending in endings(name))
    return {
        # Another one may end with all of this one's name, which then still means this one.
        name: next((ending for ending in endings(name) if meant[ending] == 1), name)
        for name in every
    }


def resolve(names: Iterable[str], given: str) -> str:
    """The task that is meant: by its name, or by the end of it where no other one has that.

    Raises:
        CommandError: There is none, or several.
    """
    every = list(names)
    if given in every:
        return given
    found = [name for name in every if name.endswith(f".{given}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise CommandError(f"task {given}: may be {', '.join(found)}; say which", USAGE)
    raise CommandError(
        f"task {given}: the release has none of this name; {_hint(every, given)}", USAGE
    )


def _hint(names: list[str], given: str) -> str:
    near = difflib.get_close_matches(given, names, n=3)
    last = given.rpartition(".")[2]
    by_last = {name.rpartition(".")[2]: name for name in names}
    near += [by_last[one] for one in difflib.get_close_matches(last, list(by_last), n=3)]
    if near:
        return f"did you mean {', '.join(dict.fromkeys(near))}?"
    return "see `celery-fleet tasks`"
