"""Stop a worker from fetching tasks: a drain ends the worker afterwards, a pause lets it continue later.

Both start in the same way. The worker fetches no further message. Tasks that have not started (prefetched, or
waiting for a slot of the pool, for their ETA or for their rate limit) return at once and in order to the head of
their queue, so that other workers can take them. Running tasks continue, and so does the event loop: heartbeat, time
limits, remote control, results and acknowledgements. Celery's own stop keeps such messages until its last task has
ended.

SIGTERM and remote control's ``shutdown`` drain a worker with the pool prefork, threads, solo or gevent and Redis as
broker. A second SIGTERM is Celery's warm stop, SIGQUIT its cold one; SIGHUP is the same as SIGTERM. With other pools or
brokers, and with a ``no_ack`` queue, Celery's own stop is used. Remote control's ``fleet_pause`` and ``fleet_resume``
need less: an event loop or greenlets, Redis as broker, and no ``no_ack`` queue.

Everything happens in the loop's thread; the signal handler only wakes the loop and stops the pool from starting
tasks. In a solo pool the loop hears nothing while a task runs: it hands back after that task and before the next one.
A gevent worker has greenlets instead of a loop: each query to Redis lets other greenlets run.

If the broker is away and the loop still runs, a worker drains as well: it ends when its tasks have.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from celery import bootsteps, signals
from celery.exceptions import WorkerShutdown
from celery.worker.control import Panel

from celery_fleet.compat import intake, worker
from celery_fleet.worker.drain_record import DrainRecord
from celery_fleet.worker.drainer import LONGEST_PAUSE, Drainer
from celery_fleet.worker.pausing import Pausing

logger = logging.getLogger("celery_fleet.drain")


class SigtermHandler:
    """SIGTERM's handler: wakes the event loop, because a signal handler must not do the work itself."""

    def __init__(self, drainer: Drainer) -> None:
        self._drainer = drainer
        self._pid = os.getpid()
        self._received = False
        self._hostname: str | None = None
        self._installed = self._listens = False
        self._pipe: tuple[int, int] | None = None

    def connect(self, consumer: Any) -> None:
        """Have the loop hear the signal on each new connection; take SIGTERM over from Celery, once."""
        self._hostname = consumer.hostname
        if self._pipe is None:
            self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        reader, writer = self._pipe
        intake.listen(consumer, reader, self._heard, known=self._listens)
        self._listens = True
        self._drainer.heard = partial(self._heard, reader)
        if consumer.hub is not None:
            intake.pool_intake(consumer).on_freed = partial(
                consumer.hub.call_soon, self._drainer.heard
            )
        celerys = signal.getsignal(signal.SIGTERM)
        # An embedded worker has no handler, and only the main thread can set one.
        if not self._installed and callable(celerys):
            with suppress(ValueError):
                signal.signal(signal.SIGTERM, partial(self._receive, writer, celerys))
                self._installed = True

    def _receive(
        self, writer: int, celerys: Callable[[int, Any], object], signum: int, frame: Any
    ) -> None:
        # A pool child has this handler until it resets it. Without a connection the worker holds nothing to return.
        if self._received or os.getpid() != self._pid or not self._drainer.can_drain:
            celerys(signum, frame)
            return
        self._received = True
        self._drainer.called()
        os.write(writer, b"!")

    def _heard(self, reader: int) -> None:
        try:
            os.read(reader, 16)
        except BlockingIOError:
            return
        self._drainer.drain()
        # Celery's handler sends this first; but an application's receiver must not delay the hand-back.
        signals.worker_shutting_down.send(
            sender=self._hostname, sig="SIGTERM", how="Warm", exitcode=0
        )


def install(app: Any) -> tuple[Drainer, Pausing]:
    """Add the drain's step and commands to the app's worker, before it builds its blueprints."""
    drainer = Drainer(DrainRecord.of(os.environ))
    pausing = Pausing(drainer)
    sigterm = SigtermHandler(drainer)

    class Drain(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
        """Tells the drainer and the pausing about each connection before anything is consumed."""

        name = "celery_fleet.Drain"
        requires = ("celery.worker.consumer.tasks:Tasks",)
        told = False

        def start(self, consumer: Any) -> None:
            why_not = worker.why_not_drained(consumer)
            if why_not is not None and not self.told:
                self.told = True
                logger.info("SIGTERM is left to Celery's own warm stop: %s", why_not)
            drainer.connected(consumer)
            pausing.connected(consumer)
            if why_not is None:
                sigterm.connect(consumer)

        def stop(self, consumer: Any) -> None:
            pausing.disconnected()
            drainer.disconnected()

        def info(self, consumer: Any) -> dict[str, Any]:
            """Return what ``inspect stats`` shows of the drain."""
            tasks = consumer.task_consumer
            queues = [queue.name for queue in tasks.queues] if tasks else []
            events = worker.sends_task_events(consumer)
            return {"fleet": {**drainer.look().as_dict(), "queues": queues, "task_events": events}}

    app.steps["consumer"].add(Drain)
    register(drainer)
    pausing.register()
    return drainer, pausing


def register(drainer: Drainer) -> None:
    """Add the remote control commands; ``shutdown`` replaces Celery's."""

    def fleet_pause(state: Any, seconds: Any = None, **_: Any) -> dict[str, Any]:
        """Fetch no tasks for some seconds, and hand back those that have not started."""
        why_not = worker.why_not_paused(state.consumer)
        if why_not is not None:
            return {"state": "unsupported", "why": why_not}
        try:
            wanted = float(seconds)
        except (TypeError, ValueError):
            wanted = 0.0
        if not 0 < wanted <= LONGEST_PAUSE:
            return {"error": f"seconds must be above 0 and at most {LONGEST_PAUSE:.0f}"}
        return drainer.pause(wanted).as_dict()

    def fleet_resume(state: Any, **_: Any) -> dict[str, Any]:  # Celery's signature
        """Fetch tasks again after fleet_pause."""
        return drainer.resume().as_dict()

    def shutdown(state: Any, msg: str = "Got shutdown from remote", **_: Any) -> None:
        """Hand back tasks that have not started, let running tasks end, then exit."""
        logger.warning("%s", msg)
        if not drainer.can_drain:
            raise WorkerShutdown(0)
        drainer.drain()

    Panel.register(name="fleet_pause", args=[("seconds", float)], signature="<seconds>")(
        fleet_pause
    )
    Panel.register(name="fleet_resume")(fleet_resume)
    Panel.register(name="shutdown")(shutdown)
