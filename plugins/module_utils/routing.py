"""Computes the queue of a task from routes, schedule and default, as Celery does (`celery.app.routes` in 5.7.0).

Pure functions without Celery, for hosts (in modules) and the control node.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping
from typing import Any

DEFAULT_QUEUE = "celery"

Routes = Mapping[str, Mapping[str, Any] | str] | None


def routed(task: str, routes: Routes, default: str = DEFAULT_QUEUE) -> str | None:
    """Return the queue that `task_routes` gives a task; None if a route only names an exchange.

    An exact name comes first, then the patterns in their order. In Celery a route may also be just the name of a queue.
    """
    found = (routes or {}).get(task)
    if found is None:
        fits = (
            route
            for name, route in (routes or {}).items()
            if "*" in name and fnmatch.fnmatchcase(task, name)
        )
        found = next(fits, {})
    if not isinstance(found, Mapping):
        return found
    return found.get("queue") or (None if "exchange" in found else default)


def queue_of(entry: Mapping[str, Any], routes: Routes, default: str = DEFAULT_QUEUE) -> str | None:
    """Return the queue that a scheduled entry goes to; None if it or its route only names an exchange."""
    options = entry.get("options") or {}
    own = entry.get("queue") or options.get("queue")
    if own or "exchange" in options:
        return own or None
    return routed(str(entry["task"]), routes, default)


def scheduled(
    schedule: Mapping[str, Mapping[str, Any]], routes: Routes
) -> dict[str, dict[str, Any]]:
    """Return task and queue of each enabled entry; the queue is None if it can't be known."""
    return {
        name: {"task": str(entry["task"]), "queue": queue_of(entry, routes)}
        for name, entry in schedule.items()
        if entry.get("enabled", True)
    }


def lacks(tasks: Collection[str], task: str) -> bool:
    """Return whether a release lacks a task. Each one has Celery's own, which its note leaves out."""
    return task not in tasks and not task.startswith("celery.")


def unknown(
    schedule: Mapping[str, Mapping[str, Any]],
    tasks: Collection[str],
    routes: Routes,
    external: Collection[str] = (),
) -> dict[str, str]:
    """Return the enabled entries with a task that a release does not register, each with that task.

    The tasks of an external queue belong to another application.
    """
    return {
        name: item["task"]
        for name, item in sorted(scheduled(schedule, routes).items())
        if lacks(tasks, item["task"]) and item["queue"] not in external
    }
