"""When workers begin and end to consume, and leave what is revoked, told by Celery's own signals."""

from __future__ import annotations

from typing import Any

from celery import signals

from load import record


def connect() -> None:
    """Note it from now on; Celery keeps only weak references to functions that are not a module's."""
    signals.worker_ready.connect(_ready)
    signals.worker_shutting_down.connect(_leaving)
    signals.task_revoked.connect(_revoked)


def _ready(sender: Any, **_: Any) -> None:
    """A consumer has begun; `sender` is Celery's Consumer."""
    queues = [
        queue.name for queue in sender.task_consumer.queues if not queue.name.endswith(".dq2")
    ]
    record.note_worker(sender.hostname, "ready", queues, sender.pool.num_processes)


def _leaving(sender: str, **_: Any) -> None:
    """A worker was told to stop; `sender` is its node's name. It takes no more from here on."""
    record.note_worker(sender, "leaving", [], 0)


def _revoked(request: Any, **_: Any) -> None:
    """A worker has a task that was revoked, and does not begin it; `request` is the worker's own."""
    record.note_revoked(request.id, request.hostname)
