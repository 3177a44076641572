"""Checks options of restarts: which workers they concern, and whether a second instance may overlap."""

from __future__ import annotations

from collections.abc import Iterator

from ...desired.workers import OVERLAPPING, restart_names
from ..model.inventory import Model, Problem, dotted, each_worker
from .values import suggestion


def check_restarts(model: Model) -> Iterator[Problem]:
    """Refuse names of workers that do not exist."""
    known = tuple(dict.fromkeys(name for name, _, _ in each_worker(model)))
    for value, hosts in model.distinct("celery_restart_workers", model.members("celery_workers")):
        for name in restart_names(value):
            if name not in known:
                yield Problem(
                    "celery_restart_workers",
                    "names a worker that celery_worker_instances does not have",
                    suggestion(name, known) or f"choose from {', '.join(known) or '(none)'}",
                    value=model.show(("celery_restart_workers",), name),
                    hosts=hosts,
                )


def check_overlap(model: Model) -> Iterator[Problem]:
    """Only allow a second instance for pools that can return unstarted tasks at any time."""
    for name, options, hosts in each_worker(model):
        pool = options.get("pool") or "prefork"
        if options.get("overlap") is True and pool not in OVERLAPPING:
            path = ("celery_worker_instances", name, "overlap")
            yield Problem(
                dotted(path),
                f"is true with the pool {pool}. A stopping worker returns its unstarted tasks at once only with "
                f"{', '.join(OVERLAPPING)}; here a second instance would wait for tasks that the first one still has",
                "remove it, or use prefork",
                value="true",
                hosts=hosts,
            )
