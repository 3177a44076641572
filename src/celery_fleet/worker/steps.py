"""A worker's readiness, status and watchdog, as bootsteps of Celery's blueprints."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from celery import bootsteps, signals

from celery_fleet.common import errors
from celery_fleet.common.errors import FleetError
from celery_fleet.common.pauses import Pause
from celery_fleet.common.text import count
from celery_fleet.compat import forks, intake, remote_control
from celery_fleet.compat import queues as compat_queues
from celery_fleet.compat import worker as compat_worker
from celery_fleet.delivery.hooks import HOOKS
from celery_fleet.delivery.keys import direct_queue
from celery_fleet.delivery.lease import thread as lease_thread
from celery_fleet.delivery.options import Options
from celery_fleet.supervision import broker
from celery_fleet.supervision.notify import Notifier
from celery_fleet.supervision.watch import ProcessStatus, State, Watch
from celery_fleet.worker import drain, history, metrics, scaling, state_file
from celery_fleet.worker.drainer import DrainStatus, Mode
from celery_fleet.worker.unbegun import INTERVAL, UnbegunTasks

#: Seconds without a tick of the event loop after which it counts as blocked.
TICK_LIMIT = 5.0


class Pulse:
    """Records when the event loop last ran a timer, and whether Celery has reported the worker as ready."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.ready = False

    def beat(self) -> None:
        """Record that the loop runs."""
        self.last = time.monotonic()

    @property
    def age(self) -> float:
        """Return the seconds since the loop's last tick."""
        return time.monotonic() - self.last


def observe(
    view: compat_worker.WorkerView,
    ready: bool,
    tick_age: float,
    status: DrainStatus | None = None,
    paused: Mapping[str, Pause] = MappingProxyType({}),
    scaled: str = "",
) -> ProcessStatus:
    """Return what a view of the worker shows.

    Args:
        view: the worker's state.
        ready: Celery has reported that consuming has started.
        tick_age: seconds since the event loop last ran a timer.
        status: whether the fleet has paused the worker or drains it.
        paused: the queues that operators have paused.
        scaled: the size of the pool that an operator has set, in words.
    """
    status = status or DrainStatus()
    if view.draining or status.mode is Mode.DRAINING:
        return ProcessStatus(State.DRAINING, _drain_text(view, status))
    if not view.connected:
        state = State.WAITING if ready else State.STARTING
        return ProcessStatus(state, "connecting to the broker", view.restarts)
    if not ready:
        return ProcessStatus(State.STARTING, "preparing to consume", view.restarts)
    if view.solo and view.running:
        return ProcessStatus(State.WORKING, f"running {count(view.running, 'task')}")
    if tick_age > TICK_LIMIT:
        return ProcessStatus(State.STUCK, "stuck: the event loop does not run")
    if status.mode is Mode.PAUSED:
        return ProcessStatus(State.WORKING, f"paused by the fleet for {status.seconds:.0f} s more")
    if not view.queues:
        return ProcessStatus(State.WORKING, "consuming from no queue: all were cancelled")
    queues = ", ".join(queue for queue in view.queues if queue not in paused)
    parts = [queues and f"consuming {queues}", scaled, _paused_text(paused)]
    text = "; ".join(filter(None, parts))
    if view.full:
        return ProcessStatus(State.WORKING, f"{text}; full, {count(view.running, 'task')} running")
    if not queues:  # without a direct queue it polls nothing
        return ProcessStatus(State.WORKING, text)
    if view.poll_limit is not None and (view.poll_age is None or view.poll_age > view.poll_limit):
        return ProcessStatus(State.STUCK, "stuck: the worker does not poll its queues")
    return ProcessStatus(State.WORKING, text)


def _paused_text(paused: Mapping[str, Pause]) -> str:
    reasons = dict.fromkeys(pause.reason for pause in paused.values() if pause.reason)
    return f"paused {', '.join(sorted(paused))} {', '.join(reasons)}".strip() if paused else ""


def _drain_text(view: compat_worker.WorkerView, status: DrainStatus) -> str:
    parts = []
    # Without a connection the drainer does not count running tasks, but they continue.
    ours = status.mode is Mode.DRAINING
    running = status.running if ours and view.connected else view.running
    if running or (ours and not view.draining):
        parts.append(f"draining: {count(running, 'task')} running")
    else:
        parts.append("stopping")
    if ours:
        parts.append(f"{status.handed_back} handed back")
    if status.held:
        parts.append(f"{status.held} wait for the broker to take them back")
    return ", ".join(parts)


def own_queues(view: compat_worker.WorkerView, node: str) -> compat_worker.WorkerView:
    """Return the view without the node's direct queue, which only the canary uses."""
    shown = tuple(name for name in view.queues if name != direct_queue(node))
    return replace(view, queues=shown or view.queues)


def install(
    app: Any,
    notifier: Notifier,
    delivery: Options | None = None,
    metrics_file: str | None = None,
    history_size: int = 0,
) -> None:
    """Add the steps to the app's worker; call this before the worker builds its blueprints."""
    pulse = Pulse()
    unbegun = UnbegunTasks()
    remote_control.install()
    forks.install()
    drainer, pausing = drain.install(app)
    pool = scaling.install(app, drainer, lambda queue: queue in pausing.paused, os.environ)
    if delivery is not None:
        from celery_fleet.delivery.dead_letters import parking
        from celery_fleet.delivery.fetch import at_most_once

        parking.install(app, delivery)
        at_most_once.install(delivery)
        compat_worker.end_at_hangup()
        state_file.install()
    ended: Callable[[], Iterable[str]] = tuple  # tasks that wait for the broker to acknowledge them
    if delivery is not None and (delivery.carry or delivery.outage):
        from celery_fleet.delivery.outage import install as outage_install

        guard = outage_install.install(app, delivery, lambda: drainer.is_ending)
        if guard is not None and guard.carry is not None:
            ended = guard.carry.pending.tags
    if delivery is not None:
        from celery_fleet.delivery.outage import sending

        # After the outage guard, which limits the attempts to store a result.
        sending.install(app, delivery)
    if metrics_file is not None:
        told = history.install(app, history_size) if history_size else None
        metrics.install(
            app,
            metrics_file,
            lambda: drainer.is_ending,
            () if told is None else (told,),
            paused=lambda: pausing.paused,
            scaling=pool.counts,
        )
    verdict = lease_thread.install(app, delivery or Options(), done=ended)

    class Watchdog(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
        """Starts the watchdog's checks after the pool has forked and before the broker is connected."""

        name = "celery_fleet.Watchdog"
        requires = ("celery.worker.components:Pool",)

        def start(self, worker: Any) -> None:
            if not notifier.connected:
                return
            question = broker.question(app, results=True)

            def seen() -> ProcessStatus:
                view = own_queues(compat_worker.view_worker(worker), worker.hostname)
                scaled = "" if pool.ordered is None else pool.ordered.words
                return observe(view, pulse.ready, pulse.age, drainer.status, pausing.paused, scaled)

            watch = Watch(notifier, seen, question, verdict=verdict)
            # Not in this step's stop(): the worker then still waits for the pool, and a drain continues.
            signals.worker_shutdown.connect(
                lambda **_: watch.stop(), weak=False, dispatch_uid="celery_fleet.watch"
            )
            watch.start()

    class Ticker(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
        """Ticks on the event loop; a reconnect cancels the loop's timers, so each start creates a new one."""

        name = "celery_fleet.Ticker"
        requires = ("celery.worker.consumer.tasks:Tasks",)
        ends: tuple[Callable[[], None], ...] = ()

        def start(self, consumer: Any) -> None:
            pulse.beat()
            self.ends = (
                intake.repeat(consumer.timer, 1.0, pulse.beat),
                intake.repeat(consumer.timer, 1.0, intake.follow_clock(consumer)),
                intake.repeat(consumer.timer, INTERVAL, lambda: unbegun.look(consumer.pool)),
            )

        def stop(self, consumer: Any) -> None:
            ends, self.ends = self.ends, ()
            for end in ends:
                end()

    if delivery is not None:
        # This is the last moment at which an application changes its worker's queues.
        signals.celeryd_after_setup.connect(
            lambda **_: _refuse_fanout(app), weak=False, dispatch_uid="celery_fleet.fanout"
        )
        if delivery.atomic:
            _fetch_atomically_for_tasks_only(app)
    app.steps["worker"].add(Watchdog)
    app.steps["consumer"].add(Ticker)

    def ready(**_: Any) -> None:
        pulse.ready = True

    signals.worker_ready.connect(ready, weak=False, dispatch_uid="celery_fleet.ready")


def _refuse_fanout(app: Any) -> None:
    """End a worker that would consume a queue of a fanout exchange: Redis would refuse it, and Celery retry forever.

    Raises:
        SystemExit: with :data:`errors.EX_CONFIG`.
    """
    found = compat_queues.fanout_queues(app)
    if found:
        error = FleetError(
            f"this worker can't consume {', '.join(found)}: its exchange is of type fanout (kombu's Broadcast), and"
            " Redis neither keeps such messages nor lets the worker's user subscribe to them; remove it from the"
            " worker's queues (celery_worker_instances), and bind a queue for each worker to a topic exchange instead"
        )
        errors.refuse(error, os.environ)


def _fetch_atomically_for_tasks_only(app: Any) -> None:
    """Have only the consumer of the worker's tasks fetch atomically, not other consumers of its application."""

    class Ours(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
        """Tells the transport which channel is that of the tasks, before it consumes.

        The application may have steps with consumers on the worker's connection, which start before or after this one.
        """

        name = "celery_fleet.Ours"
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Any) -> None:
            ours, pid = consumer.task_consumer.channel, os.getpid()
            HOOKS.ours = lambda channel: channel is ours and os.getpid() == pid

    HOOKS.ours = lambda _: False
    app.steps["consumer"].add(Ours)
