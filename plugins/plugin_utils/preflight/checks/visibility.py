"""Checks the visibility timeout, after which an unacknowledged task is given to another worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ...desired import visibility
from ...desired.option import as_number, parsed
from ...desired.worker_options import WORKER
from ..model.inventory import Model, Problem, as_mapping, each_worker, number_text
from .delivery import has_part, promise_of, renews

# Seconds below which a lease, renewed every five, would not outlast an ordinary pause of Redis or of a host.
_SHORTEST_LEASE: Final = 15.0
_VARIABLE: Final = "celery_app_visibility_timeout"
# Settings that apply if a worker's own options do not say otherwise.
_BOUNDS: Final = ("task_time_limit", "worker_prefetch_multiplier")


def check_visibility(model: Model) -> Iterator[Problem]:
    """Refuse a timeout that is shorter than a worker may hold a task.

    A worker with a lease renews its tasks. Any other worker prefetches `prefetch_multiplier` tasks for each process.
    The last of them may wait for that number of time limits, and then for the drain. The role's default is never less.
    If tasks have no time limit, the minimum is Celery's default of an hour.
    """
    wanted: dict[tuple[str, str], tuple[float, str, str]] = {}
    for name, options, hosts in each_worker(model):
        for host in hosts:
            settings = as_mapping(model.value(host, "celery_app_settings"))
            variable, value = visibility_timeout(model, host)
            seconds = as_number(value)
            if seconds is None or renews(model, host, options):
                continue
            least, why = _held(options, settings, promise_of(model, host, options))
            if seconds >= least:
                continue
            # Use the longest of all workers, so that the remedy is right for every worker.
            if least > wanted.get((variable, host), (0.0,))[0]:
                shown = model.show(tuple(variable.split(".")), value)
                wanted[variable, host] = (least, f"{name} {why}", shown)
    found: dict[tuple[str, float, str, str], list[str]] = {}
    for (variable, host), (least, reason, shown) in wanted.items():
        found.setdefault((variable, least, reason, shown), []).append(host)
    for (variable, least, reason, shown), hosts_there in found.items():
        yield Problem(
            variable,
            f"is shorter than the worker {reason}, so a task that still waits would run a second time",
            f"write {number_text(least)} or more, or remove it to have it computed; with the atomic fetch and "
            "celery_worker_lease it may be shorter",
            value=shown,
            hosts=tuple(hosts_there),
        )


def check_lease(model: Model) -> Iterator[Problem]:
    """Refuse a lease that can't be renewed in time, and timeouts that differ within the fleet."""
    short: dict[tuple[str, str], list[str]] = {}
    late: dict[str, list[str]] = {}
    delay_name = "celery_worker_unknown_task_retry_delay"
    for _, options, hosts in each_worker(model):
        for host in hosts:
            variable, value = visibility_timeout(model, host)
            seconds = as_number(value)
            if seconds is None:
                continue
            if renews(model, host, options):
                if seconds < _SHORTEST_LEASE:
                    shown = model.show(tuple(variable.split(".")), value)
                    short.setdefault((variable, shown), []).append(host)
                continue
            delay = as_number(model.value(host, delay_name))
            if (
                delay is not None
                and delay >= seconds
                and has_part(model, host, options, "dead_letters")
            ):
                late.setdefault(number_text(seconds), []).append(host)
    for (variable, shown), there in short.items():
        yield Problem(
            variable,
            f"is below {number_text(_SHORTEST_LEASE)}: workers renew their tasks three times in that period, so in a "
            "short pause of Redis running tasks would be given to other workers",
            f"write {number_text(_SHORTEST_LEASE)} or more, or remove it to have 300",
            value=shown,
            hosts=tuple(dict.fromkeys(there)),
        )
    for timeout, there in late.items():
        hosts = tuple(dict.fromkeys(there))
        yield Problem(
            delay_name,
            f"is not below the visibility timeout ({timeout} s). A worker without the lease holds such a task during "
            "the delay, so it would be given to others as well",
            f"write less than {timeout}",
            value=model.show((delay_name,), model.value(hosts[0], delay_name)),
            hosts=hosts,
        )
    yield from _differing(model)


def _differing(model: Model) -> Iterator[Problem]:
    found: dict[float, list[str]] = {}
    variables = set()
    for host in model.members("celery_workers"):
        variable, value = visibility_timeout(model, host)
        seconds = as_number(value)
        if seconds is not None:
            found.setdefault(seconds, []).append(host)
            variables.add(variable)
    if len(found) > 1:
        each = "; ".join(
            f"{number_text(seconds)}: {', '.join(hosts[:3])}{' …' if len(hosts) > 3 else ''}"
            for seconds, hosts in sorted(found.items())
        )
        longest = number_text(max(found))
        yield Problem(
            min(variables, key=len),
            f"differs between hosts of celery_workers ({each}), but the shortest would apply to all tasks",
            f"write {_VARIABLE}: {longest} for the whole fleet",
            hosts=tuple(host for hosts in found.values() for host in hosts),
        )


def visibility_timeout(model: Model, host: str) -> tuple[str, object]:
    """Return the variable that says how long a task may be held on a host, and its value."""
    name = "visibility_timeout"
    settings = as_mapping(model.value(host, "celery_app_settings"))
    options = as_mapping(settings.get("broker_transport_options"))
    if name in options:
        # The inventory's own setting overrides the fleet's, option by option.
        return f"celery_app_settings.broker_transport_options.{name}", options[name]
    return _VARIABLE, model.value(host, _VARIABLE)


def _held(
    options: Mapping[str, object], settings: Mapping[str, object], promise: str
) -> tuple[float, str]:
    """Return how many seconds a worker may hold a task, and how they are computed."""
    bounds = {name: as_number(settings.get(name)) for name in _BOUNDS}
    hold = visibility.hold_time(parsed(WORKER, options), promise, bounds)
    if hold is None:
        hour = number_text(visibility.UNBOUNDED)
        return visibility.UNBOUNDED, (
            f"can hold a task (it has no time limit, so at least an hour: {hour} s)"
        )
    own = as_number(options.get("time_limit")) is not None
    name = "time_limit" if own else "celery_app_settings.task_time_limit"
    return hold.seconds, (
        f"can hold a task ({number_text(hold.seconds)} s: prefetch_multiplier x {name} + drain_timeout, "
        f"{number_text(hold.ahead)} x {number_text(hold.limit)} + {number_text(hold.drain)})"
    )
