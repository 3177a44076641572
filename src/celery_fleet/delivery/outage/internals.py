# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Private attributes of Celery 5.7 and kombu 5.7 that the outage guard uses.

They were checked in the sources of celery 5.7.0 and kombu 5.7.0; each function names the place.
:mod:`celery_fleet.compat.worker` has others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from types import GeneratorType
from typing import Any

from celery import bootsteps
from celery.worker import state as worker_state

from celery_fleet.compat.minors import chosen as minors
from celery_fleet.compat.tasks import snapshot

logger = logging.getLogger("celery_fleet.delivery")


# --- running tasks and held messages (celery/worker/state.py, kombu/transport/virtual/base.py) ---


def running() -> list[Any]:
    """Return the requests in a pool that are not acknowledged. Safe in any thread."""
    requests = {
        id(request): request
        for some in (worker_state.active_requests, worker_state.reserved_requests)
        for request in snapshot(some)
    }
    return [request for request in requests.values() if not request.acknowledged]


def held(channel: Any) -> set[str]:
    """Return the tags of messages that a channel has delivered and that are not acknowledged. Safe in any thread."""
    qos = getattr(channel, "_qos", None)
    if qos is None:
        return set()
    return set(snapshot(qos._delivered)) - set(snapshot(qos._dirty))


def adopt(channel: Any, message: Any) -> None:
    """Make a message of an earlier connection use this channel for its acknowledgement."""
    message.channel = channel
    qos = channel.qos
    qos._dirty.discard(message.delivery_tag)
    qos._delivered[message.delivery_tag] = message
    # A thread may have acknowledged it just now, and not have seen this channel yet.
    if message.acknowledged:
        qos._quick_ack(message.delivery_tag)


# --- the lost connection ---


def forget_farewells(consumer: Any) -> None:
    """Prevent Celery from cancelling consumers on a lost connection.

    ConsumerStep (gossip) cancels its consumers through ``c.connection``, which is None by then. The AttributeError
    leaves its channel half closed, and the worker crashes at its next stop (celery/bootsteps.py).
    """
    for step in consumer.steps:
        if isinstance(step, bootsteps.ConsumerStep):
            step.consumers = None


def abandon(connection: Any) -> None:
    """Close a kombu connection without sending anything to its broker, even if a reply is due.

    Channel.close would read the due reply, delete the queues of remote control, and unsubscribe
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
        except Exception as exc:  # noqa: BLE001  # the channel is lost in any case
            logger.debug("a lost channel could not be closed: %r", exc)
            channel.closed = True
    try:
        connection.close()
    except Exception as exc:  # noqa: BLE001  # the worker continues in any case
        logger.debug("a lost connection could not be closed: %r", exc)


# --- the loop (celery/worker/loops.py, kombu/asynchronous/hub.py, celery/concurrency/asynpool.py) ---


@contextmanager
def pool_only(consumer: Any) -> Iterator[Callable[[], object]]:
    """Let the hub serve the pool without a broker; yield a function that runs one turn of the loop.

    If the worker stops, the hub stays in this state, because it still delivers the pool's results.
    """
    hub = consumer.hub
    before = minors.celery.timer_entries(hub.timer)
    hub.reset()
    consumer.controller.register_with_event_loop(hub)
    resume_pipes(consumer)
    # Run at least two turns a second, and more if there are events.
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
            logger.debug("an error in the loop without a broker: %r", exc)
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


def resume_pipes(consumer: Any) -> None:
    """Resume jobs that were being written to a child, and results that were being read, when the hub was reset.

    Celery's own function (``AsynPool.flush``) writes jobs to the end, but forgets that they are running.
    """
    _resume_reads(consumer)
    pool = getattr(consumer.pool, "_pool", None)
    writers: Iterable[Any] = getattr(pool, "_active_writers", ())
    for job in list(getattr(pool, "_cache", {}).values()):
        made = getattr(job, "_writer", None)
        writer = made() if made is not None else None
        process = getattr(job, "_write_to", None)
        if isinstance(writer, GeneratorType) and writer in writers and process is not None:
            consumer.hub.add_writer(process.inqW_fd, writer)


def keep_partial_reads(consumer: Any) -> None:
    """Enable `resume_pipes` to continue results that were read in part when the hub was reset.

    Celery would begin a new message in the middle of such a result, and take its bytes for a length
    (celery/concurrency/asynpool.py, ResultHandler). The result would never arrive.
    """
    handler = _result_handler(consumer)
    receive = getattr(handler, "_recv_message", None)
    if receive is None or "_recv_message" in vars(handler):
        return
    #: The process and the generator that reads its result, by file descriptor.
    unfinished: dict[int, tuple[Any, Any]] = {}

    def followed(fd: int, process: Any, reader: Any) -> Iterator[Any]:
        try:
            yield from reader
        finally:
            if fd in unfinished and unfinished[fd][0] is process:
                del unfinished[fd]

    def receive_or_resume(add_reader: Any, fd: int, callback: Any) -> Any:
        process = handler.fileno_to_outq.get(fd)
        if fd not in unfinished or unfinished[fd][0] is not process:
            unfinished[fd] = (process, followed(fd, process, receive(add_reader, fd, callback)))
        return unfinished[fd][1]

    handler._recv_message = receive_or_resume
    handler.celery_fleet_unfinished = unfinished


def _resume_reads(consumer: Any) -> None:
    handler = _result_handler(consumer)
    for fd, (process, reader) in list(getattr(handler, "celery_fleet_unfinished", {}).items()):
        if handler.fileno_to_outq.get(fd) is process:
            consumer.hub.add_reader(fd, reader)


def _result_handler(consumer: Any) -> Any:
    return getattr(getattr(consumer.pool, "_pool", None), "_result_handler", None)


def track_living_children(consumer: Any) -> None:
    """Prevent the loop of a new connection from watching children that have ended.

    A pool that accepts no more tasks does not replace them. asynpool then fails because they have no file descriptor,
    which would end the worker (celery/concurrency/asynpool.py).
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
    """Pass the events of a dispatcher to ``put`` as (event, routing key).

    The dispatcher sends all of them with its ``_publish`` (celery/events/dispatcher.py). Before 5.7 it empties a list
    of events right after that, so the list is copied.
    """

    def publish(event: Any, producer: Any, routing_key: str, **_: Any) -> None:
        if event:
            put((copy(event), routing_key))

    dispatcher._publish = publish


# --- the result store (celery/app/base.py) ---


def each_backend(app: Any, prepare: Callable[[Any], Any]) -> None:
    """Call ``prepare`` with every result backend that the app has created or creates later, one for each thread."""
    make = app._get_backend
    app._get_backend = lambda: prepare(make())
    if app._backend is not None:
        prepare(app._backend)
