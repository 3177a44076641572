"""The tasks. discounts.py and traces.py do the work; this file says how Celery runs it."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Task, current_task
from psycopg import OperationalError

from app import discounts, traces
from app.celery_app import celery_app

MAX_RUN_SECONDS = 3600
MAX_TICKS = 100

# While the database is away, tries again after some 2, 4 … 32 s. Safe: the work can be repeated.
RETRY_WHILE_DATABASE_IS_AWAY: dict[str, Any] = {
    "autoretry_for": (OperationalError,),
    "retry_backoff": 2,
    "max_retries": 5,
}


@celery_app.task(name="app.tasks.recompute_all_discounts", **RETRY_WHILE_DATABASE_IS_AWAY)
def recompute_all_discounts(days_threshold: int = 30) -> dict[str, int]:
    """Recompute the discounts of all batches that expire within `days_threshold` days."""
    return discounts.recompute(days_threshold)


@celery_app.task(name="app.tasks.cleanup_expired_discounts", **RETRY_WHILE_DATABASE_IS_AWAY)
def cleanup_expired_discounts() -> dict[str, int]:
    """Mark old discounts as expired."""
    return discounts.expire()


@celery_app.task(name="app.tasks.update_price_history", **RETRY_WHILE_DATABASE_IS_AWAY)
def update_price_history() -> dict[str, int]:
    """Record a price snapshot of every product for analytics."""
    return discounts.record_prices()


@celery_app.task(name="app.tasks.record_run", bind=True)
def record_run(self: Task[Any, Any], run_id: str, seconds: float = 10.0) -> dict[str, str | int]:
    """The tracer: take `seconds`, and record begin and end in `task_runs`, one row an attempt.

    It stands for a job that takes a while. A row without an end is a run that was cut off; a second
    row for a `run_id` is a run that was done twice.
    """
    if not 0 <= seconds <= MAX_RUN_SECONDS:
        raise ValueError(f"seconds must be between 0 and {MAX_RUN_SECONDS}, got {seconds}")
    node, pid = _node(self), os.getpid()
    row, attempt = traces.begin_run(
        run_id,
        task_id=str(self.request.id),
        node=node,
        pid=pid,
        is_redelivered=bool((self.request.delivery_info or {}).get("redelivered")),
    )
    time.sleep(seconds)
    traces.end_run(row)
    return {"run_id": run_id, "attempt": attempt, "node": node, "pid": pid}


@celery_app.task(name="app.tasks.record_tick", bind=True, ignore_result=True)
def record_tick(self: Task[Any, Any], source: str) -> None:
    """The probe: record one row in `task_ticks`, to see that a schedule fires."""
    traces.tick(source, task_id=str(self.request.id), node=_node(self))


@celery_app.task(name="app.tasks.my_custom_task")
def my_custom_task(param1: str, param2: int) -> dict[str, str]:
    """The document's own example of a task: leave `param2` rows of the source `param1` in `task_ticks`.

    The routes do not name it, so it goes to the default queue.
    """
    if not 1 <= param2 <= MAX_TICKS:
        raise ValueError(f"param2 must be between 1 and {MAX_TICKS}, got {param2}")
    for _ in range(param2):
        traces.tick(param1, task_id=str(current_task.request.id), node=_node(current_task))
    return {"status": "success"}


def _node(task: Task[Any, Any]) -> str:
    """Return the worker that runs the task; `local` if it was called in its own process."""
    return task.request.hostname or "local"
