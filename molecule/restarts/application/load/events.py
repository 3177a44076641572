"""When workers begin and end to consume, leave what is revoked, and wait for the broker: by Celery's own signals."""

from __future__ import annotations

import time
from typing import Any

from celery import current_task, signals

from load import record

#: Seconds that sending takes at most while nothing is wrong. Celery tries again at once if the connection is lost.
HELD_UP = 0.2

#: Attempts that are being sent, and since when.
_sending: dict[tuple[str, int], float] = {}


def connect() -> None:
    """Note it from now on; Celery keeps only weak references to functions that are not a module's."""
    signals.worker_ready.connect(_ready)
    signals.worker_shutting_down.connect(_leaving)
    signals.task_received.connect(_received)
    signals.task_revoked.connect(_revoked)
    signals.before_task_publish.connect(_send)
    signals.after_task_publish.connect(_sent)


def _ready(sender: Any, **_: Any) -> None:
    """A consumer has begun; `sender` is Celery's Consumer."""
    queues = [
        queue.name for queue in sender.task_consumer.queues if not queue.name.endswith(".dq2")
    ]
    record.note_worker(sender.hostname, "ready", queues, sender.pool.num_processes)


def _leaving(sender: str, **_: Any) -> None:
    """A worker was told to stop; `sender` is its node's name. It fetches nothing from here on."""
    record.note_worker(sender, "leaving", [], 0)


def _received(request: Any, **_: Any) -> None:
    """Tell a task which message it came by: the tag that kombu gave it when it was sent, which stays with it."""
    request.request_dict["sent_as"] = request.message._raw["properties"]["delivery_tag"]  # noqa: SLF001  # no public name


def _revoked(request: Any, **_: Any) -> None:
    """A worker has a task that was revoked, and does not begin it; `request` is the worker's own."""
    record.note_revoked(request.id, request.hostname)


def _attempt(headers: dict[str, Any]) -> tuple[str, int]:
    return str(headers["id"]), int(headers["retries"])


def _send(headers: dict[str, Any], **_: Any) -> None:
    """A process, be it a worker's or the sender's, begins to send an attempt of a task."""
    _sending[_attempt(headers)] = time.monotonic()


def _sent(headers: dict[str, Any], **_: Any) -> None:
    """The broker has it. A sender that was held up may have sent it more than once."""
    task, attempt = _attempt(headers)
    if time.monotonic() - _sending.pop((task, attempt), float("inf")) > HELD_UP:
        node = str(current_task.request.hostname or "") if current_task else ""
        record.note_held_up(task, attempt, node)
