"""To which queue a task goes, as Celery decides it by routes, schedule and default."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

DEFAULT_QUEUE = "celery"


def routed(
    task: str, routes: Mapping[str, Mapping[str, Any] | str] | None, default: str = DEFAULT_QUEUE
) -> str:
    """The queue that `task_routes` gives a task: an exact name first, then the patterns in their order.

    Celery takes the mere name of a queue for a route, too.
    """
    found = (routes or {}).get(task)
    if found is None:
        found = next(
            (
                route
                for name, route in (routes or {}).items()
                if "*" in name and fnmatch.fnmatchcase(task, name)
            ),
            {},
        )
    if isinstance(found, str):
        return found
    return str(found.get("queue") or default)


def scheduled(
    schedule: Mapping[str, Mapping[str, Any]], routes: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, dict[str, str]]:
    """Task and queue of each entry that is enabled."""
    return {
        name: {
            "task": str(entry["task"]),
            "queue": str(entry.get("queue") or routed(str(entry["task"]), routes)),
        }
        for name, entry in schedule.items()
        if entry.get("enabled", True)
    }
