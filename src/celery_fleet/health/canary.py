"""Check that each worker of the fleet takes and returns a task, and measure how long that takes.

The release's Python sends the test tasks, as the application's user. See :mod:`celery_fleet.ops.probe`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery_fleet.common import client_certificate
from celery_fleet.health.in_release import run_module
from celery_fleet.health.result import WARNING, Finding
from celery_fleet.health.setup import CheckError, Setup, deployed
from celery_fleet.health.text import combined

#: Seconds for test tasks and questions together.
TIMEOUT = 30.0

#: States of a worker that is not well, with what to say of it.
_LOST = {"no answer": "did not return its test task", "failed": "did not run its test task"}


def canary(
    setup: Setup, send: Callable[[Setup, Sequence[str]], Mapping[str, Any]] | None = None
) -> Finding:
    """Check that each worker returns a test task. Its value has `state` and `seconds` of each node.

    A worker whose processes all run tasks is well, and so is one that was told to take no tasks. A solo pool gives no
    answer while it runs a task, so it is not judged then. Whether the workers' units are up is another check.
    """
    there = deployed(setup).get("workers", setup.workers)
    nodes = [node for node in setup.workers if node in there]
    value: dict[str, dict[str, Any]] = {}
    parts, answered = [], []
    for node, one in sorted((send or _send)(setup, nodes).items()):
        state, seconds = str(one["state"]), one["seconds"]
        if state == "no answer" and setup.workers[node].pool == "solo":
            state = "busy"
        value[node] = {"state": state, "seconds": seconds}
        if state in _LOST:
            parts.append((WARNING, f"{node} {_LOST[state]}"))
        elif seconds is not None:
            answered.append(seconds)
            text = f"{node} took {seconds:.1f} s"
            parts.append((setup.state_of("canary_seconds", seconds), text))
    well = f"{len(answered)} of {len(value)} returned"
    if answered:
        well += f", the slowest after {max(answered):.2f} s"
    return combined(parts, well, value)


def _send(setup: Setup, nodes: Sequence[str]) -> Mapping[str, Any]:
    """Send the test tasks; return the report of each node.

    Raises:
        CheckError: Nothing could be sent.
    """
    request = {
        "settings": client_certificate.carried(setup.credentials()),
        "nodes": {node: {} for node in nodes},
        "timeout": TIMEOUT,
    }
    report = run_module(setup, "celery_fleet.ops.probe", request, TIMEOUT + 8)
    found: Mapping[str, Any] = report.get("nodes") or {}
    if not found or any(one["state"] == "unknown" for one in found.values()):
        errors = report.get("errors") or ["the workers gave no answers"]
        raise CheckError(str(errors[0]))
    return found
