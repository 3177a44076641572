"""Records of made-up runs."""

from __future__ import annotations

from typing import Any

from scripts.restarts.record import LoadRecord


def send(task: str, **changed: Any) -> dict[str, Any]:
    what = {"task": task, "kind": "nap", "queue": "fast", "seconds": 1.0, "attempts": 1}
    return what | {"sent": 100.0, "ready": 100.0, "refused": False} | changed


def run(task: str, started: float, ended: float | None, **changed: Any) -> dict[str, Any]:
    what = {"task": task, "attempt": 0, "node": "fast@w1", "pid": 7, "started": started}
    return what | {"ended": ended, "retry_at": None, "message": "m"} | changed


def worker(
    node: str, event: str, at: float, processes: int = 6, queue: str = "fast"
) -> dict[str, Any]:
    return {"node": node, "event": event, "queues": [queue], "processes": processes, "at": at}


def mark(at: float, what: str, **changed: Any) -> dict[str, Any]:
    return {"at": at, "what": what, **changed}


def record(**rows: Any) -> LoadRecord:
    return LoadRecord.of({"sends": [], "runs": [], "workers": [], **rows})
