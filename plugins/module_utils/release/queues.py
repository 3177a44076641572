"""Says which queues a release's tasks and scheduled entries go to, and which of these no worker consumes.

`told` is what the release's note says about the application, and `demands` what the inventory requires, as
`suitability.refusals` describes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..routing import DEFAULT_QUEUE, lacks, routed

# Names of tasks in a remark; more are only counted.
_SHOWN = 3
# The task in Celery's instructions for Django, which most projects have and none sends.
_EXAMPLE = "debug_task"


def queue_of(
    entry: Mapping[str, Any], told: Mapping[str, Any], demands: Mapping[str, Any]
) -> str | None:
    """Return the queue of an entry in the code on these hosts; None if the note does not say.

    The inventory's routes and default queue replace the application's. If the inventory set them when the release was
    built (`pinned`) but no longer does, the note lacks the application's own. If an entry only names an exchange, its
    queue is not known.
    """
    if entry.get("fixed"):
        queue = entry.get("goes_to")
        return None if queue is None else str(queue)
    settings = demands.get("settings") or {}
    pinned = told.get("pinned") or ()
    own = "" if "task_default_queue" in pinned else str(told.get("default_queue") or DEFAULT_QUEUE)
    default = str(settings.get("task_default_queue") or own)
    routes = settings.get("task_routes") or demands.get("routes")
    if isinstance(routes, Mapping) and routes:
        return routed(str(entry["task"]), routes, default) or None
    if "task_routes" in pinned:
        return None
    goes_to = entry["goes_to"]
    if goes_to is None:
        return None
    return (default or None) if goes_to == told.get("default_queue") else str(goes_to)


def unserved(
    identity: str,
    name: str,
    entry: Mapping[str, Any],
    tasks: set[str],
    told: Mapping[str, Any],
    demands: Mapping[str, Any],
) -> list[str]:
    """Return what is wrong with an entry in the code on these hosts."""
    what = f"beat_schedule of release {identity}, in its code: entry {name}"
    off = f"disable it with celery_beat_schedule: {{{name}: {{enabled: false}}}}"
    task = str(entry["task"])
    queue = queue_of(entry, told, demands)
    if queue in (demands.get("external") or ()):
        return []
    if lacks(tasks, task):
        last = task.rpartition(".")[2]
        near = sorted(other for other in tasks if other.rpartition(".")[2] == last)
        hint = (
            f"did you mean {', '.join(near)}?" if near else "is its module in include or imports?"
        )
        return [
            f"{what} sends {task}, which the release does not register: {hint} Fix it there, or {off}."
        ]
    queues = demands.get("queues")
    if queues is None or queue is None or queue in queues:
        return []
    return [
        (
            f"{what} sends {task} to the queue {queue}, which no worker of the inventory consumes (consumed are "
            f"{', '.join(sorted(queues)) or 'none'}). Add it to a worker's queues, route the task elsewhere by "
            f"celery_app_task_routes, or {off}."
        )
    ]


def unconsumed(identity: str, told: Mapping[str, Any], demands: Mapping[str, Any]) -> list[str]:
    """Return a remark for each queue without a worker that tasks go to if a call names no other queue."""
    if demands.get("queues") is None:
        return []
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
            f"call names no other queue: {_listed(tasks)}. Add it to a worker's queues, or send the tasks elsewhere: "
            "by celery_app_task_routes or, if the code gives them this queue, in the code."
        )
        for queue, tasks in sorted(lost.items())
    ]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
