"""``celery_fleet.canary``: a task with which a worker proves that it fetches and answers tasks."""

from __future__ import annotations

from typing import Any

from celery.app.task import Task

from celery_fleet.common import identity
from celery_fleet.delivery.keys import CANARY


class Canary(Task):  # type: ignore[misc]  # Celery ships no types
    """Celery's own task class instead of the application's, so that the application's hooks don't run."""

    acks_late = False  # a canary is not worth a second delivery
    ignore_result = False
    store_eager_result = False
    rate_limit = 0  # none; None would mean the application's task_default_rate_limit
    serializer = "json"

    @classmethod
    def annotate(cls) -> None:
        """Ignore ``task_annotations``: a ``*`` there is not meant for the canary."""


def run() -> dict[str, int]:
    """Answer a canary with the number of the worker's main process."""
    return {"pid": identity.main().pid}


def register(app: Any) -> None:
    """Add the canary to an app; a second call does nothing."""
    if CANARY not in app.tasks:
        # Not shared: it belongs to the worker's app, not to every app of the process.
        app.task(run, base=Canary, name=CANARY, lazy=False, shared=False)
