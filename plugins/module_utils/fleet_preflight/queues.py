"""Where tasks go: routes and scheduled entries against what workers consume."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from .model import UNKNOWN, Model, Problem, as_mapping, as_text, dotted
from .names import queue_fits
from .values import kind_of, no_mapping, suggestion, unknown_keys
from .workers import consumed

# What Celery takes from a route to the message (`celery.app.amqp`, send_task_message, read at 5.7.0). Anything else
# would travel as one of its properties, to no effect.
_ROUTE: Final = (
    *(
        "queue",
        "exchange",
        "exchange_type",
        "routing_key",
        "priority",
        "headers",
        "serializer",
        "compression",
    ),
    *("delivery_mode", "retry", "retry_policy"),
)


def queue_for(
    task: str, entry: Mapping[str, object], routes: Mapping[str, object], default: str
) -> str:
    """The queue that a scheduled task goes to.

    As Celery decides it (`celery.app.routes`, read at 5.7.0): the entry's own queue, a route of exactly
    this name, the first pattern with a `*` that fits, the default queue.
    """
    own = as_text(entry.get("queue")) or as_text(as_mapping(entry.get("options")).get("queue"))
    if own:
        return own
    exact = routes.get(task) if "*" not in task else None
    if exact is not None:
        return as_text(as_mapping(exact).get("queue")) or default
    for pattern, route in routes.items():
        if "*" in pattern and re.match(fnmatch.translate(pattern), task):
            return as_text(as_mapping(route).get("queue")) or default
    return default


def check_keys(model: Model) -> Iterator[Problem]:
    """Each route is a mapping of what Celery reads there, from a pattern that can fit a task's name."""
    for value, hosts in model.distinct("celery_app_task_routes"):
        for pattern, route in as_mapping(value).items():
            for problem in _route(model, pattern, route):
                yield replace(problem, hosts=hosts)


def _route(model: Model, pattern: str, route: object) -> Iterator[Problem]:
    path = ("celery_app_task_routes", pattern)
    if route is UNKNOWN:
        return
    if not pattern or any(c.isspace() or not c.isprintable() for c in pattern):
        yield Problem(
            dotted(path),
            "fits no task's name",
            "write a task's name as Celery registers it, or a pattern of names as in app.tasks.*",
        )
    if not isinstance(route, Mapping):
        yield no_mapping(model, path, route, "write {queue: …}")
        return
    yield from unknown_keys(path, route, _ROUTE)
    named = route.get("queue", UNKNOWN)
    if named is not UNKNOWN and not isinstance(named, str):
        yield Problem(
            dotted((*path, "queue")),
            f"is {kind_of(named)} where the name of a queue is wanted",
            "write the queue's name, or remove it for the default queue",
            value=model.show((*path, "queue"), named),
        )


def check_routes(model: Model) -> Iterator[Problem]:
    """Each queue that a route names is consumed."""
    known = consumed(model)
    if _workers_unknown(model):
        return
    for value, hosts in model.distinct("celery_app_task_routes"):
        for pattern, route in as_mapping(value).items():
            path = ("celery_app_task_routes", pattern)
            queue = as_text(as_mapping(route).get("queue"))
            if queue and queue_fits(queue) and queue not in known:
                yield _unconsumed(model, (*path, "queue"), queue, hosts, known)


def check_scheduled(model: Model) -> Iterator[Problem]:
    """Each scheduled entry goes to a queue that is consumed."""
    known = consumed(model)
    if _workers_unknown(model):
        return
    for host in _schedulers(model):
        routes = as_mapping(model.value(host, "celery_app_task_routes"))
        settings = as_mapping(model.value(host, "celery_app_settings"))
        default = as_text(settings.get("task_default_queue")) or "celery"
        schedule = as_mapping(model.value(host, "celery_beat_schedule"))
        for name, body in schedule.items():
            entry = as_mapping(body)
            task = as_text(entry.get("task"))
            if task is None or entry.get("enabled") is False or entry.get("queue") is UNKNOWN:
                continue
            queue = queue_for(task, entry, routes, default)
            if not queue_fits(queue) or queue in known:
                continue
            path = ("celery_beat_schedule", name, "queue")
            if entry.get("queue") == queue:
                yield _unconsumed(model, path, queue, (host,), known)
            elif queue == default:
                yield Problem(
                    dotted(path),
                    f"is not set and no route fits {task}, so it goes to the default queue {queue}, "
                    "which no enabled worker consumes",
                    f"give the entry a queue that is consumed: {_listing(known)}",
                    hosts=(host,),
                )
            else:
                yield _unconsumed(model, path, queue, (host,), known)


def _schedulers(model: Model) -> tuple[str, ...]:
    """Beat's hosts; without any, all that have a schedule (the missing group is reported elsewhere)."""
    return model.members("celery_beat") or tuple(model.hosts)


def _workers_unknown(model: Model) -> bool:
    """Whether what is consumed can't be told, because nothing is, or because it could not be rendered."""
    names = ("celery_worker_instances", "celery_worker_enabled", "celery_worker_defaults")
    failed = any(failure.path[0] in names for failure in model.failures)
    return failed or not any(
        as_mapping(model.value(host, "celery_worker_instances"))
        for host in model.members("celery_workers")
    )


def _unconsumed(
    model: Model,
    path: tuple[object, ...],
    queue: str,
    hosts: tuple[str, ...],
    known: Mapping[str, object],
) -> Problem:
    return Problem(
        dotted(path),
        "is a queue that no enabled worker consumes",
        suggestion(queue, tuple(known))
        or f"consumed are {_listing(known)}; or add it to a worker's queues",
        value=model.show(path, queue),
        hosts=hosts,
    )


def _listing(known: Mapping[str, object]) -> str:
    return ", ".join(sorted(known)) or "(none)"
