"""Computes the directories that the inventory declares for an application's files, celery_app_directories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .facts import Facts


def directories(
    facts: Facts, given: Mapping[str, Mapping[str, Any] | None]
) -> list[dict[str, Any]]:
    """Return the declared directories as `directories` of the desired state, parents first.

    Args:
        facts: The application's facts.
        given: celery_app_directories.
    """
    return [
        {
            "path": path.rstrip("/"),
            "owner": (options or {}).get("owner") or facts["user"],
            "group": (options or {}).get("group") or facts["user"],
            "mode": (options or {}).get("mode") or "0750",
            # A process may own its parent, and put a link there.
            "follow": False,
        }
        for path, options in sorted(given.items())
    ]
