"""Notes of releases, as `celery_fleet.release.check` writes them, and what is wrong with such a release."""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.release.suitability import refusals


def entry(task: str = "app.x", **more: Any) -> dict[str, Any]:
    """Return an entry of the code, as `celery_fleet.beat.described` writes it."""
    base = {"args": [], "kwargs": {}, "options": {}, "queue": None, "goes_to": "celery"}
    time = {} if {"crontab", "solar", "custom"} & more.keys() else {"interval": 30.0}
    return {"task": task, **time, "fixed": False, **base, **more}


def note(schedule: dict[str, Any] | None = None, **application: Any) -> str:
    told = {"default_queue": "celery", "schedule": schedule or {}, **application}
    return json.dumps({"tasks": ["app.x", "app.y"], "application": told})


def refused(text: str, **demands: Any) -> list[str]:
    return refusals("r1", text, {"queues": ["celery", "q"], **demands})
