"""``celery_fleet.canary``: the task by which a worker proves that it takes and answers tasks."""

from __future__ import annotations

import os
from typing import Any

from celery.app.task import Task

from celery_fleet.common import identity

NAME = "celery_fleet.canary"


class Canary(Task):  # type: ignore[misc]  # Celery ships no types
    """Celery's own task class, whatever the application uses: its hooks are not to run."""

    acks_late = False  # a canary is not worth a second delivery
    ignore_result = False
    store_eager_result = False
    rate_limit = 0  # none; with None it would take the application's task_default_rate_limit
    serializer = "json"

    @classmethod
    def annotate(cls) -> None:
        """Leave out ``task_annotations``: a ``*`` in there is not meant for the canary."""


def answer(request: Any) -> dict[str, Any]:
    """Who runs the task: node, main process (number, start) and release."""
    main = identity.main()
    return {
        "node": getattr(request, "hostname", None) or os.environ.get("CELERY_FLEET_NODE"),
        "pid": main.pid,
        "start_id": main.start_id,
        "started": main.started,
        "release": os.environ.get("CELERY_FLEET_RELEASE"),
    }


def run(task: Any) -> dict[str, Any]:
    """Answer a canary; bound, so it gets the task."""
    return answer(task.request)


def register(app: Any) -> None:
    """Add the canary to an app; again is harmless."""
    if NAME not in app.tasks:
        # Not shared: it belongs to the worker's app, not to every app of the process.
        app.task(run, bind=True, base=Canary, name=NAME, lazy=False, shared=False)
