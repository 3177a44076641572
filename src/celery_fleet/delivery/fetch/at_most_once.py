"""Acknowledge a task before it starts, so that it starts at most once.

With early acknowledgement, Celery only acknowledges a task when a process of its pool has accepted it. By then the task
is running. If the worker is killed in between, the message stays behind and the task runs again. Here the worker
removes the message first, and starts the task only if the message was still there.
"""

from __future__ import annotations

import logging
from typing import Any

from celery_fleet.common.errors import error_text
from celery_fleet.compat import tasks
from celery_fleet.delivery.dead_letters import internals as letters
from celery_fleet.delivery.options import AT_MOST_ONCE, Options

logger = logging.getLogger("celery_fleet.delivery")


def install(options: Options) -> None:
    """Have an ``at_most_once`` worker acknowledge tasks first, except those that set ``acks_late`` themselves."""
    if options.profile == AT_MOST_ONCE:
        tasks.before_each_task(may_begin)


def may_begin(request: Any) -> bool:
    """Acknowledge a request's message; return whether its task may start."""
    message = request.message
    if request.task.acks_late or request.acknowledged or not letters.in_unacked(message):
        return True
    try:
        removed = letters.remove(message)
    except Exception as exc:  # noqa: BLE001  # the task must not start without an acknowledgement
        logger.warning(
            "task %s[%s] does not start now, because its message can't be acknowledged (%s); the worker tries again",
            request.name,
            request.id,
            error_text(exc),
        )
        return False
    request.acknowledged = True
    if not removed:
        logger.info(
            "task %s[%s] does not start here: its message has been put back in the meantime",
            request.name,
            request.id,
        )
    return removed
