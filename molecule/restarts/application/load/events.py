"""Record, by Celery's signals, when workers begin and stop consuming, skip revoked tasks, and wait for the broker."""

from __future__ import annotations

import time
from typing import Any

from celery import current_task, signals

from load import record

#: Maximum seconds that sending takes while nothing is wrong. Celery retries at once if the connection is lost.
HELD_UP = 0.2

#: Attempts that are being sent, with the time when sending began.
_sending: dict[tuple[str, int], float] = {}


def connect() -> None:
    """Start recording. These are functions of the module, because Celery keeps only weak references to others."""
    signals.worker_ready.connect(_ready)
    signals.worker_shutting_down.connect(_leaving)
    signals.task_received.connect(_received)
    signals.task_revoked.connect(_revoked)
    signals.before_task_publish.connect(_send)
    signals.after_task_publish.connect(_sent)


def _ready(sender: Any, **_: Any) -> None:
    """Record that a consumer has begun; `sender` is Celery's Consumer."""
    queues = [
        queue.name for queue in sender.task_consumer.queues if not queue.name.endswith(".dq2")
    ]
    record.note_worker(sender.hostname, "ready", queues, sender.pool.num_processes)


def _leaving(sender: str, **_: Any) -> None:
    """Record that a worker was told to stop; `sender` is its node's name. It fetches nothing from here on."""
    record.note_worker(sender, "leaving", [], 0)


def _received(request: Any, **_: Any) -> None:
    """Tell a task which message it came with: kombu's tag, which the message has from when it is sent."""
    request.request_dict["sent_as"] = request.message._raw["properties"]["delivery_tag"]  # noqa: SLF001  # no public name


def _revoked(request: Any, **_: Any) -> None:
    """Record that a worker skips a revoked task; `request` is the worker's own."""
    record.note_revoked(request.id, request.hostname)


def _attempt(headers: dict[str, Any]) -> tuple[str, int]:
    return str(headers["id"]), int(headers["retries"])


def _send(headers: dict[str, Any], **_: Any) -> None:
    """Note that a process, a worker's or the sender's, begins to send an attempt of a task."""
    _sending[_attempt(headers)] = time.monotonic()


def _sent(headers: dict[str, Any], **_: Any) -> None:
    """Note that the broker has it. A sender that had to wait may have sent it more than once."""
    task, attempt = _attempt(headers)
    if time.monotonic() - _sending.pop((task, attempt), float("inf")) > HELD_UP:
        node = str(current_task.request.hostname or "") if current_task else ""
        record.note_held_up(task, attempt, node)
