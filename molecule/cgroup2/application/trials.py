"""Tasks beside FlexiPrice's own that end badly at first: by the kernel, or with the machine."""

from __future__ import annotations

import os
import time
from typing import Any

from app import traces
from app.celery_app import celery_app
from celery import Task


def begin(task: Task[Any, Any], run_id: str) -> tuple[int, int]:
    """Record that a task begins: its row, and which attempt this is."""
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
    """Allocate without end in each of the first `deaths` attempts; which attempt came to its end.

    What is allocated is written to, or no page of it would be there.
    """
    row, attempt = begin(self, run_id)
    held = []
    while attempt <= deaths:
        held.append(b"x" * 2**24)
    traces.end_run(row)
    return attempt


@celery_app.task(name="app.trials.stay", bind=True)
def stay(self: Task[Any, Any], run_id: str, seconds: float) -> int:
    """Take `seconds` at the first attempt and none later; which attempt came to its end."""
    row, attempt = begin(self, run_id)
    if attempt == 1:
        time.sleep(seconds)
    traces.end_run(row)
    return attempt
