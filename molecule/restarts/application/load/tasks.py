"""The tasks: they sleep and record that. Their ids are the record's keys."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from celery import Task
from kombu.exceptions import OperationalError

from load import record
from load.celery_app import app

RETRY_AFTER = 2.0  # seconds

# A task whose process was killed is retried after this time, not after Celery's three minutes, and however often that
# happens: with Celery's three retries, a task of 20 s that is killed four times by chance would have failed.
app.Task.default_retry_delay = RETRY_AFTER
app.Task.max_retries = None


def _start(task: Task[Any, Any]) -> int:
    request = task.request
    return record.start(
        str(request.id),
        int(request.retries),
        request.hostname or "local",
        str(request.sent_as),
    )


@app.task(name="load.nap", bind=True, ignore_result=True)
def nap(self: Task[Any, Any], seconds: float, body: str = "") -> None:
    """Sleep; the body only makes the message large."""
    row = _start(self)
    time.sleep(seconds)
    record.end(row)


@app.task(name="load.limited", bind=True, ignore_result=True, rate_limit="30/m")
def limited(self: Task[Any, Any], seconds: float, body: str = "") -> None:
    """Sleep; each worker has a rate limit for this task."""
    row = _start(self)
    time.sleep(seconds)
    record.end(row)


@app.task(name="load.revoke", bind=True, ignore_result=True)
def revoke(self: Task[Any, Any], seconds: float, task: str) -> None:
    """Sleep, and tell all workers to revoke a task. A worker does this, because senders have no right to it."""
    row = _start(self)
    time.sleep(seconds)
    app.control.revoke(task)
    record.end(row)


@app.task(name="load.stumble", bind=True, ignore_result=True)
def stumble(self: Task[Any, Any], seconds: float) -> None:
    """Sleep, and ask for one retry."""
    row = _start(self)
    time.sleep(seconds)
    if self.request.retries:
        record.end(row)
        return
    record.end(row, retry_at=record.now() + RETRY_AFTER)
    raise self.retry(countdown=RETRY_AFTER)


@app.task(name="load.relay", bind=True, ignore_result=True)
def relay(self: Task[Any, Any], seconds: float, task: str, way: Mapping[str, str]) -> None:
    """Send a task to a named exchange, and retry if that fails, although the broker may have it."""
    row = _start(self)
    try:
        nap.apply_async((seconds,), task_id=task, **way)
    except OperationalError as error:
        record.note_held_up(task, 0, str(self.request.hostname))
        record.end(row, retry_at=record.now() + RETRY_AFTER)
        raise self.retry(exc=error, countdown=RETRY_AFTER) from error
    record.end(row)


@app.task(name="load.count", bind=True)
def count(self: Task[Any, Any], seconds: float) -> int:
    """Sleep; the header of a chord."""
    row = _start(self)
    time.sleep(seconds)
    record.end(row)
    return 1


@app.task(name="load.gather", bind=True, ignore_result=True)
def gather(self: Task[Any, Any], counted: list[int], seconds: float) -> None:
    """Sleep; the body of a chord."""
    row = _start(self)
    time.sleep(seconds)
    record.end(row)
