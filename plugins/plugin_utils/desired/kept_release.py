"""What the inventory asks of a release that the fleet keeps, which may lack tasks that a newer one has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.routing import (
    Routes,
    lacks,
    unknown,
)


def is_pattern(name: str) -> bool:
    """Return whether a route is for all tasks that match its name."""
    return not {*"*?["}.isdisjoint(name)


def known_schedule(
    schedule: Mapping[str, Mapping[str, Any]],
    tasks: Sequence[str],
    routes: Routes,
    external: Sequence[str] = (),
) -> dict[str, Mapping[str, Any]]:
    """Return a schedule without tasks that the release lacks; the whole schedule if its tasks are not given."""
    left_out = unknown(schedule, {*tasks}, routes, external) if tasks else {}
    return {name: entry for name, entry in schedule.items() if name not in left_out}


def known_routes(
    routes: Mapping[str, Mapping[str, Any]], tasks: Sequence[str]
) -> dict[str, Mapping[str, Any]]:
    """Return routes without those of single tasks that the release lacks; all routes if its tasks are not given."""
    known = {*tasks}
    return {
        name: route
        for name, route in routes.items()
        if not known or not lacks(known, name) or is_pattern(name)
    }
