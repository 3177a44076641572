"""The visibility timeout: after how long an unacknowledged task is redelivered."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.delivery import (
    LEASE,
    SETTINGS,
    promise_of,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.delivery import (
    parts as delivery_parts,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.workers import (
    drain_timeout,
    worker_options,
)

# Celery's own timeout, which holds if nothing bounds the tasks.
UNBOUNDED = 3600.0


def visibility_timeout(
    instances: Mapping[str, Mapping[str, Any] | None],
    defaults: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    delivery: str = "inherit",
    knobs: Mapping[str, Any] | None = None,
) -> int:
    """Seconds after which an unacknowledged task is given to another worker, such that none still has it.

    Where all workers renew what they hold, it is their lease. Else those that don't renew count: such a worker takes
    `prefetch_multiplier` tasks ahead for each process, so the last of them may wait that many time limits, and then
    its drain. At least Celery's own default of an hour then.

    Args:
        instances: celery_worker_instances.
        defaults: celery_worker_defaults.
        settings: celery_app_settings, which bound what a worker's own options leave open.
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
    """Seconds after which a worker with a lease may take what one without has, which renews nothing.

    Longer than any of these workers could hold a task on the stock take, whatever was promised: while a fleet goes
    from one promise to another, workers of both kinds run, and the lease would be much too short for the one.

    Args:
        instances: celery_worker_instances.
        defaults: celery_worker_defaults.
        settings: celery_app_settings.
        given: celery_app_visibility_timeout, than which it is never less.
    """
    workers = (worker_options(name, instances, defaults) for name in instances)
    longest = _longest_hold((options, "inherit", settings or {}) for options in workers)
    return max(longest, math.ceil(float(given)))


class Hold(NamedTuple):
    """How long a worker may hold a task that it doesn't renew: those taken ahead run first, and then it drains."""

    ahead: float
    limit: float
    drain: float

    @property
    def seconds(self) -> float:
        """All of it together."""
        return self.ahead * self.limit + self.drain


def hold(options: Mapping[str, Any], promise: str, settings: Mapping[str, Any]) -> Hold | None:
    """Return how long a worker may hold a task; None if no time limit bounds its tasks.

    Args:
        options: The worker's, over the defaults of all.
        promise: The worker's, as `delivery.promise_of` returns it.
        settings: celery_app_settings, which bound what the options leave open.
    """
    limit = options.get("time_limit")
    if limit is None:
        limit = settings.get("task_time_limit")
    if limit is None:
        return None
    ahead = options.get("prefetch_multiplier")
    if ahead is None:
        ahead = settings.get("worker_prefetch_multiplier")
    # Celery's own default is four; 0 is no bound at all, for which no timeout would be long enough.
    promised = SETTINGS[promise].get("worker_prefetch_multiplier", 4)
    return Hold(float(ahead or promised), float(limit), drain_timeout(options))


def _longest_hold(workers: Iterable[tuple[Mapping[str, Any], str, Mapping[str, Any]]]) -> int:
    """Return seconds, at least an hour; of each worker its options, its promise and the application's settings."""
    holds = [hold(*worker) for worker in workers]
    return math.ceil(max([UNBOUNDED, *(one.seconds for one in holds if one)]))
