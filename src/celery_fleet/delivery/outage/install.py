"""Switch the outage guard on in a worker."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from celery import bootsteps, signals
from kombu.utils import imports

from celery_fleet.compat import intake
from celery_fleet.delivery.hooks import HOOKS
from celery_fleet.delivery.options import Options
from celery_fleet.delivery.outage import consumer as consumers
from celery_fleet.delivery.outage import internals
from celery_fleet.delivery.outage import results as storing
from celery_fleet.delivery.outage.carry_over import RETRY
from celery_fleet.delivery.outage.guard import LOOK, Steady


def install(
    app: Any,
    options: Options,
    draining: Callable[[], bool] = lambda: False,
) -> Steady | None:
    """Put into the app's worker what the options want, before it builds its blueprints; None without any."""
    mixins: list[type[Any]] = []
    steady = None
    if options.carry or options.outage:
        given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
        steady = Steady(app, options, Path(given) if given else None, draining)
        steady.hooks(HOOKS)
        mixins.append(consumers.SteadyConsumer)
        if options.outage:
            prepare = partial(storing.bound, order=steady.order, concerned=steady.concerned)
            internals.each_backend(app, prepare)
        _add_steps(app, steady)
        signals.worker_shutting_down.connect(
            lambda **_: steady.order.give(), weak=False, dispatch_uid="celery_fleet.order"
        )
        signals.worker_shutdown.connect(
            lambda **_: steady.end(), weak=False, dispatch_uid="celery_fleet.steady"
        )
    if mixins:
        base = imports.symbol_by_name(app.conf.worker_consumer)  # type: ignore[no-untyped-call]  # typed in part only
        app.conf.worker_consumer = consumers.made_from(base, mixins, fleet=steady)
    return steady


def _add_steps(app: Any, steady: Steady) -> None:
    class Step(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
        """Gives each connection what runs, before anything is consumed."""

        name = "celery_fleet.Steady"
        requires = ("celery.worker.consumer.tasks:Tasks",)
        ends: tuple[Callable[[], None], ...] = ()

        def start(self, consumer: Any) -> None:
            # Not in a stop(): tasks may go on after it. A hub forgets those of a lost connection, greenlets don't.
            for end in self.ends:
                end()
            internals.keep_time_limits(consumer)
            internals.track_living_children(consumer)
            self.ends = (intake.repeat(consumer.timer, LOOK, steady.look),)
            if steady.carry is not None:
                steady.carry.connected(consumer)
                self.ends += (intake.repeat(consumer.timer, RETRY, steady.carry.retry),)

    app.steps["consumer"].add(Step)
