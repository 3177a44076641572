# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""What a worker has fetched and not finished (celery/worker/, celery/concurrency/asynpool.py)."""

from __future__ import annotations

import select
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty
from typing import Any

from celery.worker import state as worker_state
from kombu.transport.redis import Channel

from celery_fleet.compat.minors import chosen as minors
from celery_fleet.compat.pools import Door, door_of


@dataclass(frozen=True)
class Load:
    """What a worker still has to do with tasks that it took."""

    #: Tasks that the pool has, so that they run or begin to.
    running: int
    #: Messages that the broker still counts as this worker's.
    unacked: int
    #: A question for messages is under way, whose answer may bring one.
    polling: bool

    @property
    def busy(self) -> bool:
        """Whether there is anything left."""
        return bool(self.running or self.unacked or self.polling)


def door(consumer: Any) -> Door:
    """What stands before the pool of such a worker."""
    return door_of(consumer.pool, getattr(consumer.controller, "semaphore", None))


def shut(pool: Any) -> None:
    """Let nothing begin from now on, as far as the pool can be held; safe in a signal's handler."""
    door_of(pool).shut()


def drop_waiting(pool: Any) -> None:
    """Forget what the pool has not begun: it belongs to a connection that is lost."""
    door_of(pool).drop()


def listen(consumer: Any, fd: int, heard: Callable[[int], object], known: bool) -> None:
    """Call ``heard`` with ``fd`` whenever that can be read, on the loop or in a greenlet.

    A loop forgets it with the connection; ``known`` says that it was asked for before.
    """
    if consumer.hub is not None:
        consumer.hub.add_reader(fd, heard, fd)
        return
    if known:
        return

    def wait() -> None:
        while True:
            select.select([fd], [], [])  # gives way to other greenlets, being patched
            heard(fd)

    consumer.pool.spawn_n(wait)


def repeat(timer: Any, seconds: float, call: Callable[[], object]) -> Callable[[], None]:
    """Call it every so many seconds; returns what ends that."""
    scheduled = timer.call_repeatedly(seconds, call)
    # Of greenlets' timers it is the greenlet of the first call alone, which the later ones are not
    # (kombu/asynchronous/timer.py, celery/concurrency/gevent.py).
    entry = getattr(scheduled, "entry", scheduled)

    def end() -> None:
        entry.cancel()

    return end


def stop_taking(consumer: Any, arrived: Callable[[Any], object]) -> Callable[[], None]:
    """Ask for no further message; what a question under way brings goes to ``arrived``.

    Cancelling the consumer would have kombu put such a message at the wrong end of its queue, and
    would forget which queues are to be consumed again. Returns what undoes it all, good for as long
    as the connection lasts.
    """
    tasks = consumer.task_consumer
    channel = tasks.channel
    qos = channel.qos
    on_message, can_consume = tasks.on_message, vars(qos).get("can_consume")

    def read_at_close(**options: Any) -> Any:
        # Channel.close reads the last answer. Where that fails it would leave the channel half
        # closed, and the worker would die of it (kombu 5.7.0, celery's Consumer.start).
        try:
            return type(channel)._brpop_read(channel, **options)
        except channel.connection_errors as exc:
            raise Empty from exc

    channel._brpop_start = lambda timeout=None: None  # kombu's signature
    channel._brpop_read = read_at_close
    # kombu leaves an answer unread while the prefetch is full, as running tasks can make it. Where no
    # answer is due, the server has closed the idle connection: read, that would be a lost one, and what
    # runs would be restored. Unread broadcasts would wake the loop over and over.
    qos.can_consume = lambda: bool(channel._in_poll or channel.active_fanout_queues)
    tasks.on_message = arrived

    def take_again() -> None:
        del channel._brpop_start, channel._brpop_read, qos.can_consume
        if can_consume is not None:  # worker_disable_prefetch sets its own
            qos.can_consume = can_consume
        if tasks.on_message == arrived:  # not yet set by the loop otherwise
            tasks.on_message = on_message

    return take_again


def take_out(consumer: Any) -> list[Any]:
    """Take all tasks that have not begun out of Celery's hands; their messages, oldest first.

    From then on nobody but the caller has them: Celery neither runs nor restores them. Only for the
    loop's own thread, or a greenlet: nothing here gives way to another one.
    """
    requests = door(consumer).take()
    limited: set[Any] = set()
    for bucket in filter(None, consumer.task_buckets.values()):
        limited.update(request for request, _ in bucket.contents)
        bucket.clear_pending()
    for request in minors.celery.take_scheduled(consumer, limited):
        if request not in limited:  # an ETA raises the prefetch until its time has come
            consumer.qos.decrement_eventually()
        requests.append(request)
    requests += limited

    qos = consumer.task_consumer.channel.qos
    taken = {tag: number for number, tag in enumerate(qos._delivered)}
    messages: dict[Any, Any] = {}
    for request in requests:
        worker_state.task_ready(request)
        tag = request.message.delivery_tag
        # What came by an earlier connection was put back when that was lost.
        if not request.acknowledged and tag in taken and tag not in qos._dirty:
            messages[tag] = request.message
        request.acknowledged = True
    # What a consumer of ours keeps though it can't be run here (delivery/dead_letters/parking.py).
    for message in getattr(consumer, "take_held", list)():
        if message.delivery_tag in taken:
            messages[message.delivery_tag] = message
    for message in messages.values():
        disown(consumer, message)
    return sorted(messages.values(), key=lambda message: taken[message.delivery_tag])


def disown(consumer: Any, message: Any) -> None:
    """Have kombu forget a message, so that it is not restored when the connection goes."""
    consumer.task_consumer.channel.qos._quick_ack(message.delivery_tag)
    message._state = "REQUEUED"


def at_work(pool: Any) -> int:
    """Tasks that the pool has, so that they run or begin to."""
    jobs = getattr(getattr(pool, "_pool", None), "_cache", ())
    return max(len(jobs), len(worker_state.reserved_requests))


def load(consumer: Any) -> Load:
    """What the worker still has to do; with another transport than Redis only what runs."""
    running = at_work(consumer.pool)
    channel = getattr(consumer.task_consumer, "channel", None)
    if not isinstance(channel, Channel):
        return Load(running, 0, polling=False)
    unacked = set(channel.qos._delivered) - channel.qos._dirty
    return Load(running, len(unacked), polling=bool(channel._in_poll))
