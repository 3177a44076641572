"""Extra tasks for FlexiPrice that fail at first: the kernel kills them, or the machine goes down."""

from __future__ import annotations

import os
import time
from typing import Any

from app import traces
from app.celery_app import celery_app
from celery import Task


def begin(task: Task[Any, Any], run_id: str) -> tuple[int, int]:
    """Record that a task begins; return its row and the number of this attempt."""
    request = task.request
    return traces.begin_run(
        run_id,
        task_id=str(request.id),
        node=request.hostname,
        pid=os.getpid(),
        is_redelivered=bool((request.delivery_info or {}).get("redelivered")),
    )


# A task whose process died is retried after this delay, three minutes if a task sets none.
@celery_app.task(name="app.trials.take_memory", bind=True, default_retry_delay=1)
def take_memory(self: Task[Any, Any], run_id: str, deaths: int) -> int:
    """Allocate memory without end in each of the first `deaths` attempts; return which attempt finished.

    The memory is written to, because otherwise the kernel would provide no page of it.
    """
    row, attempt = begin(self, run_id)
    held = []
    while attempt <= deaths:
        held.append(b"x" * 2**24)
    traces.end_run(row)
    return attempt


@celery_app.task(name="app.trials.stay", bind=True)
def stay(self: Task[Any, Any], run_id: str, seconds: float) -> int:
    """Sleep for `seconds` in the first attempt only; return which attempt finished."""
    row, attempt = begin(self, run_id)
    if attempt == 1:
        time.sleep(seconds)
    traces.end_run(row)
    return attempt
