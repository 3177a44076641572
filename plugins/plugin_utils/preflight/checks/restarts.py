"""Restarts: how careful they are, and whom they concern."""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.workers import OVERLAPPING
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks.values import (
    suggestion,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Model,
    Problem,
    as_strings,
    dotted,
    each_worker,
)


def check_restarts(model: Model) -> Iterator[Problem]:
    """Names of workers that are there."""
    known = tuple(dict.fromkeys(name for name, _, _ in each_worker(model)))
    for value, hosts in model.distinct("celery_restart_only", model.members("celery_workers")):
        for name in names(value):
            if name not in known:
                yield Problem(
                    "celery_restart_only",
                    "names a worker that celery_worker_instances does not have",
                    suggestion(name, known) or f"choose from {', '.join(known) or '(none)'}",
                    value=model.show(("celery_restart_only",), name),
                    hosts=hosts,
                )


def names(value: object) -> list[str]:
    """Names of workers; `-e` gives them as one text with commas."""
    found = value.split(",") if isinstance(value, str) else as_strings(value)
    return [name.strip() for name in found if name.strip()]


def check_overlap(model: Model) -> Iterator[Problem]:
    """A second instance is for pools that hand back what they have not begun, and hear of it at any time."""
    for name, options, hosts in each_worker(model):
        pool = options.get("pool") or "prefork"
        if options.get("overlap") is True and pool not in OVERLAPPING:
            path = ("celery_worker_instances", name, "overlap")
            yield Problem(
                dotted(path),
                f"is true with the pool {pool}: a stopping worker hands back at once what it has not begun only with "
                f"{', '.join(OVERLAPPING)}, so a second instance would wait for tasks that the first still has",
                "remove it, or use prefork",
                value="true",
                hosts=hosts,
            )
