"""Stop taking tasks: a drain, after which the worker ends, and a pause, after which it goes on.

Both begin in the same way: no further message is asked for, and what has not begun (prefetched, waiting
for a slot of the pool, for its ETA or for its rate limit) goes back to the head of its queue at once and
in order, for other workers to take. What runs goes on, and so does the event loop: heartbeat, time limits,
remote control, results and acknowledgements. Celery's own stop keeps such messages to itself until its
last task has ended.

SIGTERM and remote control's ``shutdown`` drain a worker of prefork, threads, solo or gevent on Redis; a
second SIGTERM is Celery's warm stop, SIGQUIT its cold one. Other pools and brokers, and workers with a
``no_ack`` queue, keep Celery's own. Remote control's ``fleet_pause`` and ``fleet_resume`` work for the same.

All happens on the loop's thread, and the signal's handler does no more than wake it and shut the pool's
door. A solo pool's task keeps the loop from hearing: it hands back when that has ended, before another
one begins. With gevent there is no loop but greenlets: whatever asks Redis gives way there.

Where the broker is away and the loop lives on, a worker drains all the same: it ends when its tasks have.
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
from celery_fleet.worker.drain_record import Record
from celery_fleet.worker.drainer import LONGEST_PAUSE, Drainer

logger = logging.getLogger("celery_fleet.drain")


class Bell:
    """SIGTERM's handler: wakes the event loop, since it must not do the work itself."""

    def __init__(self, drainer: Drainer) -> None:
        self._drainer = drainer
        self._pid = os.getpid()
        self._rung = False
        self._hostname: str | None = None
        self._installed = self._listens = False
        self._pipe: tuple[int, int] | None = None

    def connect(self, consumer: Any) -> None:
        """Have the loop hear the bell, which a reconnect forgets; take SIGTERM from Celery, once."""
        self._hostname = consumer.hostname
        if self._pipe is None:
            self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        reader, writer = self._pipe
        intake.listen(consumer, reader, self._heard, known=self._listens)
        self._listens = True
        self._drainer.heard = partial(self._heard, reader)
        if consumer.hub is not None:
            intake.door(consumer).on_freed = partial(consumer.hub.call_soon, self._drainer.heard)
        celerys = signal.getsignal(signal.SIGTERM)
        # An embedded worker has no handler, and no thread but the main one can set it.
        if not self._installed and callable(celerys):
            with suppress(ValueError):
                signal.signal(signal.SIGTERM, partial(self._ring, writer, celerys))
                self._installed = True

    def _ring(
        self, writer: int, celerys: Callable[[int, Any], object], signum: int, frame: Any
    ) -> None:
        # A pool's child has this handler until it resets it. Without a connection nothing is held.
        if self._rung or os.getpid() != self._pid or not self._drainer.can_drain:
            celerys(signum, frame)
            return
        self._rung = True
        self._drainer.called()
        os.write(writer, b"!")

    def _heard(self, reader: int) -> None:
        try:
            os.read(reader, 16)
        except BlockingIOError:
            return
        self._drainer.drain()
        # Celery's handler sends it first; but what an application does then must not keep tasks waiting.
        signals.worker_shutting_down.send(
            sender=self._hostname, sig="SIGTERM", how="Warm", exitcode=0
        )


def install(app: Any) -> Drainer:
    """Add the step and the commands to the app's worker, before it builds its blueprints."""
    drainer = Drainer(Record.of(os.environ))
    bell = Bell(drainer)

    class Drain(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
        """Tells the drainer of each connection, before anything is consumed."""

        name = "celery_fleet.Drain"
        requires = ("celery.worker.consumer.tasks:Tasks",)
        told = False

        def start(self, consumer: Any) -> None:
            why_not = worker.why_not_drained(consumer)
            if why_not is not None and not self.told:
                self.told = True
                logger.info("SIGTERM is left to Celery's own warm stop: %s", why_not)
            drainer.connected(consumer)
            if why_not is None:
                bell.connect(consumer)

        def stop(self, consumer: Any) -> None:
            drainer.disconnected()

        def info(self, consumer: Any) -> dict[str, Any]:
            """What ``inspect stats`` says of it."""
            tasks = consumer.task_consumer
            queues = [queue.name for queue in tasks.queues] if tasks else []
            events = worker.sends_task_events(consumer)
            return {"fleet": {**drainer.look().as_dict(), "queues": queues, "task_events": events}}

    app.steps["consumer"].add(Drain)
    register(drainer)
    return drainer


def register(drainer: Drainer) -> None:
    """Add the commands of remote control; ``shutdown`` takes the place of Celery's."""

    def fleet_pause(state: Any, seconds: Any = None, **_: Any) -> dict[str, Any]:
        """Take no tasks for some seconds, and hand back those that have not begun."""
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
        """Take tasks again after fleet_pause."""
        return drainer.resume().as_dict()

    def shutdown(state: Any, msg: str = "Got shutdown from remote", **_: Any) -> None:
        """Hand back what has not begun, let running tasks end, then leave."""
        logger.warning("%s", msg)
        if not drainer.can_drain:
            raise WorkerShutdown(0)
        drainer.drain()

    Panel.register(name="fleet_pause", args=[("seconds", float)], signature="<seconds>")(
        fleet_pause
    )
    Panel.register(name="fleet_resume")(fleet_resume)
    Panel.register(name="shutdown")(shutdown)
