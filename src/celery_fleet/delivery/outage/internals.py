# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""What the outage guard reads of Celery 5.7 and kombu 5.7, beside :mod:`celery_fleet.compat.worker`.

Checked in the sources of celery 5.7.0 and kombu 5.7.0; each function names the place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from types import GeneratorType
from typing import Any, TypeVar

from celery import bootsteps
from celery.worker import state as worker_state

from celery_fleet.compat.minors import chosen as minors

logger = logging.getLogger("celery_fleet.delivery")

T = TypeVar("T")


def snapshot(items: Collection[T]) -> list[T]:
    """Return the items of a set that another thread may change in the meantime."""
    while True:
        try:
            return list(items)
        except RuntimeError:  # it changed while it was read
            continue


# --- what runs, and what is held (celery/worker/state.py, kombu/transport/virtual/base.py) ---


def running() -> list[Any]:
    """Return the requests that a pool has and that are not acknowledged. For any thread."""
    requests = {
        id(request): request
        for some in (worker_state.active_requests, worker_state.reserved_requests)
        for request in snapshot(some)
    }
    return [request for request in requests.values() if not request.acknowledged]


def held(channel: Any) -> set[str]:
    """Return the tags of the messages that a channel has delivered and that are not acknowledged. For any thread."""
    qos = getattr(channel, "_qos", None)
    if qos is None:
        return set()
    return set(snapshot(qos._delivered)) - set(snapshot(qos._dirty))


def acknowledge_now(hub: Any) -> None:
    """Run the acknowledgements that wait for the loop's next turn."""
    minors.celery.acknowledge_now(hub)


def adopt(channel: Any, message: Any) -> None:
    """Have a message of an earlier connection be acknowledged on this one."""
    message.channel = channel
    qos = channel.qos
    qos._dirty.discard(message.delivery_tag)
    qos._delivered[message.delivery_tag] = message


# --- the connection that is lost ---


def forget_farewells(consumer: Any) -> None:
    """Keep Celery from taking leave on a connection that is gone.

    ConsumerStep (gossip) cancels its consumers through ``c.connection``, which is None by then. The AttributeError
    leaves its channel half closed, and the worker dies of that at its next stop (celery/bootsteps.py).
    """
    for step in consumer.steps:
        if isinstance(step, bootsteps.ConsumerStep):
            step.consumers = None


def abandon(connection: Any) -> None:
    """Close a kombu connection without asking its broker anything, whatever is on its way.

    Channel.close would read the answer that is due, delete the queues of remote control, and unsubscribe
    (kombu/transport/redis.py).
    """
    if connection is None:
        return
    established = getattr(connection, "_connection", None)
    for channel in list(getattr(established, "channels", None) or ()):
        try:
            channel._in_poll = False
            channel.auto_delete_queues.clear()
            channel._disconnect_pools()
            channel.close()
        except Exception as exc:  # noqa: BLE001  # it is gone all the same
            logger.debug("a lost channel could not be closed: %r", exc)
            channel.closed = True
    try:
        connection.close()
    except Exception as exc:  # noqa: BLE001  # whatever it is, the worker goes on
        logger.debug("a lost connection could not be closed: %r", exc)


# --- the loop (celery/worker/loops.py, kombu/asynchronous/hub.py, celery/concurrency/asynpool.py) ---


@contextmanager
def pool_only(consumer: Any) -> Iterator[Callable[[], object]]:
    """Have the hub serve the pool without a broker; yield a function that runs one turn of the loop.

    A stop of the worker leaves the hub as it is: the pool's results come through it until the end.
    """
    hub = consumer.hub
    before = minors.celery.timer_entries(hub.timer)
    hub.reset()
    consumer.controller.register_with_event_loop(hub)
    resume_writes(consumer)
    # At least two turns a second, and more if there is something to do.
    hub.call_repeatedly(0.5, lambda: None)
    ours = minors.celery.timer_entries(hub.timer) - before
    hub.propagate_errors = ()
    loop = hub.create_loop()

    def turn() -> None:
        nonlocal loop
        try:
            next(loop)
        except StopIteration:
            loop = hub.create_loop()
        except consumer.connection_errors as exc:
            logger.debug("in the loop without a broker: %r", exc)
            loop = hub.create_loop()

    try:
        yield turn
    except SystemExit:  # Celery's WorkerShutdown and WorkerTerminate
        raise
    except BaseException:
        _cancel(ours)
        raise
    else:
        hub.reset()
        _cancel(ours)
        minors.celery.connects_from_now(consumer)


def _cancel(entries: Iterable[Any]) -> None:
    for entry in entries:
        entry.cancel()


def keep_time_limits(consumer: Any) -> None:
    """Have the time limits of tasks outlive a lost connection."""
    minors.celery.keep_time_limits(consumer)


def resume_writes(consumer: Any) -> None:
    """Resume jobs that were being written to a child when the hub was reset.

    Celery's own way (``AsynPool.flush``) writes them out and forgets that they run.
    """
    pool = getattr(consumer.pool, "_pool", None)
    writers: Iterable[Any] = getattr(pool, "_active_writers", ())
    for job in list(getattr(pool, "_cache", {}).values()):
        made = getattr(job, "_writer", None)
        writer = made() if made is not None else None
        process = getattr(job, "_write_to", None)
        if isinstance(writer, GeneratorType) and writer in writers and process is not None:
            consumer.hub.add_writer(process.inqW_fd, writer)


def track_living_children(consumer: Any) -> None:
    """Keep the loop of a new connection from looking for children that have ended.

    A pool that takes no more tasks does not replace them. asynpool then fails for want of a file descriptor, which
    would end the worker (celery/concurrency/asynpool.py).
    """
    pool: Any = getattr(getattr(consumer, "pool", None), "_pool", None)
    track = getattr(pool, "_track_child_process", None)
    if track is None or "_track_child_process" in vars(pool):
        return

    def track_living(process: Any, hub: Any) -> None:
        if getattr(process, "_sentinel_poll", 0) is not None:
            track(process, hub)

    pool._track_child_process = track_living


def divert(dispatcher: Any, put: Callable[[Any], object]) -> None:
    """Send the events of a dispatcher to ``put`` as (event, routing key).

    All of them end in its ``_publish`` (celery/events/dispatcher.py).
    """
    dispatcher._publish = lambda event, producer, routing_key, **_: put((event, routing_key))


# --- the result store (celery/app/base.py) ---


def each_backend(app: Any, prepare: Callable[[Any], Any]) -> None:
    """Have ``prepare`` called with every result backend that the app makes or has made, one for each thread."""
    make = app._get_backend
    app._get_backend = lambda: prepare(make())
    if app._backend is not None:
        prepare(app._backend)
