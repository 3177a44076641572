"""Says which tasks of a release go to a queue that no worker consumes, and whether beat ignores its scheduler."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.release.suitability import (
    REPLACE,
    queue_of,
)

from ..preflight.model.report import several

# Names of tasks in a remark; more are only counted.
_SHOWN = 3
# The task in Celery's instructions for Django, which most projects have and none sends.
_EXAMPLE = "debug_task"
# Packages of schedulers that store entries, by the value of celery_beat_scheduler.
_STORING = {"database": "django_celery_beat", "redbeat": "redbeat"}


def remarks(identity: str, note: str, demands: Mapping[str, Any]) -> list[str]:
    """Return remarks about a release that fits, each with what to do.

    Args:
        identity: Name of the release.
        note: Text of its note.
        demands: Requirements of the inventory, as for `suitability.refusals`.
    """
    told = json.loads(note).get("application") or {}
    return [*_unconsumed(identity, told, demands), *_unused(identity, told, demands)]


def _unconsumed(
    identity: str, told: Mapping[str, Any], demands: Mapping[str, Any]
) -> Iterator[str]:
    """Yield a remark for each queue without a worker that tasks go to if a call names no other queue."""
    if demands.get("queues") is None:
        return
    consumed = {*demands["queues"], *(demands.get("external") or ())}
    lost: dict[str, list[str]] = {}
    for task, route in sorted((told.get("goes_to") or {}).items()):
        queue = queue_of({"task": task, **route}, told, demands)
        if queue is None or queue in consumed or task.rpartition(".")[2] == _EXAMPLE:
            continue
        lost.setdefault(queue, []).append(task)
    for queue, tasks in sorted(lost.items()):
        yield (
            f"release {identity}: no worker of the inventory consumes the queue {queue}, and these tasks go there if a "
            f"call names no other queue: {several(tasks, _SHOWN)}. Add it to a worker's queues, or send the tasks "
            "elsewhere: by celery_app_task_routes or, if the code gives them this queue, in the code."
        )


def _unused(identity: str, told: Mapping[str, Any], demands: Mapping[str, Any]) -> Iterator[str]:
    """Yield a remark if the code has a scheduler that stores entries, and the inventory none."""
    given = str(told.get("scheduler"))
    chosen = demands.get("scheduler") != "persistent" or "beat_scheduler" in (
        demands.get("settings") or {}
    )
    # With this policy the inventory's schedule is the whole; it is also that of a fleet without beat.
    if chosen or demands.get("policy") == REPLACE:
        return
    for scheduler, package in _STORING.items():
        if package in given:
            yield (
                f"release {identity}: the code has beat_scheduler {given}, but celery_beat_scheduler is persistent, so "
                f"beat sends nothing that is stored there. Set celery_beat_scheduler: {scheduler}, or remove "
                "beat_scheduler from the code."
            )
