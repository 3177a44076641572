"""Checks that routes and scheduled entries send tasks to queues that workers, or others, consume."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, cast

from ansible_collections.celery_fleet.core.plugins.module_utils.routing import (
    DEFAULT_QUEUE,
    Routes,
    queue_of,
)

from ..model.inventory import UNKNOWN, Model, Problem, as_list, as_mapping, as_text, dotted
from ..model.report import with_hosts
from .names import queue_fits
from .values import kind_of, not_a_mapping, suggestion, unknown_keys
from .workers import EXTERNAL, consumed, served

# The keys that Celery copies from a route to the message (`celery.app.amqp`, send_task_message, read at 5.7.0). Other
# keys would become properties of the message without effect.
_ROUTE: Final = tuple(
    """
    queue exchange exchange_type routing_key priority headers serializer compression delivery_mode retry
    retry_policy
    """.split()  # noqa: SIM905 - as a list it would be a page of quotes
)


def check_exchanges(model: Model) -> Iterator[Problem]:
    """Refuse exchanges through which a task would reach no queue, and queues that fan out or expire."""
    for value, hosts in model.distinct("celery_app_task_routes"):
        for pattern, route in as_mapping(value).items():
            path: tuple[object, ...] = ("celery_app_task_routes", pattern)
            yield from with_hosts(hosts, _by_exchange(model, path, as_mapping(route)))
    for value, hosts in model.distinct("celery_beat_schedule"):
        for name, entry in as_mapping(value).items():
            body = as_mapping(entry)
            options = {**as_mapping(body.get("options"))}
            if "queue" in body:
                options["queue"] = body["queue"]
            path = ("celery_beat_schedule", name, "options")
            yield from with_hosts(hosts, _by_exchange(model, path, options))
    for value, hosts in model.distinct("celery_app_settings"):
        yield from with_hosts(hosts, _queues(model, as_mapping(value).get("task_queues")))


def _by_exchange(
    model: Model, path: tuple[object, ...], options: Mapping[str, object]
) -> Iterator[Problem]:
    yield from _fanout(model, path, options)
    if "exchange" in options and "queue" not in options:
        yield Problem(
            dotted((*path, "exchange")),
            "comes without a queue. With Redis, Celery drops such a task without an error if the exchange is of the "
            "type topic, or if no worker has bound a queue to it yet",
            "add the queue that is bound to it; exchange and routing_key then still decide which queue gets the task",
            value=model.show((*path, "exchange"), options["exchange"]),
        )


def _queues(model: Model, queues: object) -> Iterator[Problem]:
    path = ("celery_app_settings", "task_queues")
    if queues not in (None, UNKNOWN) and not isinstance(queues, Mapping):
        yield not_a_mapping(model, path, queues, "write {mail: {exchange: …, routing_key: …}}")
    for name, queue in as_mapping(queues).items():
        yield from _declared(model, (*path, name), as_mapping(queue))


def _declared(
    model: Model, path: tuple[object, ...], queue: Mapping[str, object]
) -> Iterator[Problem]:
    yield from _fanout(model, path, queue)
    arguments = "queue_arguments"
    for where, options in ((path, queue), ((*path, arguments), as_mapping(queue.get(arguments)))):
        for key in ("expires", "x-expires"):
            if options.get(key) is not None:
                yield Problem(
                    dotted((*where, key)),
                    "makes Redis delete the queue with its tasks if it is not used for that long. Senders have no "
                    "right to do that, so sending fails",
                    "remove it; give the tasks themselves an expires",
                    value=model.show((*where, key), options[key]),
                )


def _fanout(
    model: Model, path: tuple[object, ...], options: Mapping[str, object]
) -> Iterator[Problem]:
    if options.get("exchange_type") == "fanout":
        yield Problem(
            dotted((*path, "exchange_type")),
            "asks for a broadcast to all workers, which the rights of Redis's users and the delivery of tasks don't "
            "allow",
            "write direct or topic; send a task to each worker's queue instead",
            value="fanout",
        )


def check_keys(model: Model) -> Iterator[Problem]:
    """Check that each route is a mapping of keys that Celery reads, and its pattern can match a task's name."""
    for value, hosts in model.distinct("celery_app_task_routes"):
        for pattern, route in as_mapping(value).items():
            yield from with_hosts(hosts, _route(model, pattern, route))


def _route(model: Model, pattern: str, route: object) -> Iterator[Problem]:
    path = ("celery_app_task_routes", pattern)
    if route is UNKNOWN:
        return
    if not pattern or any(c.isspace() or not c.isprintable() for c in pattern):
        yield Problem(
            dotted(path),
            "can't match any task's name",
            "write a task's name as Celery registers it, or a pattern of names as in app.tasks.*",
        )
    if not isinstance(route, Mapping):
        yield not_a_mapping(model, path, route, "write {queue: …}")
        return
    yield from unknown_keys(path, route, _ROUTE)
    named = route.get("queue", UNKNOWN)
    if named is not UNKNOWN and not isinstance(named, str):
        yield Problem(
            dotted((*path, "queue")),
            f"is {kind_of(named)}, but must be the name of a queue",
            "write the queue's name, or remove it for the default queue",
            value=model.show((*path, "queue"), named),
        )


def check_default(model: Model) -> Iterator[Problem]:
    """Check that a default queue in the inventory is consumed."""
    known = served(model)
    if _workers_unknown(model):
        return
    for value, hosts in model.distinct("celery_app_settings"):
        queue = as_text(as_mapping(value).get("task_default_queue"))
        if queue and queue_fits(queue) and queue not in known:
            path = ("celery_app_settings", "task_default_queue")
            yield _unconsumed(model, path, queue, hosts, known)


def check_external(model: Model) -> Iterator[Problem]:
    """Refuse an external queue that a worker of the fleet consumes."""
    ours = consumed(model)
    for value, hosts in model.distinct(EXTERNAL):
        for index, queue in enumerate(as_list(value)):
            if isinstance(queue, (int, float)):
                yield Problem(
                    dotted((EXTERNAL, index)),
                    "is a number, not the name of a queue",
                    "write it in quotes",
                    value=model.show((EXTERNAL,), queue),
                    hosts=hosts,
                )
            elif isinstance(queue, str) and queue in ours:
                yield Problem(
                    dotted((EXTERNAL, index)),
                    f"is a queue of {ours[queue][0]}: a task would go to that worker or to the consumer outside of the "
                    "fleet, whichever is first",
                    "remove it here, or from the worker's queues",
                    value=model.show((EXTERNAL,), queue),
                    hosts=hosts,
                )


def check_routes(model: Model) -> Iterator[Problem]:
    """Check that each route's queue is consumed."""
    known = served(model)
    if _workers_unknown(model):
        return
    for value, hosts in model.distinct("celery_app_task_routes"):
        for pattern, route in as_mapping(value).items():
            path = ("celery_app_task_routes", pattern)
            queue = as_text(as_mapping(route).get("queue"))
            if queue and queue_fits(queue) and queue not in known:
                yield _unconsumed(model, (*path, "queue"), queue, hosts, known)


def check_scheduled(model: Model) -> Iterator[Problem]:
    """Check that each scheduled entry goes to a queue that is consumed."""
    known = served(model)
    if _workers_unknown(model):
        return
    for host in _schedulers(model):
        routes = as_mapping(model.value(host, "celery_app_task_routes"))
        settings = as_mapping(model.value(host, "celery_app_settings"))
        default = as_text(settings.get("task_default_queue")) or DEFAULT_QUEUE
        schedule = as_mapping(model.value(host, "celery_beat_schedule"))
        for name, body in schedule.items():
            entry = as_mapping(body)
            task = as_text(entry.get("task"))
            if task is None or entry.get("enabled") is False or entry.get("queue") is UNKNOWN:
                continue
            known_of = {**entry, "options": as_mapping(entry.get("options"))}
            # `queue_of` returns a value that could not be rendered as it is.
            queue = as_text(queue_of(known_of, cast("Routes", routes), default))
            if queue is None or not queue_fits(queue) or queue in known:
                continue
            path = ("celery_beat_schedule", name, "queue")
            if entry.get("queue") == queue:
                yield _unconsumed(model, path, queue, (host,), known)
            elif queue == default:
                yield Problem(
                    dotted(path),
                    f"is not set and no route matches {task}, so it goes to the default queue {queue}, "
                    "which no enabled worker consumes",
                    f"give the entry a queue that is consumed: {_listing(known)}",
                    hosts=(host,),
                )
            else:
                yield _unconsumed(model, path, queue, (host,), known)


def _schedulers(model: Model) -> tuple[str, ...]:
    """Return beat's hosts, or all hosts if there are none (another check reports the missing group)."""
    return model.members("celery_beat") or tuple(model.hosts)


def _workers_unknown(model: Model) -> bool:
    """Return whether the consumed queues are unknown: there are no workers, or they could not be rendered."""
    names = ("celery_worker_instances", "celery_worker_host_instances", "celery_worker_defaults")
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
        or f"write one of {_listing(known)}, add it to a worker's queues, or, if others consume it, to {EXTERNAL}",
        value=model.show(path, queue),
        hosts=hosts,
    )


def _listing(known: Mapping[str, object]) -> str:
    return ", ".join(sorted(known)) or "(none)"
