# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Inspect and control the tasks that a worker has fetched but not finished.

It runs in a worker's process, for its drain and its outage guard, and may change Celery's pool, consumer and channel
there. The private attributes are in celery/worker/ and celery/concurrency/asynpool.py.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty
from typing import Any

from celery.worker import state as worker_state
from kombu.transport.redis import Channel
from kombu.utils.eventio import READ

from celery_fleet.compat.minors import chosen as minors
from celery_fleet.compat.pools import PoolIntake, intake_of

logger = logging.getLogger("celery_fleet.worker")

#: Tokens per second of the bucket of a task that has no rate limit any more.
UNLIMITED = 1e9

#: Seconds by which the clock must have changed before the waits of tasks are corrected.
CLOCK_STEP = 2.0


@dataclass(frozen=True)
class Load:
    """The work that a worker still has."""

    #: Tasks that the pool has: they run or are about to.
    running: int
    #: Messages that the broker still counts as held by this worker.
    unacked: int
    #: The worker has asked for messages, and the answer may bring one.
    polling: bool

    @property
    def busy(self) -> bool:
        """Return whether any work is left."""
        return bool(self.running or self.unacked or self.polling)


def pool_intake(consumer: Any) -> PoolIntake:
    """Return the intake of a worker's pool."""
    return intake_of(consumer.pool, getattr(consumer, "hub", None))


def shut(pool: Any) -> None:
    """Stop the pool from starting further tasks if possible; safe in a signal handler."""
    intake_of(pool).shut()


def drop_waiting(pool: Any) -> None:
    """Forget the tasks that the pool has not started, because their connection is lost."""
    intake_of(pool).drop()


def listen(consumer: Any, fd: int, heard: Callable[[int], object], known: bool) -> None:
    """Call ``heard`` with ``fd`` whenever it is readable, on the event loop or in a greenlet.

    The event loop forgets ``fd`` when the connection is lost; ``known`` says that an earlier call registered it.
    """
    if consumer.hub is not None:
        consumer.hub.add_reader(fd, heard, fd)
        return
    if known:
        return

    def wait() -> None:
        while True:
            select.select([fd], [], [])  # patched by gevent, so other greenlets run
            heard(fd)

    consumer.pool.spawn_n(wait)


def repeat(timer: Any, seconds: float, call: Callable[[], object]) -> Callable[[], None]:
    """Call a function repeatedly, every `seconds` seconds; return a function that stops this."""
    scheduled = timer.call_repeatedly(seconds, call)
    # With greenlets, ``scheduled`` is only the greenlet of the first call, not of later ones
    # (kombu/asynchronous/timer.py, celery/concurrency/gevent.py).
    entry = getattr(scheduled, "entry", scheduled)

    def end() -> None:
        entry.cancel()

    return end


def follow_clock(consumer: Any) -> Callable[[], None]:
    """Return a function to call often: if the clock was set, tasks with an ETA wait for their time on the new clock.

    When a task arrives, the timer converts its ETA to the monotonic clock (kombu/asynchronous/timer.py). That clock
    does not change when the time is set, and stands still while the machine is suspended.
    """
    timer, before = consumer.timer, time.time() - time.monotonic()

    def look() -> None:
        nonlocal before
        now = time.time() - time.monotonic()
        if abs(now - before) < CLOCK_STEP:
            return
        found = minors.celery.waiting_requests(timer)
        logger.warning(
            "the clock was set, or the machine was suspended (%+.0f s): %d tasks with an ETA wait by the new time",
            *(now - before, len(found)),
        )
        before = now
        for waiting, request in found:
            fun, args = waiting.entry.fun, waiting.entry.args
            minors.celery.cancel(timer, waiting)
            request._eta_timer_entry = timer.call_at(request.eta, fun, args, priority=6)

    return look


def stop_taking(consumer: Any, arrived: Callable[[Any], object]) -> Callable[[], None]:
    """Fetch no further messages; a message that a pending poll still brings goes to ``arrived``.

    Don't cancel the consumer instead: kombu would put such a message at the wrong end of its queue, and forget which
    queues to consume later. Returns a function that undoes everything as long as the connection exists.
    """
    tasks = consumer.task_consumer
    channel = tasks.channel
    qos = channel.qos
    on_message, can_consume = tasks.on_message, vars(qos).get("can_consume")

    def read_at_close(**options: Any) -> Any:
        # Channel.close reads the last answer. If that failed, the channel would stay half closed,
        # and the worker would crash (kombu 5.7.0, celery's Consumer.start).
        try:
            return type(channel)._brpop_read(channel, **options)
        except channel.connection_errors as exc:
            raise Empty from exc

    channel._brpop_start = lambda timeout=None: None  # kombu's signature
    channel._brpop_read = read_at_close
    # kombu leaves an answer unread while the prefetch is full, which running tasks can cause. If no answer
    # is due, readable means that the server has closed the idle connection. Reading would report a lost
    # connection, and kombu would restore running tasks. Unread broadcasts would wake the loop over and over.
    qos.can_consume = lambda: bool(channel._in_poll or channel.active_fanout_queues)
    tasks.on_message = arrived

    def take_again() -> None:
        del channel._brpop_start, channel._brpop_read, qos.can_consume
        if can_consume is not None:  # worker_disable_prefetch sets its own function
            qos.can_consume = can_consume
        if tasks.on_message == arrived:  # the loop may have replaced it
            tasks.on_message = on_message

    return take_again


def keep_buckets(consumer: Any) -> None:
    """Have a changed rate limit also apply to the requests that wait in its token bucket.

    Celery replaces the buckets of all tasks for each change (Consumer.reset_rate_limits). The previous ones would live
    on in the timer with their requests, where neither `take_out` nor Celery itself finds them.
    """
    if "reset_rate_limits" in vars(consumer):
        return
    reset = consumer.reset_rate_limits

    def reset_rate_limits() -> None:
        before = {name: bucket for name, bucket in consumer.task_buckets.items() if bucket}
        reset()
        for name, bucket in before.items():
            made = consumer.task_buckets[name]
            bucket.expected_time()  # the tokens until now are those of the previous rate
            bucket.fill_rate = made.fill_rate if made else UNLIMITED
            consumer.task_buckets[name] = bucket
            if bucket.contents:
                # Not at once: with greenlets, this would wait for a slot of the pool.
                consumer.timer.call_after(0, consumer._schedule_bucket_request, (bucket,))

    consumer.reset_rate_limits = reset_rate_limits


def take_out(consumer: Any) -> list[Any]:
    """Remove all tasks that have not started from Celery; return their messages, oldest first.

    Afterwards Celery neither runs nor restores them, and only the caller has them. Call this only in the event
    loop's own thread or in a greenlet. It never switches to another greenlet.
    """
    requests = pool_intake(consumer).take()
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
        # Messages of an earlier connection were put back when that connection was lost.
        if not request.acknowledged and tag in taken and tag not in qos._dirty:
            messages[tag] = request.message
        request.acknowledged = True
    # Messages that our consumer holds because this worker can't run them (delivery/dead_letters/parking.py).
    for message in getattr(consumer, "take_held", list)():
        if message.delivery_tag in taken:
            messages[message.delivery_tag] = message
    for message in messages.values():
        disown(consumer, message)
    return sorted(messages.values(), key=lambda message: taken[message.delivery_tag])


def disown(consumer: Any, message: Any) -> None:
    """Make kombu forget a message, so that it does not restore the message when the connection closes."""
    consumer.task_consumer.channel.qos._quick_ack(message.delivery_tag)
    message._state = "REQUEUED"


def at_work(pool: Any) -> int:
    """Return the number of tasks that the pool has: they run or are about to."""
    return max(intake_of(pool).at_work(), len(worker_state.reserved_requests))


def load(consumer: Any) -> Load:
    """Return the work that the worker still has; for transports other than Redis, only running tasks."""
    running = at_work(consumer.pool)
    channel = getattr(consumer.task_consumer, "channel", None)
    if not isinstance(channel, Channel):
        return Load(running, 0, polling=False)
    unacked = set(channel.qos._delivered) - channel.qos._dirty
    return Load(running, len(unacked), polling=bool(channel._in_poll))


class LoopWaker:
    """Wakes the loop of a gevent worker (celery/worker/loops.py, synloop) while it waits for the broker.

    The loop waits two seconds at a time inside kombu's poller, and checks only in between whether it should stop.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._told = False

    def connect(self, consumer: Any) -> None:
        """Enable this object to end the waits of a new connection."""
        cycle = consumer.task_consumer.channel.connection.cycle
        cycle.poller.register(self._reader, READ)

        def end_it() -> None:
            if self._told:
                self._told = False
                os.read(self._reader, 16)
                raise TimeoutError  # as if the wait had timed out; synloop then starts its next round

        minors.kombu.before_each_wait(cycle, end_it)

    def __call__(self) -> None:
        """Wake the loop; may be called in any greenlet."""
        if not self._told:
            self._told = True
            os.write(self._writer, b"!")
