"""Install the outage guard in a worker."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from celery import bootsteps, signals
from kombu.utils import imports

from celery_fleet.compat import intake
from celery_fleet.compat.minors import chosen as minors
from celery_fleet.delivery.hooks import HOOKS
from celery_fleet.delivery.options import Options
from celery_fleet.delivery.outage import internals, results
from celery_fleet.delivery.outage.carry_over import RETRY
from celery_fleet.delivery.outage.consumer import GuardedConsumer
from celery_fleet.delivery.outage.guard import LOOK, OutageGuard


def install(
    app: Any,
    options: Options,
    draining: Callable[[], bool] = lambda: False,
) -> OutageGuard | None:
    """Install the enabled parts in the app's worker, before it builds its blueprints; return None if there are none."""
    if not (options.carry or options.outage):
        return None
    given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    guard = OutageGuard(app, options, Path(given) if given else None, draining)
    guard.hooks(HOOKS)
    if options.outage:
        prepare = partial(results.bound, deadline=guard.deadline, concerned=guard.concerned)
        internals.each_backend(app, prepare)
    _add_steps(app, guard)
    signals.worker_shutting_down.connect(
        lambda **_: guard.deadline.give(), weak=False, dispatch_uid="celery_fleet.deadline"
    )
    signals.worker_shutdown.connect(
        lambda **_: guard.end(), weak=False, dispatch_uid="celery_fleet.outage_guard"
    )
    base = imports.symbol_by_name(app.conf.worker_consumer)  # type: ignore[no-untyped-call]  # typed in part only
    app.conf.worker_consumer = type("FleetConsumer", (GuardedConsumer, base), {"fleet": guard})
    return guard


def _add_steps(app: Any, guard: OutageGuard) -> None:
    class OutageGuardStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
        """Gives each new connection the running tasks before it consumes."""

        name = "celery_fleet.OutageGuard"
        requires = ("celery.worker.consumer.tasks:Tasks",)
        ends: tuple[Callable[[], None], ...] = ()

        def start(self, consumer: Any) -> None:
            # Don't do this in stop(), because tasks may still run after it. A hub forgets the timers of a lost
            # connection, but greenlets don't.
            for end in self.ends:
                end()
            minors.celery.keep_time_limits(consumer)
            internals.track_living_children(consumer)
            self.ends = (intake.repeat(consumer.timer, LOOK, guard.look),)
            if guard.carry is not None:
                guard.carry.connected(consumer)
                retry = partial(guard.carry.retry, consumer)
                self.ends += (intake.repeat(consumer.timer, RETRY, retry),)

    app.steps["consumer"].add(OutageGuardStep)
