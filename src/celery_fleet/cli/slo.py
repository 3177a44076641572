"""Compare what workers have counted in the last hour with their SLOs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from celery_fleet.cli.exporter.table import BOUNDS
from celery_fleet.common.counters import SECOND
from celery_fleet.common.text import count

#: Fewer tasks than this say nothing. Alerts have the same bound.
LEAST = 10


@dataclass(frozen=True)
class Kept:
    """How a worker has kept one of its SLOs, on all its hosts.

    Attributes:
        kind: `wait` or `failures`.
        words: The SLO, such as `99 % start within 30s`.
        tasks: The tasks that count.
        wrong: Those of them that started too late, or failed.
        minutes: The minutes that this covers; fewer than 60 if a worker has just started.
    """

    worker: str
    kind: str
    words: str
    tasks: int
    wrong: int
    minutes: int
    budget: float

    @property
    def well(self) -> bool:
        """Return whether the SLO was kept, or too few tasks count."""
        return self.tasks < LEAST or self.wrong <= self.budget * self.tasks

    @property
    def text(self) -> str:
        """Return what happened, for people."""
        share = f" ({100 * self.wrong / self.tasks:.2g} %)" if self.tasks else ""
        what = "started later" if self.kind == "wait" else "failed"
        return f"{self.wrong} of {count(self.tasks, 'task')} {what}{share}, in {self.minutes} min"

    def as_dict(self) -> dict[str, Any]:
        """Return its form in JSON."""
        found = {"worker": self.worker, "slo": self.words, "tasks": self.tasks, "wrong": self.wrong}
        return {**found, "minutes": self.minutes, "ok": self.well}


def kept(
    slos: Mapping[str, Iterable[Mapping[str, Any]]], workers: Mapping[str, Mapping[str, Any]]
) -> Iterator[Kept]:
    """Yield how each SLO was kept.

    Args:
        slos: `Application.slos`.
        workers: The workers' answers, by node, each with `last_hour` as `worker.task_counts.LastHour` says.
    """
    for worker, objectives in slos.items():
        hours = [
            hour
            for node, one in workers.items()
            # A worker's second instance, which serves while it restarts, counts for the worker.
            if node.partition("@")[0].removesuffix(SECOND) == worker
            and (hour := one.get("last_hour"))
        ]
        if not hours:
            continue
        minutes = max(int(hour["seconds"]) for hour in hours) // 60
        for one in objectives:
            if one["kind"] == "wait":
                tasks = sum(sum(hour["waits"]) for hour in hours)
                good = BOUNDS.index(float(one["seconds"])) + 1
                wrong = tasks - sum(sum(hour["waits"][:good]) for hour in hours)
            else:
                tasks = sum(hour["ended"] for hour in hours)
                wrong = sum(hour["failed"] for hour in hours)
            yield Kept(
                worker, one["kind"], one["words"], tasks, wrong, minutes, float(one["budget"])
            )
