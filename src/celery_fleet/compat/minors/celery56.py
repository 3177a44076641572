# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Differences of Celery 5.6 from 5.7, checked in the source of celery 5.6.3."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from billiard.common import human_status
from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery import beat, signals, states
from celery.backends.redis import RedisBackend
from celery.exceptions import Retry
from celery.worker import state as worker_state

from celery_fleet.compat.minors import celery57
from celery_fleet.compat.minors.celery57 import *  # noqa: F403  # everything that is not overridden below

logger = logging.getLogger("celery_fleet")

#: Names of the functions that acknowledge or reject a message in the event loop (kombu/message.py).
_ANSWERS = frozenset({"ack_log_error", "reject_log_error"})


def take_scheduled(consumer: Any, spare: set[Any]) -> list[Any]:
    """Take the requests with an ETA out of the timer, which is the only place that holds them."""
    timer = consumer.timer
    requests, timer.celery_fleet_cleared = getattr(timer, "celery_fleet_cleared", []), []
    for waiting, request in celery57.waiting_requests(timer):
        if request in spare:
            continue
        celery57.cancel(timer, waiting)
        requests.append(request)
    return requests


def scheduled(consumer: Any) -> int:
    """Return the number of requests that wait for their ETA, which only the timer holds."""
    return len(celery57.waiting_requests(consumer.timer))


def is_known(identifier: str, consumer: Any) -> bool:
    """Return whether the worker has a request with this id. Requests that wait for their ETA are only in the timer."""
    if identifier in worker_state.requests:
        return True
    return any(request.id == identifier for _, request in celery57.waiting_requests(consumer.timer))


def storable(exc: BaseException) -> BaseException:
    """Return an Exception of the same name for an error that is none, because Celery 5.6 only stores an Exception.

    It is stored in the same way as by Celery 5.7 (Backend.encode_result).
    """
    kind = type(exc)
    made: BaseException = type(kind.__name__, (Exception,), {"__module__": kind.__module__})(
        *exc.args
    )
    return made


def worker_lost(_request: Any, exc: BaseException) -> Any:
    """Return the error of a child that announced its exit. Celery creates none, but billiard announces it since 4.3."""
    status = type(exc).__name__
    if isinstance(exc, SystemExit):
        status = human_status(exc.code if isinstance(exc.code, int) else int(exc.code is not None))
    try:
        raise WorkerLostError(f"Worker exited prematurely: {status}.")
    except WorkerLostError:
        return ExceptionInfo().exception


def report_lost(exc_info: Any, lost: BaseException) -> None:
    """Have Celery treat the exit that a child announced as the loss of its process, as it does since 5.7."""
    exc_info.type, exc_info.exception = type(lost), lost


def success_was_stored(request: Any) -> bool:
    """Return whether the result store has the request's success, with one short query; Celery 5.6 does not ask."""
    backend = request.task.backend
    if request.ignore_result or backend.as_uri() == "rpc://":
        return False
    try:
        return bool(backend._get_task_meta_for(request.id)["status"] == states.SUCCESS)
    except Exception as exc:  # noqa: BLE001  # any error of the store's driver means that it did not confirm it
        logger.debug("the state of the result of %s is unknown: %r", request.id, exc)
        return False


def acknowledges_failed(task: Any, *, timeout: bool) -> bool:
    """Return the same as for 5.7; there is one setting for both."""
    return bool(task.acks_on_failure_or_timeout)


def retry_lost(request: Any, exc: BaseException, exc_info: Any) -> bool:
    """Retry a task after its process died, if ``task_retry_on_worker_lost`` is on; return whether this handled it.

    Celery supports the setting since 5.7. This does the same: if ``max_retries`` allows another retry, it sends the
    task again and acknowledges its message. If the task can't be sent, the message returns to its queue.

    Raises:
        Exception: The task was sent again and acknowledged, but its state could not be stored, or a handler failed.
    """
    task, context = request.task, request._context
    wanted = getattr(task, "retry_on_worker_lost", None)
    if wanted is None:
        wanted = task.app.conf.get("task_retry_on_worker_lost")
    spent = task.max_retries is not None and context.retries >= task.max_retries
    if not wanted or spent or success_was_stored(request):
        return False
    worker_state.task_ready(request)
    countdown = task.default_retry_delay
    again = {"countdown": countdown, "retries": context.retries + 1}
    try:
        task.signature_from_request(context, **again).apply_async()
    except Exception:
        logger.exception("task %s[%s] could not be sent again", request.task_name, request.id)
        if not task.acks_late or request.acknowledged:
            return False  # the message was already removed
        request.reject(requeue=True)
        return True
    if task.acks_late:  # before anything can fail: the task must not run twice
        request.acknowledge()
    if request.store_errors:
        task.backend.mark_as_retry(request.id, exc, exc_info.traceback, request=context)
    request.send_event("task-retried", exception=repr(exc), traceback=str(exc_info.traceback))
    reason = Retry(exc=exc, when=countdown)
    task.request_stack.push(context)
    try:
        task.on_retry(exc, request.id, request.args, request.kwargs, exc_info)
        signals.task_retry.send(sender=task, request=context, reason=reason, einfo=exc_info)
    finally:
        task.request_stack.pop()
    logger.info(
        "task %s[%s] is sent again, its process died: %s", request.task_name, request.id, reason
    )
    return True


def acknowledge_now(hub: Any) -> None:
    """Run the acknowledgements that wait for the loop's next turn, and only these (kombu/asynchronous/hub.py)."""
    for callback in hub._pop_ready():
        if getattr(getattr(callback, "fun", callback), "__name__", None) not in _ANSWERS:
            hub.call_soon(callback)
            continue
        try:
            callback()
        except Exception:
            logger.exception("an acknowledgement failed")


def timer_entries(timer: Any) -> set[Any]:
    """Return the entries of an event loop's timer (kombu/asynchronous/timer.py)."""
    return {scheduled.entry for scheduled in timer.queue}


def connects_from_now(_consumer: Any) -> None:
    """Do nothing: Celery does not tell a connection's timer entries from others."""


def keep_time_limits(consumer: Any) -> None:
    """Keep the time limits of running tasks when a connection is lost.

    Celery 5.6 then clears the whole timer (celery/worker/loops.py), and running tasks would lose their limits. It does
    so before it tells the consumer, so the requests that the timer held are noted for `take_scheduled`.
    """
    timer, pool = getattr(consumer.hub, "timer", None), getattr(consumer.pool, "_pool", None)
    if timer is None or "clear" in vars(timer):
        return

    def clear() -> None:
        held = [request for _, request in celery57.waiting_requests(timer)]
        timer.celery_fleet_cleared = getattr(timer, "celery_fleet_cleared", []) + held
        for entry in timer_entries(timer):
            if getattr(entry.fun, "__self__", None) is not pool or pool is None:
                entry.cancel()
                celery57.release(entry)

    timer.clear = clear


def forget_timers(consumer: Any) -> None:
    """Drop the requests with an ETA that nothing has taken when a connection was lost; kombu puts their messages back.

    With a pool of greenlets, Celery 5.6 would also run them.
    """
    take_scheduled(consumer, set())


def keep_chord(backend: Any, is_cut_off: Callable[[], bool]) -> None:
    """Keep a chord if the task that sent its body was cut off, because the task runs again and sends it then.

    Celery 5.6 deletes the chord after any attempt (RedisBackend.on_chord_part_return).
    """
    if not isinstance(backend, RedisBackend):
        return
    count = backend.on_chord_part_return

    def on_chord_part_return(*args: Any, **kwargs: Any) -> Any:
        client = backend.client
        if "pipeline" not in vars(client):
            client.pipeline = partial(pipeline, client.pipeline)
        return count(*args, **kwargs)

    def pipeline(create: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        made = create(*args, **kwargs)
        if is_cut_off():
            made.execute = list  # send nothing
        return made

    backend.on_chord_part_return = on_chord_part_return


def keep_ticking() -> None:
    """Have beat try an entry again later if its next run can't be calculated, as it does since 5.7 (celery/beat.py).

    In Celery 5.6 such an entry ends each tick, and no entry is sent.
    """

    def is_due(scheduler: Any, entry: Any) -> Any:
        try:
            return entry.is_due()
        except Exception:
            pause = scheduler.max_interval
            logger.exception(
                "beat: Cannot calculate the next run of %r, trying again in %s s", entry.name, pause
            )
        heap = scheduler._heap
        if heap and heap[0].entry is entry:
            # It would stay the first, and the others would wait for it.
            heapq.heapreplace(heap, heap[0]._replace(time=scheduler._when(entry, pause)))
            pause = max(0.0, heap[0].time - scheduler._when(entry, 0))
        return False, pause

    def populate_heap(scheduler: Any) -> None:
        heap = []
        # To read a schedule in a database may replace the scheduler's heap by an empty one.
        for entry in scheduler.schedule.values():
            due, left = scheduler.is_due(entry)
            heap.append(beat.event_t(scheduler._when(entry, 0 if due else left) or 0, 5, entry))
        heapq.heapify(heap)
        scheduler._heap = heap

    beat.Scheduler.is_due, beat.Scheduler.populate_heap = is_due, populate_heap
