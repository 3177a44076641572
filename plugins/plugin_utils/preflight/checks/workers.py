"""Checks which host runs which workers, and the workers' limits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from ...desired.monitoring.objectives import seconds
from ...desired.option import as_number, parsed
from ...desired.worker_options import AUTOSCALE, WORKER
from ...desired.workers import consumed_queues, drain_timeout
from ..model.inventory import (
    UNKNOWN,
    Model,
    Problem,
    Severity,
    as_list,
    as_mapping,
    as_strings,
    dotted,
    each_worker,
    number_text,
)
from .units import LEAST_MEMORY, check_options, memory_bytes
from .values import suggestion

EXTERNAL: Final = "celery_app_external_queues"
METRICS: Final = "celery_app_metrics"
# Processes or threads of one worker: Celery can't handle more files, and each needs memory.
MOST_PROCESSES: Final = 1000
# 64 GiB, more than one process gets. A number of bytes, written by mistake, is above it.
_TOO_MANY_KIB: Final = 64 * 2**20
_GREENLETS: Final = ("gevent", "eventlet")
# Celery's own form of the option, `max,min`, in either order.
_CELERYS: Final = re.compile(r" *([0-9]{1,9}) *(?:, *([0-9]{1,9}) *)?")
_SHORTEST_WAIT, _LONGEST_WAIT = 1, 3600


def enabled(model: Model, host: str) -> tuple[str, ...]:
    """Return the names of the workers that a host runs: the enabled ones that exist, or all."""
    instances = as_mapping(model.value(host, "celery_worker_instances"))
    wanted = model.value(host, "celery_worker_host_instances")
    if wanted is UNKNOWN or wanted is None:
        return tuple(instances)
    return tuple(name for name in dict.fromkeys(as_strings(wanted)) if name in instances)


def each_enabled(model: Model, host: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield each worker that a host runs, with its options over the defaults of all."""
    defaults = as_mapping(model.value(host, "celery_worker_defaults"))
    instances = as_mapping(model.value(host, "celery_worker_instances"))
    for name in enabled(model, host):
        yield name, {**defaults, **as_mapping(instances[name])}


def consumed(model: Model) -> dict[str, list[str]]:
    """Return each queue that enabled workers consume, with these workers' node names."""
    found: dict[str, list[str]] = {}
    for host in model.members("celery_workers"):
        for name, options in each_enabled(model, host):
            for queue in consumed_queues(name, parsed(WORKER, options)):
                found.setdefault(queue, []).append(f"{name}@{host}")
    return found


def external(model: Model) -> tuple[str, ...]:
    """Return the queues that only processes outside of the fleet consume."""
    return tuple(queue for value, _ in model.distinct(EXTERNAL) for queue in as_strings(value))


def served(model: Model) -> dict[str, list[str]]:
    """Return each queue that has consumers, with the node names of our workers; external queues have none of them."""
    return {**{queue: [] for queue in external(model)}, **consumed(model)}


def check_enabled(model: Model) -> Iterator[Problem]:
    """Check that `celery_worker_host_instances` only names existing workers, and that each worker runs on a host."""
    taken: set[str] = set()
    known: dict[str, list[str]] = {}
    unknown: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for host in model.members("celery_workers"):
        instances = as_mapping(model.value(host, "celery_worker_instances"))
        for name in instances:
            known.setdefault(name, []).append(host)
        taken.update(enabled(model, host))
        if not isinstance(model.value(host, "celery_worker_instances"), Mapping):
            continue
        for name in as_strings(model.value(host, "celery_worker_host_instances")):
            if name not in instances:
                unknown.setdefault((name, tuple(instances)), []).append(host)
        if instances and not enabled(model, host):
            yield Problem(
                "celery_worker_host_instances",
                "leaves this host of celery_workers without a worker",
                "name a worker, or take the host out of the group",
                value=model.show(
                    ("celery_worker_host_instances",),
                    as_list(model.value(host, "celery_worker_host_instances")),
                ),
                hosts=(host,),
                severity=Severity.WARNING,
            )
    for (name, instances_there), hosts in unknown.items():
        yield Problem(
            "celery_worker_host_instances",
            "names a worker that celery_worker_instances does not have",
            suggestion(name, instances_there)
            or f"choose from {', '.join(instances_there) or '(none)'}, or add it there",
            value=model.show(("celery_worker_host_instances",), name),
            hosts=tuple(hosts),
        )
    for name, hosts in known.items():
        if name not in taken:
            yield Problem(
                dotted(("celery_worker_instances", name)),
                "is a worker that no host runs",
                "add it to celery_worker_host_instances of a host, or remove it",
                hosts=tuple(hosts),
                severity=Severity.WARNING,
            )
    for value, hosts_without in model.distinct(
        "celery_worker_instances", model.members("celery_workers")
    ):
        if value == {}:
            yield Problem(
                "celery_worker_instances",
                "has no worker",
                "add one, such as `default: {queues: [celery]}`",
                value="{}",
                hosts=hosts_without,
            )


def check_limits(model: Model) -> Iterator[Problem]:
    """Check that each number of a worker is in its range, and that its limits are in the right order."""
    for name, options, hosts in each_worker(model):
        path = ("celery_worker_instances", name)
        known = parsed(WORKER, options)
        yield from check_options(model, path, options, WORKER, hosts)
        hard, soft, drain = (
            known.get(key) for key in ("time_limit", "soft_time_limit", "drain_timeout")
        )
        # If it is below 1, the limit itself is reported.
        if hard is not None and soft is not None and soft >= hard >= 1:
            yield Problem(
                dotted((*path, "soft_time_limit")),
                f"is not below time_limit ({number_text(hard)} s), so a task would be killed before it could clean up",
                f"write less than {number_text(hard)}",
                value=model.show((*path, "soft_time_limit"), options["soft_time_limit"]),
                hosts=hosts,
            )
        if hard is not None and drain is not None and drain < hard:
            yield Problem(
                dotted((*path, "drain_timeout")),
                f"is below time_limit ({number_text(hard)} s): a stop ends tasks that are still allowed to run",
                f"write {number_text(hard)} or more, or remove it",
                value=model.show((*path, "drain_timeout"), options["drain_timeout"]),
                hosts=hosts,
                severity=Severity.WARNING,
            )
        if hard is None:
            yield from _cut_short(model, path, drain_timeout(known), hosts)
        if "queues" in options and options["queues"] == []:
            yield Problem(
                dotted((*path, "queues")),
                "is empty, so the worker would consume nothing",
                f"name a queue, or remove it to consume {name}",
                value="[]",
                hosts=hosts,
            )


def check_sizes(model: Model) -> Iterator[Problem]:
    """Report numbers of processes, and memory for each, that are far off."""
    for name, options, hosts in each_worker(model):
        path = ("celery_worker_instances", name)
        for key, message, remedy in _sizes(options):
            yield Problem(
                dotted((*path, key)),
                message,
                remedy,
                value=model.show((*path, key), options[key]),
                hosts=hosts,
            )
        child = as_number(options.get("max_memory_per_child"))
        limit = memory_bytes(options.get("memory_max"))
        if child is not None and limit is not None and child * 1024 > limit:
            yield Problem(
                dotted((*path, "max_memory_per_child")),
                f"is in KiB, and more than memory_max ({options['memory_max']}), so the pool never replaces a process",
                f"write less than {number_text(limit // 1024)}; each of the worker's processes may have this much",
                value=number_text(child),
                hosts=hosts,
                severity=Severity.WARNING,
            )


def _sizes(options: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """Yield option, message and remedy of each size that is far off."""
    child = as_number(options.get("max_memory_per_child"))
    if child is not None and 1 <= child < LEAST_MEMORY / 1024:
        likely = child * 1024 >= LEAST_MEMORY / 1024
        yield (
            "max_memory_per_child",
            "is in KiB, and less than a process needs before it runs a task: each would be replaced after every task",
            f"did you mean {number_text(child * 1024)} ({number_text(child)} MiB)?"
            if likely
            else "write KiB, such as 204800 for 200 MiB",
        )
    if child is not None and child >= _TOO_MANY_KIB:
        yield (
            "max_memory_per_child",
            f"is in KiB, so it is {number_text(child // 2**20)} GiB for each process",
            f"did you mean {number_text(child // 1024)} ({number_text(child // 2**20)} MiB)?",
        )
    yield from _processes(options)


def _processes(options: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    number = as_number(options.get("concurrency"))
    if number is not None and number > MOST_PROCESSES and options.get("pool") not in _GREENLETS:
        yield (
            "concurrency",
            f"is more than the {MOST_PROCESSES} processes or threads that one worker can have",
            "write as many as the host has room for; for thousands of waiting tasks write pool: gevent",
        )


def check_celerys_autoscale(model: Model) -> Iterator[Problem]:
    """Refuse the form of Celery's own option, before its type is reported."""
    for name, options, hosts in each_worker(model):
        given = options.get("autoscale")
        if not isinstance(given, (str, int)) or isinstance(given, bool):
            continue
        found = _CELERYS.fullmatch(str(given))
        numbers = sorted(int(number) for number in found.groups(default="1")) if found else []
        least, most = numbers if numbers and numbers[1] else (2, 10)
        path = ("celery_worker_instances", name, "autoscale")
        # Hosts without workers have the variable too, and the check of its type looks at all.
        others = (
            host
            for value, having in model.distinct_given("celery_worker_instances")
            if as_mapping(as_mapping(value).get(name)).get("autoscale") == given
            for host in having
        )
        yield Problem(
            dotted(path),
            "is the form of Celery's own option, which does not look at how long tasks wait",
            f"write {{min: {max(least, 1)}, max: {most}, wait: 30s}}",
            value=model.show(path, given),
            hosts=tuple(dict.fromkeys((*hosts, *others))),
        )


def check_autoscale(model: Model) -> Iterator[Problem]:
    """Refuse bounds of a pool that can't be followed."""
    for name, options, hosts in each_worker(model):
        path = ("celery_worker_instances", name, "autoscale")
        given = as_mapping(options.get("autoscale"))
        yield from check_options(model, path, given, AUTOSCALE, hosts)
        for key, message, remedy in _bounds(options):
            below = (*path, key) if key else path
            value = model.show(below, given[key]) if key else ""
            yield Problem(dotted(below), message, remedy, value=value, hosts=hosts)
        unmeasured = tuple(host for host in hosts if model.value(host, METRICS) is False)
        if given and unmeasured:
            yield Problem(
                dotted(path),
                f"can't see how long tasks wait: {METRICS} is false, so messages don't say when they were sent",
                f"set {METRICS}: true, or remove it and write concurrency",
                hosts=unmeasured,
            )


def _bounds(options: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """Yield key, message and remedy of each fault of `autoscale`; the key is empty for the whole option."""
    given = as_mapping(options.get("autoscale"))
    if not given:
        return
    pool = options.get("pool") or "prefork"
    if pool != "prefork":
        yield (
            "",
            f"needs processes that can start and end, but the pool is {pool}",
            "remove it and write concurrency, or write pool: prefork",
        )
    missing = [option.name for option in AUTOSCALE if given.get(option.name) is None]
    if missing:
        yield (
            "",
            f"lacks {' and '.join(missing)}",
            "write all three, as in {min: 2, max: 10, wait: 30s}",
        )
    low, high, wait = (given.get(option.name) for option in AUTOSCALE)
    least, most = as_number(low), as_number(high)
    if least is not None and most is not None and least > most >= 1:
        yield (
            "min",
            f"is above max ({number_text(most)})",
            f"write {number_text(most)} or less, or raise max",
        )
    if isinstance(wait, (str, int, float)) and not isinstance(wait, bool):
        known = seconds(str(wait))
        if known is None:
            yield "wait", "is not a duration", "write it as in 30s or 5m"
        elif not _SHORTEST_WAIT <= known <= _LONGEST_WAIT:
            yield "wait", "is outside 1s to 1h", "write 1s to 1h"


def _cut_short(
    model: Model, path: tuple[str, ...], waits: float, hosts: tuple[str, ...]
) -> Iterator[Problem]:
    """Warn if the worker has no time limit, and a stop waits less than the setting lets tasks run."""
    for settings, there in model.distinct("celery_app_settings", hosts):
        hard = as_number(as_mapping(settings).get("task_time_limit"))
        if hard is not None and waits < hard:
            yield Problem(
                dotted((*path, "drain_timeout")),
                f"is {number_text(waits)} s, below celery_app_settings.task_time_limit ({number_text(hard)} s): a stop "
                "ends tasks that are still allowed to run",
                f"write time_limit: {number_text(hard)} for the worker, so a stop waits that long",
                hosts=there,
                severity=Severity.WARNING,
            )
