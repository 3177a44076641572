# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""A worker's state outside of its loop, whether it can drain, and how to stop it (celery/worker/)."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Any

from celery import bootsteps, platforms
from celery.apps import worker as program
from celery.worker import state as worker_state
from kombu.transport.redis import Channel

from celery_fleet.compat.pools import GREENLETS, kind_of
from celery_fleet.compat.tasks import running_tasks


@dataclass(frozen=True)
class WorkerView:
    """A worker's state as seen from outside its loop; ages are in seconds, None for "never"."""

    draining: bool
    connected: bool
    solo: bool
    running: int
    queues: tuple[str, ...]
    full: bool
    # None if the transport is not kombu's Redis: then there is no poll to look at.
    poll_age: float | None
    poll_limit: float | None
    # How often the consumer has started again; it grows while Celery tries to reconnect and fails.
    restarts: int = 0


def draining(worker: Any) -> bool:
    """Return whether the worker is stopping because of a signal, remote control, or an error.

    A signal handler sets ``should_stop``. Remote control's shutdown and an "Unrecoverable error" do not:
    WorkController.stop stops its blueprint directly, which waits for the pool's tasks (celery/worker/worker.py,
    celery/bootsteps.py).
    """
    if told_to_stop():
        return True
    blueprint = getattr(worker, "blueprint", None)
    return blueprint is not None and blueprint.state in (bootsteps.CLOSE, bootsteps.TERMINATE)


def view_worker(worker: Any) -> WorkerView:
    """Return the worker's state. This only reads, because it does not run in the loop's thread."""
    consumer: Any = getattr(worker, "consumer", None)
    channel: Any = getattr(getattr(consumer, "task_consumer", None), "channel", None)
    connected = (
        consumer is not None
        and consumer.blueprint.state == bootsteps.RUN
        and bool(consumer.connection)
        and channel is not None
        and channel.connection is not None
        and not channel.closed
    )
    queues: tuple[str, ...] = ()
    full = False
    poll_age = poll_limit = None
    if connected:
        queues = tuple(queue.name for queue in consumer.task_consumer.queues)
        # Don't use the property, which creates a missing qos. Only the loop's own thread may do that.
        qos = channel._qos
        full = (qos is not None and not qos.can_consume()) or _waits_for_a_greenlet(worker.pool)
        if hasattr(channel, "_brpop_sent_at"):
            sent = channel._brpop_sent_at
            poll_age = None if sent is None else time.monotonic() - sent
            # kombu drops a poll itself after brpop_timeout + health_check_interval.
            poll_limit = (channel.brpop_timeout or 1) + 2 * (channel.health_check_interval or 25)
    return WorkerView(
        draining=draining(worker),
        connected=connected,
        # pool_cls is a class here, resolved by WorkController.setup_instance.
        solo=getattr(worker.pool_cls, "__module__", "") == "celery.concurrency.solo",
        running=running_tasks(),
        queues=queues,
        full=full,
        poll_age=poll_age,
        poll_limit=poll_limit,
        restarts=getattr(consumer, "restart_count", 0),
    )


def _waits_for_a_greenlet(pool: Any) -> bool:
    """Return whether the loop may wait for a free greenlet with a task that it has fetched, and so fetches none."""
    # Older versions of Celery have other meanings of `num_processes`.
    return bool(getattr(pool, "is_green", False)) and running_tasks() >= pool._pool.size


def sends_task_events(consumer: Any) -> bool:
    """Return whether the worker sends task events now; `enable_events` may have changed that.

    The state is in celery/worker/consumer/events.py.
    """
    dispatcher = consumer.event_dispatcher
    if dispatcher is None or not dispatcher.enabled:
        return False
    # Without groups it sends all events (celery/events/dispatcher.py).
    return not dispatcher.groups or "task" in dispatcher.groups


def why_not_redis(consumer: Any) -> str | None:
    """Return why a worker can't be told anything by way of Redis; None if it can."""
    channel = getattr(consumer.task_consumer, "channel", None)
    return None if isinstance(channel, Channel) else "its broker is not Redis"


def why_not_paused(consumer: Any) -> str | None:
    """Return why a worker can't pause fetching tasks; None if it can."""
    if consumer.hub is None and kind_of(consumer.pool) != GREENLETS:
        return "its pool has no event loop"
    why_not = why_not_redis(consumer)
    if why_not is not None:
        return why_not
    if not consumer.task_consumer.channel.ack_emulation:
        return "ack_emulation is off"
    for queue in consumer.task_consumer.queues:
        if queue.no_ack:  # a fetched message is in no other place, so it can't be given back
            return f"its queue {queue.name} has no_ack"
    return None


def why_not_drained(consumer: Any) -> str | None:
    """Return why a worker stops as in stock Celery; None if it hands back tasks and drains."""
    if os.environ.get("REMAP_SIGTERM"):
        return "REMAP_SIGTERM gives SIGTERM another meaning"
    if kind_of(consumer.pool) is None:
        return "its pool is not prefork, threads, solo or gevent"
    return why_not_paused(consumer)


def told_to_stop() -> bool:
    """Return whether Celery's own warm or cold stop has been requested."""
    return any(
        told is not None and told is not False
        for told in (worker_state.should_stop, worker_state.should_terminate)
    )


def stop_worker() -> None:
    """End the loop by Celery's warm stop, with exit status 0."""
    worker_state.should_stop = 0


def end_at_hangup() -> None:
    """Have SIGHUP do what SIGTERM does in a worker of this process; call this before the worker starts.

    Celery would end the worker, and then start another one in the same process. That one could not report to systemd,
    which would kill it with its tasks.
    """
    program.install_worker_restart_handler = _handle_hangup


def _handle_hangup(_worker: Any) -> None:
    platforms.signals["SIGHUP"] = lambda *_: signal.raise_signal(signal.SIGTERM)
