# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Private attributes of Celery 5.7 that differ between minors; the modules of older minors override these functions.

Checked in the source of celery 5.7.0; each function names the file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.concurrency import prefork
from celery.worker import loops
from celery.worker import state as worker_state
from celery.worker.request import Request
from kombu.asynchronous.timer import Entry


def take_scheduled(consumer: Any, spare: set[Any]) -> list[Any]:
    """Take the requests with an ETA out of the timer; ``spare`` are those that it no longer holds.

    Celery keeps them in a set (celery/worker/state.py, celery/worker/strategy.py).
    """
    requests = list(worker_state.scheduled_requests)
    for request in requests:
        if request not in spare:
            consumer.timer.cancel(request._eta_timer_entry)
            release(request._eta_timer_entry)
    return requests


def waiting_requests(timer: Any) -> list[tuple[Any, Any]]:
    """Return what waits in the timer with a request, each with its request, as ``inspect scheduled`` did before 5.7."""
    found = []
    for waiting in list(timer.schedule.queue):
        args = waiting.entry.args or ()
        if not args or not isinstance(args[0], Request) or waiting.entry.canceled:
            continue
        # A greenlet stays in the timer while its entry waits for a slot of the pool, and for a moment after its end.
        if getattr(waiting, "gr_frame", None) is None and not getattr(waiting, "dead", False):
            found.append((waiting, args[0]))
    return found


def cancel(timer: Any, waiting: Any) -> None:
    """Cancel what waits in the timer with a request."""
    waiting.entry.cancel()
    # gevent's timer runs the entry in a greenlet, which does not look whether the entry is cancelled.
    if hasattr(waiting, "cancel"):
        timer.cancel(waiting)
    release(waiting.entry)


def release(entry: Any) -> None:
    """Release what a cancelled timer entry refers to, because kombu's timer keeps the entry until its time.

    gevent's timer has greenlets instead, which are killed (kombu/asynchronous/timer.py, celery/concurrency/gevent.py).
    """
    if isinstance(entry, Entry):
        entry.fun, entry.args, entry.kwargs = _do_nothing, (), {}


def _do_nothing() -> None:
    """Do nothing, in the place of a cancelled call."""


def scheduled(_consumer: Any) -> int:
    """Return the number of requests that wait for their ETA (celery/worker/state.py)."""
    return len(worker_state.scheduled_requests)


def is_known(identifier: str, _consumer: Any) -> bool:
    """Return whether the worker has a request of this id, waiting or running (celery/worker/state.py)."""
    return identifier in worker_state.requests


def storable(exc: BaseException) -> BaseException:
    """Return the error to store for one that is not an Exception: itself (Backend.encode_result)."""
    return exc


def worker_lost(request: Any, exc: BaseException) -> Any:
    """Return the error of a child that announced its exit, like that of a lost one (Request._worker_lost_info)."""
    return request._worker_lost_info(exc).exception


def report_lost(_exc_info: Any, _lost: BaseException) -> None:
    """Do nothing: Celery itself treats the exit that a child announced as a loss (Request.on_failure)."""


def retry_lost(_request: Any, _exc: BaseException, _exc_info: Any) -> bool:
    """Return whether this retried a task after its process died: never, because Celery does (Request.on_failure)."""
    return False


def acknowledges_failed(task: Any, *, timeout: bool) -> bool:
    """Return whether a task with late acknowledgement is acknowledged if it fails, or reaches its hard time limit."""
    return bool(task.acks_on_timeout if timeout else task.acks_on_failure)


def success_was_stored(request: Any) -> bool:
    """Return whether the result store has the request's success (Request._success_was_stored)."""
    return bool(request._success_was_stored())


def safe_to_retry(backend: Any) -> Callable[[Exception], bool]:
    """Return a function that says, for an error, whether to try again to store a result (celery/backends/redis.py)."""
    asked: Callable[[Exception], bool] = backend.exception_safe_to_retry
    return asked


def acknowledge_now(hub: Any) -> None:
    """Run the acknowledgements that wait for the loop's next turn (celery/concurrency/prefork.py)."""
    prefork._run_ready_callbacks(hub)


def timer_entries(timer: Any) -> set[Any]:
    """Return the entries of an event loop's timer (celery/worker/loops.py)."""
    entries: set[Any] = loops._timer_entries(timer)
    return entries


def connects_from_now(consumer: Any) -> None:
    """Keep the current timer entries when the next connection is lost.

    Celery assigns all entries since the start of its blueprint to that connection, and cancels them with it. They
    include time limits of tasks that a child accepted in between (celery/worker/consumer/consumer.py).
    """
    if consumer.timer_entries_registered is None:
        consumer.timer_entries_before_start = timer_entries(consumer.hub.timer)


def keep_time_limits(_consumer: Any) -> None:
    """Do nothing: Celery keeps the time limits of tasks when a connection is lost."""


def forget_timers(_consumer: Any) -> None:
    """Do nothing: Celery itself cancels the timer entries of a lost connection (celery/worker/loops.py)."""


def keep_chord(_backend: Any, _is_cut_off: Callable[[], bool]) -> None:
    """Do nothing: a script ends a chord (celery/backends/redis.py), and the delivery replaces it."""


def keep_ticking() -> None:
    """Do nothing: one entry whose next run can't be calculated does not stop beat (Scheduler._is_due_failed)."""


def raise_from_tracer(_kind: type[Exception]) -> None:
    """Do nothing: Celery's tracer raises each ``Reject`` (celery/app/trace.py)."""
