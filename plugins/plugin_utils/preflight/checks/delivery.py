"""Checks each worker's promise about delivery, and the settings that contradict it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ...desired import delivery as desired
from ...desired.option import as_number, parsed
from ...desired.worker_options import DELIVERY, WORKER
from ...desired.workers import drain_timeout
from ..model.inventory import Model, Problem, Severity, as_mapping, dotted, each_worker, number_text
from .workers import each_enabled

# The settings that a promise depends on, with the values that keep it. A task that is put back instead of retried is
# not lost either, and each worker may choose how many tasks it prefetches.
_PROMISES: Final[Mapping[str, Mapping[str, object]]] = {
    "at_least_once": {
        "task_acks_late": desired.SETTINGS["at_least_once"]["task_acks_late"],
        "task_retry_on_worker_lost": desired.SETTINGS["at_least_once"]["task_retry_on_worker_lost"],
        "worker_cancel_long_running_tasks_on_connection_loss": False,
    },
    "at_most_once": desired.SETTINGS["at_most_once"],
}
_SETTINGS: Final = "celery_app_settings"
_TRANSPORT: Final = (_SETTINGS, "broker_transport_options")
_STOCK: Final = "write celery_worker_fetch: stock"
_DEAD_LETTERS: Final = "dead_letters"
_FAILED: Final = "failed_keep"


def parts(model: Model, host: str, options: Mapping[str, object]) -> dict[str, Any]:
    """Return the parts of the delivery that a worker has on a host, as `desired.parts` does for well-formed values."""
    given = parsed(DELIVERY, {one.name: model.value(host, one.name) for one in DELIVERY})
    knobs = {knob: given[name] for knob, name in desired.VARIABLES.items() if name in given}
    promise = model.value(host, "celery_app_delivery")
    return desired.parts(
        str(promise) if promise in tuple(desired.SETTINGS) else "inherit",
        knobs,
        parsed(WORKER, options),
    )


def promise_of(model: Model, host: str, options: Mapping[str, object]) -> str:
    """Return the promise for the tasks of a worker on a host."""
    return str(parts(model, host, options)["profile"])


def is_atomic(model: Model, host: str, options: Mapping[str, object]) -> bool:
    """Return whether a worker on a host fetches tasks atomically."""
    return bool(parts(model, host, options)["fetch"] == "atomic")


def has_part(model: Model, host: str, options: Mapping[str, object], part: str) -> bool:
    """Return whether a part of the delivery is enabled in a worker on a host."""
    return bool(parts(model, host, options)[part])


def renews(model: Model, host: str, options: Mapping[str, object]) -> bool:
    """Return whether a worker renews its tasks' leases, so the visibility timeout may be shorter than its tasks."""
    return has_part(model, host, options, "lease")


def check_promise(model: Model) -> Iterator[Problem]:
    """Refuse settings that would override a promise and break it."""
    for value, hosts in model.distinct("celery_app_delivery"):
        yield from _against(model, str(value), f"celery_app_delivery ({value})", hosts)
    for name, options, hosts in each_worker(model):
        own = options.get("delivery")
        if own:
            path = dotted(("celery_worker_instances", name, "delivery"))
            there = tuple(h for h in hosts if model.value(h, "celery_app_delivery") != own)
            yield from _against(model, str(own), f"{path} ({own})", there)
        promised = tuple(h for h in hosts if promise_of(model, h, options) == "at_least_once")
        yield from _forgetting(model, name, options, promised)
        ahead = as_number(options.get("prefetch_multiplier"))
        wide = tuple(host for host in promised if not renews(model, host, options))
        if wide and ahead is not None and ahead != 1:
            of = ("celery_worker_instances", name, "prefetch_multiplier")
            yield Problem(
                dotted(of),
                "overrides at_least_once's value. Time that a task waits in a worker without the lease counts "
                "against celery_app_visibility_timeout; after that it runs a second time",
                "remove it to have 1",
                value=model.show(of, options["prefetch_multiplier"]),
                hosts=wide,
                severity=Severity.WARNING,
            )


def _against(model: Model, promise: str, what: str, hosts: tuple[str, ...]) -> Iterator[Problem]:
    for given, there in model.distinct(_SETTINGS, hosts):
        settings = as_mapping(given)
        for path, options in _said_of_all_tasks(settings):
            for name, kept in _PROMISES.get(promise, {}).items():
                key = name if path == (_SETTINGS,) else name.removeprefix("task_")
                value = options.get(key, kept)
                if not isinstance(value, bool) or value is kept:
                    continue
                if key.endswith("retry_on_worker_lost") and promise == "at_least_once":
                    # Put back into its queue instead, it is not lost either.
                    instead = key.replace("retry", "reject")
                    if options.get(instead, settings.get(f"task_{instead}")) is True:
                        continue
                yield Problem(
                    dotted((*path, key)),
                    f"is {str(value).lower()}, which contradicts {what} and would win",
                    "remove it, or write inherit instead of the promise and set all of Celery's settings yourself",
                    value=str(value).lower(),
                    hosts=there,
                )


def _said_of_all_tasks(
    settings: Mapping[str, object],
) -> Iterator[tuple[tuple[object, ...], Mapping[str, object]]]:
    """Yield the settings and the annotations of all tasks, each with its path. Single tasks may differ."""
    path: tuple[object, ...] = (_SETTINGS, "task_annotations")
    annotations = settings.get("task_annotations")
    yield (_SETTINGS,), settings
    yield (*path, "*"), as_mapping(as_mapping(annotations).get("*"))
    for number, one in enumerate(annotations if isinstance(annotations, list) else ()):
        yield (*path, number, "*"), as_mapping(as_mapping(one).get("*"))


def _forgetting(
    model: Model, name: str, options: Mapping[str, object], hosts: tuple[str, ...]
) -> Iterator[Problem]:
    """Yield settings with which a worker that promises at_least_once loses tasks when it fetches them or starts."""
    message = "makes the broker forget tasks when they are fetched, which contradicts at_least_once"
    remedy = "remove it, or write inherit instead of at_least_once"
    if options.get("purge") is True and hosts:
        yield Problem(
            dotted(("celery_worker_instances", name, "purge")),
            "deletes the tasks that wait in its queues at each start, which contradicts at_least_once",
            f"remove it, or write delivery: inherit for {name}",
            value="true",
            hosts=hosts,
        )
    for given, there in model.distinct(_SETTINGS, hosts):
        for path, value in _unacknowledged(as_mapping(given), name, options):
            yield Problem(dotted(path), message, remedy, value=str(value).lower(), hosts=there)


def _unacknowledged(
    settings: Mapping[str, object], name: str, options: Mapping[str, object]
) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Yield path and value of each setting with which the broker forgets a worker's tasks when they are fetched."""
    if as_mapping(settings.get(_TRANSPORT[1])).get("ack_emulation") is False:
        yield (*_TRANSPORT, "ack_emulation"), False
    # Without queues, a worker consumes the queue with its own name.
    consumed = options.get("queues") or [name]
    for queue, declared in as_mapping(settings.get("task_queues")).items():
        if as_mapping(declared).get("no_ack") is True and (
            isinstance(consumed, list) and queue in consumed
        ):
            yield (_SETTINGS, "task_queues", queue, "no_ack"), True


def check_prefix(model: Model) -> Iterator[Problem]:
    """Refuse a prefix for all keys: Redis's users may not use such keys."""
    for settings, hosts in model.distinct(_SETTINGS):
        for name in (_TRANSPORT[1], "result_backend_transport_options"):
            prefix = as_mapping(as_mapping(settings).get(name)).get("global_keyprefix")
            if prefix:
                path = (_SETTINGS, name, "global_keyprefix")
                yield Problem(
                    dotted(path),
                    "puts a prefix before Redis's keys, and its users have no right to such keys",
                    "remove it: an application of the fleet has its own Redis",
                    value=model.show(path, prefix),
                    hosts=hosts,
                )


def check_take(model: Model) -> Iterator[Problem]:
    """Refuse settings that rule out the atomic fetch.

    The worker would fetch as in stock Celery, with a visibility timeout that is meant for a lease.
    """
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for name, options, hosts in each_worker(model):
        for host in hosts:
            if not is_atomic(model, host, options):
                continue
            settings = as_mapping(model.value(host, _SETTINGS))
            for path, value in _unacknowledged(settings, name, options):
                forgets = "makes the broker forget tasks when they are fetched"
                message = f"{forgets}, but the worker {name} fetches them atomically"
                remedy = f"remove it, or write fetch: stock for {name}"
                if path[:2] == _TRANSPORT:
                    message = f"{forgets}, but the atomic fetch records them"
                    remedy = f"remove it, or {_STOCK}"
                key = (dotted(path), model.show(path, value), message, remedy)
                found.setdefault(key, []).append(host)
    for (variable, shown, message, remedy), there in found.items():
        yield Problem(variable, message, remedy, value=shown, hosts=tuple(dict.fromkeys(there)))


def check_parts(model: Model) -> Iterator[Problem]:
    """Refuse parts that are enabled explicitly, but that no worker has."""
    for knob in (*desired.ATOMIC_PARTS, _DEAD_LETTERS, _FAILED):
        variable = desired.VARIABLES[knob]
        part = _DEAD_LETTERS if knob == _FAILED else knob
        for value, hosts in model.distinct_given(variable):
            mine = [
                (host, options)
                for _, options, there in each_worker(model)
                for host in there
                if host in hosts
            ]
            enabled = (as_number(value) or 0) > 0 if knob == _FAILED else value is True
            if not enabled or not mine:
                continue
            if any(has_part(model, host, options, part) for host, options in mine):
                continue
            why, what = _missing(model, part, mine)
            yield Problem(
                variable,
                f"has no effect: {why}",
                f"remove it, or write {what}",
                value=model.show((variable,), value),
                hosts=tuple(dict.fromkeys(host for host, _ in mine)),
            )


def _missing(
    model: Model, part: str, workers: list[tuple[str, Mapping[str, object]]]
) -> tuple[str, str]:
    """Return why none of these workers, each with its host, has a part, and what to write to get it."""
    if part == _DEAD_LETTERS:
        if any(promise_of(model, *worker) == "at_least_once" for worker in workers):
            return "dead letters are off", f"{desired.VARIABLES[part]}: true"
        return "no worker promises at_least_once", "celery_app_delivery: at_least_once"
    if any(is_atomic(model, *worker) for worker in workers):
        return "gevent and eventlet have no event loop for it", "another pool"
    if any(_stock_is_asked(model, *worker) for worker in workers):
        return (
            "no worker fetches atomically",
            "celery_worker_fetch: auto, with celery_app_delivery: at_least_once",
        )
    return "no worker fetches atomically", "celery_app_delivery: at_least_once"


def _stock_is_asked(model: Model, host: str, options: Mapping[str, object]) -> bool:
    return (options.get("fetch") or model.value(host, "celery_worker_fetch")) == "stock"


def check_numbers(model: Model) -> Iterator[Problem]:
    """Compare the delays and counts for tasks that can't be run with each other."""
    workers = model.members("celery_workers")
    failed, keep = "celery_worker_max_failed_dead_letters", "celery_worker_max_dead_letters"
    for value, hosts in model.distinct(failed, workers):
        for kept, there in model.distinct(keep, hosts):
            number, most = as_number(value), as_number(kept)
            if number is None or most is None or 0 <= number <= most:
                continue
            yield Problem(
                failed,
                "is below 0" if number < 0 else f"is above {keep} ({number_text(most)})",
                "write 0 or more" if number < 0 else f"write {number_text(most)} or less",
                value=model.show((failed,), value),
                hosts=there,
            )
    delay, total = "celery_worker_unknown_task_retry_delay", "celery_worker_unknown_task_retention"
    for value, hosts in model.distinct(delay, workers):
        for longest, there in model.distinct(total, hosts):
            each, whole = as_number(value), as_number(longest)
            if each is not None and whole is not None and each > whole:
                yield Problem(
                    delay,
                    f"is above {total} ({number_text(whole)} s), so an unknown task would only be offered once",
                    f"write {number_text(whole)} or less",
                    value=model.show((delay,), value),
                    hosts=there,
                )


def check_rollout(model: Model) -> Iterator[Problem]:
    """Warn if a task that only the new release knows could become a dead letter during the rollout."""
    turns: list[float] = []
    asked: dict[str, None] = {}
    for host in model.members("celery_workers"):
        start = as_number(model.value(host, "celery_worker_start_timeout")) or 0.0
        for _, options in each_enabled(model, host):
            turns.append(drain_timeout(parsed(WORKER, options)) + start)
            if has_part(model, host, options, _DEAD_LETTERS):
                asked[host] = None
    if not asked:
        return
    batches = model.distinct("celery_restart_batch", tuple(asked))
    batch = min((as_number(value) or 1.0 for value, _ in batches), default=1.0)
    takes = math.ceil(max(max(turns), sum(turns) / max(batch, 1.0)))
    name = "celery_worker_unknown_task_retention"
    for value, hosts in model.distinct(name, tuple(asked)):
        number = as_number(value)
        if number is not None and 1 <= number < takes:
            yield Problem(
                name,
                f"is shorter than a rollout can take ({takes} s: drain_timeout and "
                "celery_worker_start_timeout of the workers, celery_restart_batch at a time). A task that only the "
                "new release knows could become a dead letter before the rollout ends",
                f"write {takes} or more",
                value=model.show((name,), value),
                hosts=hosts,
                severity=Severity.WARNING,
            )
