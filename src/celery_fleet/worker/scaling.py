"""Change the number of a worker's processes while it runs: by its option `autoscale`, or because an operator says so.

A worker starts with the number in its inventory, or the smallest one with `autoscale`. `celery_fleet.worker.autoscale`
decides about changes. An operator's number (`celery-fleet scale`) is on the broker and holds instead until it is reset,
or until the inventory says something else than it did then; see `celery_fleet.common.pool_sizes`. Remote control's
``fleet_pool_sizes`` has a worker read it; see `celery_fleet.worker.orders`. Everything but the backlog's thread happens
in the loop's thread.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from celery import bootsteps, signals

from celery_fleet.common import errors, pool_sizes
from celery_fleet.common.errors import FleetError, error_text
from celery_fleet.common.pool_sizes import PoolSize
from celery_fleet.compat import intake, pool_size, worker
from celery_fleet.delivery.keys import POOL_SIZES
from celery_fleet.worker import memory
from celery_fleet.worker.autoscale import Autoscale, Decision, Limits, PoolLook, limits_of
from celery_fleet.worker.backlog import Backlog
from celery_fleet.worker.drainer import Drainer, Mode
from celery_fleet.worker.orders import Orders

logger = logging.getLogger("celery_fleet.scaling")

#: Seconds between two decisions.
TICK = 1.0

#: Processes of which the memory is measured: it takes the kernel some milliseconds for each.
MEASURED = 16


class Scaling(Orders):
    """The size of a worker's pool.

    Attributes:
        ordered: The size that an operator has set; replaced as a whole, so any thread may read it.
        ups: How often the pool has grown since the worker's start.
        downs: How often it has shrunk.
    """

    name = "fleet_pool_sizes"
    what = "the pool sizes"
    log = logger

    def __init__(self, drainer: Drainer, environ: Mapping[str, str]) -> None:
        super().__init__()
        self._drainer = drainer
        self._environ = environ
        self._memory = memory.Memory()
        self._autoscale = Autoscale(self._room)
        self._inventory: Limits | None = None
        self._backlog: Backlog | None = None
        self._refused: str | None = None
        self.ordered: PoolSize | None = None
        self.ups = self.downs = 0
        self._told_blocked = False

    @property
    def limits(self) -> Limits | None:
        """Return the bounds that hold now; None before the worker runs. May be called in any thread."""
        if self.ordered is not None:
            return Limits(self.ordered.processes, self.ordered.processes)
        return self._inventory

    def started(self, controller: Any, backlog: Backlog) -> None:
        """Note the worker once its pool runs."""
        pool_size.survive_refused_processes(controller.pool)
        self._inventory = limits_of(self._environ, int(controller.pool.num_processes))
        self._backlog = backlog
        if self._inventory.wait is not None and pool_size.why_fixed(controller.pool) is None:
            backlog.start()

    def connected(self, consumer: Any) -> None:
        """Also decide about the size from now on, as long as the connection lasts."""
        super().connected(consumer)
        if self._consumer is consumer:
            self._ends.append(intake.repeat(consumer.timer, TICK, self._tick))

    def why_not(self, consumer: Any) -> str | None:
        """Return why a worker's pool keeps its size; None if it can change."""
        return pool_size.why_fixed(consumer.pool) or worker.why_not_redis(consumer)

    def read(self) -> None:
        """Read the operators' sizes, and obey in the loop's next turn: to start processes may take seconds.

        Raises:
            Exception: The broker does not answer, or refuses.
        """
        consumer = self._consumer
        with consumer.task_consumer.channel.conn_or_acquire() as client:
            sizes = pool_sizes.parse(client.hgetall(POOL_SIZES))
            found = pool_sizes.of_node(sizes, consumer.hostname)
            if found is not None and found.inventory != self._words:
                client.hdel(POOL_SIZES, found.node)
                logger.warning("no longer %s: the inventory says %s now", found.words, self._words)
                found = None
        self._trouble = None
        if found != self.ordered:
            before, self.ordered = self.ordered, found
            # What an earlier size lacked says nothing of this one, which need not wait for its pace either.
            self._autoscale, self._refused = Autoscale(self._room), None
            if found is not None:
                logger.warning("%s", found.words)
            elif before is not None:
                logger.warning("no longer %s: it was reset", before.words)
        consumer.timer.call_after(0, self._tick)

    @property
    def _words(self) -> str:
        return "" if self._inventory is None else self._inventory.words

    def _tick(self) -> None:
        consumer, limits = self._consumer, self.limits
        if consumer is None or limits is None or worker.told_to_stop():
            return
        if self._drainer.status.mode is not Mode.CONSUMING:
            return
        look = PoolLook(
            time.monotonic(),
            int(consumer.pool.num_processes),
            intake.at_work(consumer.pool),
            0.0 if self._backlog is None or limits.wait is None else self._backlog.waited(),
        )
        self._follow(consumer, look, self._autoscale.decide(limits, look))

    def _follow(self, consumer: Any, look: PoolLook, decision: Decision) -> None:
        after = look.processes
        if decision.size != look.processes:
            try:
                after, self._refused = pool_size.resize(consumer, decision.size), None
            except (OSError, MemoryError) as exc:
                after, text = int(consumer.pool.num_processes), error_text(exc)
                if text != self._refused:  # it is tried again every few seconds
                    logger.warning("the pool could not grow to %d: %s", decision.size, text)
                self._refused = text
        if after != look.processes:
            self.ups += after > look.processes
            self.downs += after < look.processes
            logger.info("pool %d → %d processes: %s", look.processes, after, decision.why)
        if self.blocked and not self._told_blocked:
            missing = self._memory.missing
            logger.warning("pool: no more than %d processes: %s", after, missing)
        self._told_blocked = self.blocked

    @property
    def blocked(self) -> bool:
        """Return whether the pool would be larger if there were memory; may be called in any thread."""
        return self._autoscale.blocked

    def _room(self, wanted: int) -> int:
        pids = pool_size.pids(self._consumer.pool)
        used = memory.sizes(pids[:MEASURED])
        return self._memory.room(memory.available(), used, len(pids), wanted)

    def counts(self) -> dict[str, Any]:
        """Return what the worker's metrics say; may be called in any thread."""
        limits = self.limits
        bounds = {} if limits is None else {"min": limits.lowest, "max": limits.highest}
        return {**bounds, "blocked": self.blocked, "ups": self.ups, "downs": self.downs}

    def reply(self, consumer: Any) -> dict[str, Any]:
        """Return what ``inspect stats`` and the reply to ``fleet_pool_sizes`` show."""
        limits = self.limits
        return {
            "processes": int(consumer.pool.num_processes),
            "ending": pool_size.ending(consumer.pool),
            "inventory": self._words,
            "ordered": None if self.ordered is None else self.ordered.processes,
            "lowest": None if limits is None else limits.lowest,
            "highest": None if limits is None else limits.highest,
            "missing": self._memory.missing if self.blocked else self._refused or "",
        }


def install(
    app: Any, drainer: Drainer, is_paused: Callable[[str], bool], environ: Mapping[str, str]
) -> Scaling:
    """Add the steps and the command to the app's worker, before it builds its blueprints.

    Args:
        app: The Celery app.
        drainer: Says whether the worker fetches tasks.
        is_paused: Whether an operator has paused a queue; may be called in any thread.
        environ: The process's environment.

    Raises:
        SystemExit: The environment is wrong, with :data:`errors.EX_CONFIG`.
    """
    try:
        limits_of(environ, 1)
    except FleetError as exc:
        errors.refuse(exc, os.environ)
    scaling = Scaling(drainer, environ)

    class PoolSizeStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
        """Tells the scaling that the pool runs."""

        name = "celery_fleet.PoolSize"
        requires = ("celery.worker.components:Pool",)

        def start(self, worker: Any) -> None:
            backlog = Backlog(worker, is_paused)
            # Not in this step's stop(): the worker then still waits for the pool.
            signals.worker_shutdown.connect(
                lambda **_: backlog.stop(), weak=False, dispatch_uid="celery_fleet.backlog"
            )
            scaling.started(worker, backlog)

    class ScalingStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
        """Tells the scaling about each connection before anything is consumed."""

        name = "celery_fleet.Scaling"
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Any) -> None:
            scaling.connected(consumer)

        def stop(self, consumer: Any) -> None:
            scaling.disconnected()

        def info(self, consumer: Any) -> dict[str, Any]:
            """Return what ``inspect stats`` shows."""
            return {"fleet_pool": scaling.reply(consumer)}

    app.steps["worker"].add(PoolSizeStep)
    app.steps["consumer"].add(ScalingStep)
    scaling.register()
    return scaling
