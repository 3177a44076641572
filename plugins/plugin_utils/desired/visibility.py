"""Computes the visibility timeout, after which an unacknowledged task is redelivered.

Pure functions on the control node, for filters and preflight.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .delivery import LEASE, SETTINGS, promise_of
from .delivery import parts as delivery_parts
from .workers import drain_timeout, worker_options

# Celery's own timeout in seconds, which applies if tasks have no time limit.
UNBOUNDED = 3600.0


def visibility_timeout(
    instances: Mapping[str, Mapping[str, Any] | None],
    defaults: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    delivery: str = "inherit",
    knobs: Mapping[str, Any] | None = None,
) -> int:
    """Return the seconds after which an unacknowledged task is given to another worker, so long that none still has it.

    If all workers renew what they hold, it is their lease. Otherwise the workers that don't renew count: such a worker
    prefetches `prefetch_multiplier` tasks for each process. The last of them may wait that many time limits, and then
    for the drain. The result is then at least Celery's own default of an hour.

    Args:
        instances: celery_worker_instances.
        defaults: celery_worker_defaults.
        settings: celery_app_settings; their limits apply if a worker's own options have none.
        delivery: celery_app_delivery.
        knobs: How tasks are delivered; see `delivery`.
    """
    workers = [worker_options(name, instances, defaults) for name in instances]
    without = [one for one in workers if not delivery_parts(delivery, knobs, one)["lease"]]
    if workers and not without:
        return LEASE
    return _longest_hold(
        (options, promise_of(options, delivery), settings or {}) for options in without
    )


def stock_visibility(
    instances: Mapping[str, Mapping[str, Any] | None],
    defaults: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    given: float = 0,
) -> int:
    """Return the seconds after which a worker with a lease may take a task from a worker without one.

    A worker without a lease renews nothing. The result is longer than any of these workers could hold a task with the
    stock fetch, under any promise. While a fleet changes its promise, both kinds of workers run, and the lease would be
    much too short for the workers without one.

    Args:
        instances: celery_worker_instances.
        defaults: celery_worker_defaults.
        settings: celery_app_settings.
        given: celery_app_visibility_timeout; the result is never less.
    """
    workers = (worker_options(name, instances, defaults) for name in instances)
    longest = _longest_hold((options, "inherit", settings or {}) for options in workers)
    return max(longest, math.ceil(float(given)))


class HoldTime(NamedTuple):
    """How long a worker may hold a task that it doesn't renew: earlier prefetched tasks run first, then it drains."""

    ahead: float
    limit: float
    drain: float

    @property
    def seconds(self) -> float:
        """The whole time."""
        return self.ahead * self.limit + self.drain


def hold_time(
    options: Mapping[str, Any], promise: str, settings: Mapping[str, Any]
) -> HoldTime | None:
    """Return how long a worker may hold a task; None if its tasks have no time limit.

    Args:
        options: The worker's options over the defaults of all.
        promise: The worker's promise, as `delivery.promise_of` returns it.
        settings: celery_app_settings; their limits apply if the options have none.
    """
    limit = options.get("time_limit")
    if limit is None:
        limit = settings.get("task_time_limit")
    if limit is None:
        return None
    ahead = options.get("prefetch_multiplier")
    if ahead is None:
        ahead = settings.get("worker_prefetch_multiplier")
    # Celery's own default is four. 0 means no limit; no timeout would be long enough for that.
    promised = SETTINGS[promise].get("worker_prefetch_multiplier", 4)
    return HoldTime(float(ahead or promised), float(limit), drain_timeout(options))


def _longest_hold(workers: Iterable[tuple[Mapping[str, Any], str, Mapping[str, Any]]]) -> int:
    """Return the longest hold time in seconds, at least an hour; a worker has its options, promise and settings."""
    holds = [hold_time(*worker) for worker in workers]
    return math.ceil(max([UNBOUNDED, *(one.seconds for one in holds if one)]))
