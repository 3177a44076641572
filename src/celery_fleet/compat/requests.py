"""Follow what becomes of a worker's tasks, whether or not it sends events (celery/worker/strategy.py, request.py).

A worker creates a subclass of Request for each task. It reports everything to `send_event`, which itself checks
whether events are on. Only a success is not reported if they are off.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import Ignore, Reject
from celery.utils.serialization import get_pickled_exception
from celery.worker import state as worker_state
from celery.worker import strategy
from celery.worker.request import Request

from celery_fleet.compat.minors import chosen as minors
from celery_fleet.compat.tasks import running_tasks, snapshot

logger = logging.getLogger("celery_fleet.metrics")

RECEIVED, STARTED, SUCCEEDED, FAILED = "received", "started", "succeeded", "failed"
RETRIED, REVOKED, REJECTED = "retried", "revoked", "rejected"
IGNORED = "ignored"

#: Celery's events of a request's end, at most one of which counts: a task that is terminated or reaches its hard time
#: limit is reported twice.
_ENDS = {
    "task-succeeded": SUCCEEDED,
    "task-failed": FAILED,
    "task-retried": RETRIED,
    "task-revoked": REVOKED,
}
_OTHERS = {"task-started": STARTED, "task-rejected": REJECTED}

#: Called with the request, what has happened to it, and a detail: the run time in seconds of a task that succeeded
#: (None if unknown), or the name of the exception of one that failed. May be called in any thread.
Seen = Callable[[Any, str, Any], object]


def follow(seen: Seen) -> bool:
    """Call ``seen`` for everything that happens to a request from now on; errors that it raises are logged once.

    Return whether this Celery has what that needs; if not, nothing is followed.
    """
    create = getattr(strategy, "create_request_cls", None)
    if create is None or not hasattr(Request, "send_event"):
        return False
    is_broken = False

    def tell(request: Any, what: str, detail: Any = None) -> None:
        nonlocal is_broken
        try:
            seen(request, what, detail)
        except Exception:  # a missing count must not harm a task
            # Don't keep the error: its traceback has the request.
            if not is_broken:
                is_broken = True
                logger.exception("tasks can't be counted")

    def create_followed(base: Any, *args: Any, **options: Any) -> Any:
        return _followed(create(base, *args, **options), tell)

    strategy.create_request_cls = create_followed
    return True


def _followed(base: Any, tell: Callable[..., None]) -> Any:
    class Followed(base):  # type: ignore[misc]  # a class of Celery
        celery_fleet_error: Any = None
        celery_fleet_ended = False

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            # Not by the signal task_received, which takes ten times as long.
            self.celery_fleet_received = time.time()
            tell(self, RECEIVED)

        def on_success(self, result: Any, **options: Any) -> Any:
            failed, _, runtime = result
            if not failed and not self.celery_fleet_ended:
                self.celery_fleet_ended = True
                tell(self, SUCCEEDED, runtime)
            return super().on_success(result, **options)

        def on_failure(self, exc_info: Any, *args: Any, **options: Any) -> Any:
            self.celery_fleet_error = exc_info
            # Celery reports nothing of a task that ends so, such as one that replaces itself.
            if isinstance(_error(exc_info), Ignore) and not self.celery_fleet_ended:
                self.celery_fleet_ended = True
                tell(self, IGNORED)
            return super().on_failure(exc_info, *args, **options)

        def send_event(self, event: str, **fields: Any) -> Any:
            end = _ENDS.get(event)
            if end is None:
                if event in _OTHERS:
                    tell(self, _OTHERS[event])
            elif not self.celery_fleet_ended:
                error = _error(self.celery_fleet_error) if end == FAILED else None
                # Celery 5.7 also reports a task that rejects its message as failed.
                if not isinstance(error, Reject):
                    self.celery_fleet_ended = True
                    detail = type_name(error) if end == FAILED else fields.get("runtime")
                    tell(self, end, detail)
            return super().send_event(event, **fields)

    return Followed


def _error(exc_info: Any) -> BaseException | None:
    exc = getattr(exc_info, "exception", None)
    return exc.exc if isinstance(exc, ExceptionWithTraceback) else exc


def type_name(error: BaseException | None) -> str:
    """Return the name of an error's class; an error that can't be pickled is in a wrapper with that name.

    Only a hard time limit has no error (Request.on_timeout), and SystemExit means a lost process (Request.on_failure).
    """
    if error is None:
        return "TimeLimitExceeded"
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        return "WorkerLostError"
    return type(get_pickled_exception(error)).__name__


@dataclass(frozen=True)
class Held:
    """The requests that a worker has: running, waiting for a process, and waiting for their ETA.

    ``overrun`` is the number of seconds for which the worst of those that run exceeds its hard time limit; 0 if none
    does.
    """

    active: int
    prefetched: int
    eta: int
    overrun: float


def waiting() -> set[Any]:
    """Return the requests that a worker has received and not started, without those that wait for their ETA."""
    return {*snapshot(worker_state.reserved_requests)} - {*snapshot(worker_state.active_requests)}


def held(worker: Any) -> Held:
    """Return a worker's requests; may be called in any thread (celery/worker/state.py)."""
    now = time.time()
    active = running_tasks()
    consumer = getattr(worker, "consumer", None)
    limit = getattr(worker, "time_limit", None)
    overruns = (_overrun(one, limit, now) for one in snapshot(worker_state.active_requests))
    return Held(
        active=active,
        prefetched=max(0, len(worker_state.reserved_requests) - active),
        eta=minors.celery.scheduled(consumer) if consumer is not None else 0,
        overrun=max(overruns, default=0.0),
    )


def _overrun(request: Any, of_pool: float | None, now: float) -> float:
    """Return the seconds for which a running request exceeds its hard time limit (Request.execute_using_pool)."""
    hard, _ = request.time_limits
    limit = hard or request.task.time_limit or of_pool
    ran = now - (request.time_start or now)
    # The message has the first of these limits, and its sender may have written anything there.
    return ran - limit if isinstance(limit, int | float) and 0 < limit < ran else 0.0
