# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Celery 5.7, and the form of the others: what of its private places is not the same in all minors.

Checked in the source of celery 5.7.0; each function names the place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.concurrency import prefork
from celery.worker import loops
from celery.worker import state as worker_state


def take_scheduled(consumer: Any, spare: set[Any]) -> list[Any]:
    """Take the requests that wait for their time out of the timer; ``spare`` are those that it no longer has.

    Celery holds them in a set of their own (celery/worker/state.py, celery/worker/strategy.py).
    """
    requests = list(worker_state.scheduled_requests)
    for request in requests:
        if request not in spare:
            consumer.timer.cancel(request._eta_timer_entry)
    return requests


def is_known(identifier: str, _consumer: Any) -> bool:
    """Whether the worker has a request of this id, waiting or running (celery/worker/state.py)."""
    return identifier in worker_state.requests


def worker_lost(request: Any, exc: BaseException) -> Any:
    """The error of a child that said that it exits, as of one that is lost (Request._worker_lost_info)."""
    return request._worker_lost_info(exc).exception


def retry_lost(_request: Any, _exc: BaseException, _exc_info: Any) -> bool:
    """Whether a task whose process died was retried: not yet, Celery does it (Request.on_failure)."""
    return False


def success_was_stored(request: Any) -> bool:
    """Whether the result store has the request's success (Request._success_was_stored)."""
    return bool(request._success_was_stored())


def safe_to_retry(backend: Any) -> Callable[[Exception], bool]:
    """What tells of an error whether a result may be stored again after it (celery/backends/redis.py)."""
    asked: Callable[[Exception], bool] = backend.exception_safe_to_retry
    return asked


def acknowledge_now(hub: Any) -> None:
    """Run the acknowledgements that wait for the loop's next turn (celery/concurrency/prefork.py)."""
    prefork._run_ready_callbacks(hub)


def timer_entries(timer: Any) -> set[Any]:
    """What a loop's timer has to do (celery/worker/loops.py)."""
    entries: set[Any] = loops._timer_entries(timer)
    return entries


def connects_from_now(consumer: Any) -> None:
    """Have timers that were set until now outlive the connection that is to come.

    Celery takes all since its blueprint started for that connection's, and cancels them with it: time limits
    of tasks that a child accepted meanwhile as well (celery/worker/consumer/consumer.py).
    """
    if consumer.timer_entries_registered is None:
        consumer.timer_entries_before_start = timer_entries(consumer.hub.timer)


def keep_time_limits(_consumer: Any) -> None:
    """Have the time limits of tasks outlive a connection that is lost: Celery keeps them."""
