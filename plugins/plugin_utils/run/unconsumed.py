"""Says which tasks of a release go to a queue that no worker consumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.release.suitability import queue_of

from ..preflight.model.report import several

# Names of tasks in a remark; more are only counted.
_SHOWN = 3
# The task in Celery's instructions for Django, which most projects have and none sends.
_EXAMPLE = "debug_task"


def remarks(identity: str, note: str, demands: Mapping[str, Any]) -> list[str]:
    """Return a remark for each queue without a worker that tasks go to if a call names no other queue.

    Args:
        identity: Name of the release.
        note: Text of its note.
        demands: Requirements of the inventory, as for `suitability.refusals`.
    """
    if demands.get("queues") is None:
        return []
    told = json.loads(note).get("application") or {}
    consumed = {*demands["queues"], *(demands.get("external") or ())}
    lost: dict[str, list[str]] = {}
    for task, route in sorted((told.get("goes_to") or {}).items()):
        queue = queue_of({"task": task, **route}, told, demands)
        if queue is None or queue in consumed or task.rpartition(".")[2] == _EXAMPLE:
            continue
        lost.setdefault(queue, []).append(task)
    return [
        (
            f"release {identity}: no worker of the inventory consumes the queue {queue}, and these tasks go there if a "
            f"call names no other queue: {several(tasks, _SHOWN)}. Add it to a worker's queues, or send the tasks "
            "elsewhere: by celery_app_task_routes or, if the code gives them this queue, in the code."
        )
        for queue, tasks in sorted(lost.items())
    ]
