"""Restarts: how careful they are, whom they concern, and what is promised to tasks meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from .model import (
    Model,
    Problem,
    Severity,
    as_mapping,
    as_number,
    as_strings,
    dotted,
    each_worker,
    number_text,
)
from .values import suggestion

_RANGES: Final[Mapping[str, tuple[float, float | None, str]]] = {
    "celery_restart_min_capacity": (1, 100, "write a percentage from 1 to 100, without the sign"),
    "celery_restart_batch": (1, None, "write 1 or more; 1 restarts one worker after the other"),
}

# Pools whose stopping worker hands back at once what it has not begun (fleet_control.roll).
_OVERLAPPING: Final = ("prefork", "threads", "gevent")

# What the promise rests on, with the values that keep it.
_AT_LEAST_ONCE: Final[Mapping[str, object]] = {"task_acks_late": True}
_AT_MOST_ONCE: Final[Mapping[str, object]] = {
    "task_acks_late": False,
    "task_reject_on_worker_lost": False,
    "task_retry_on_worker_lost": False,
}


def check_restarts(model: Model) -> Iterator[Problem]:
    """Numbers in their range, and names of workers that are there."""
    for name, (lowest, highest, remedy) in _RANGES.items():
        for value, hosts in model.distinct(name, model.members("celery_workers")):
            number = as_number(value)
            if number is None:
                continue
            if number < lowest or (highest is not None and number > highest):
                what = f"below {number_text(lowest)}" if number < lowest else f"above {highest}"
                yield Problem(
                    name, f"is {what}", remedy, value=model.show((name,), value), hosts=hosts
                )
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
        if options.get("overlap") is True and pool not in _OVERLAPPING:
            path = ("celery_worker_instances", name, "overlap")
            yield Problem(
                dotted(path),
                f"is true with the pool {pool}: a stopping worker hands back at once what it has not begun only with "
                f"{', '.join(_OVERLAPPING)}, so a second instance would wait for tasks that the first still has",
                "remove it, or use prefork",
                value="true",
                hosts=hosts,
            )


def check_delivery(model: Model) -> Iterator[Problem]:
    """A promise on delivery, and what the inventory says against it."""
    for value, hosts in model.distinct("celery_app_delivery"):
        wanted = {"at_least_once": _AT_LEAST_ONCE, "at_most_once": _AT_MOST_ONCE}.get(str(value))
        if wanted is None:
            continue
        for settings, there in model.distinct("celery_app_settings", hosts):
            for name, kept in wanted.items():
                given = as_mapping(settings).get(name, kept)
                if isinstance(given, bool) and given is not kept:
                    yield Problem(
                        dotted(("celery_app_settings", name)),
                        f"is {str(given).lower()} against celery_app_delivery ({value}), and wins",
                        "remove it, or write celery_app_delivery: inherit and all of Celery's settings yourself",
                        value=str(given).lower(),
                        hosts=there,
                        severity=Severity.WARNING,
                    )
        if value != "at_least_once":
            continue
        for name, options, workers in each_worker(model):
            ahead = as_number(options.get("prefetch_multiplier"))
            if ahead is not None and ahead != 1:
                path = ("celery_worker_instances", name, "prefetch_multiplier")
                yield Problem(
                    dotted(path),
                    "wins over the one of celery_app_delivery: at_least_once. Tasks that wait in a worker count "
                    "against celery_app_visibility_timeout, and run a second time after it",
                    "remove it to have 1",
                    value=model.show(path, options["prefetch_multiplier"]),
                    hosts=workers,
                    severity=Severity.WARNING,
                )
