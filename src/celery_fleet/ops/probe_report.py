"""The probe's findings: the answer of each node, and everything as one JSON object without secrets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from celery_fleet.common.redact import redact_all
from celery_fleet.ops.probe_request import Node


@dataclass
class NodeReport:
    """The findings about one node."""

    state: str = "unknown"
    seconds: float | None = None
    answer: dict[str, Any] | None = None
    queues: list[str] | None = None
    running: int | None = None
    slots: int | None = None
    errors: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the report's public form."""
        return {"ok": not self.errors and self.state in ("answered", "busy"), **vars(self)}


@dataclass
class ProbeReport:
    """All findings; one thread fills it in, another prints it at the deadline."""

    nodes: dict[str, NodeReport] = field(default_factory=dict)
    schedule: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    #: Replies to commands to all workers, by the command's key in the report.
    answers: dict[str, Any] = field(default_factory=dict)
    done: bool = False

    def as_dict(self, seconds: float, secrets: Iterable[str]) -> dict[str, Any]:
        """Return the report's public form, without secrets."""
        nodes = {name: node.as_dict() for name, node in list(self.nodes.items())}
        errors = list(self.errors)
        for name, node in nodes.items():
            errors += [f"{name}: {error}" for error in node["errors"]]
        schedule = dict(self.schedule)
        for name, entry in schedule.items():
            errors += [f"schedule {name}: {error}" for error in entry["errors"]]
        ok = self.done and not errors and all(node["ok"] for node in nodes.values())
        result = {
            "ok": ok,
            "seconds": round(seconds, 3),
            "errors": errors,
            "nodes": nodes,
            "schedule": schedule,
            **self.answers,
        }
        return dict(redact_all(result, list(secrets)))


@dataclass(frozen=True)
class NodeLoad:
    """How many tasks a node without an answer runs; None if it did not say."""

    running: int | None
    slots: int | None
    pid: int | None
    #: `paused` or `draining` if it takes no tasks; see :class:`celery_fleet.worker.drainer.Mode`.
    halted: str | None = None

    @classmethod
    def of(cls, canary: str, active: Any, stats: Any) -> NodeLoad:
        """Create it from a node's replies, which list only tasks that this very process started."""
        running = [
            task for task in active or () if task.get("worker_pid") and task.get("id") != canary
        ]
        pool = (stats or {}).get("pool") or {}
        mode = ((stats or {}).get("fleet") or {}).get("state")
        return cls(
            running=None if active is None else len(running),
            slots=pool.get("max-concurrency") if isinstance(pool, Mapping) else None,
            pid=(stats or {}).get("pid"),
            halted=mode if mode in ("paused", "draining") else None,
        )

    @property
    def full(self) -> bool:
        """Return whether no slot is free for the canary."""
        return bool(self.slots) and (self.running or 0) >= (self.slots or 0)


def unexpected(node: Node, answer: Mapping[str, Any]) -> list[str]:
    """Return a line for each part of an answer that differs from what is expected of the worker."""
    errors = []
    pid = answer.get("pid")
    if node.pid is not None and pid is not None and pid != node.pid:
        errors.append(
            f"process {pid} answered, not {node.pid}: two workers have this name, or it was"
            " restarted in between"
        )
    return errors
