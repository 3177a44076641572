# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Celery 5.6, where it is not as 5.7. Checked in the source of celery 5.6.3."""

from __future__ import annotations

import logging
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery import signals, states
from celery.exceptions import Retry
from celery.worker import state as worker_state
from celery.worker.request import Request

from celery_fleet.compat.minors.celery57 import *  # noqa: F403  # all that is not said otherwise below

logger = logging.getLogger("celery_fleet")

#: What a message's acknowledgement and rejection are called when they wait for the loop (kombu/message.py).
_ANSWERS = frozenset({"ack_log_error", "reject_log_error"})


def _waiting(timer: Any) -> list[tuple[Any, Any]]:
    """Entries of a timer that are about a request, with it; as ``inspect scheduled`` finds them."""
    found = []
    for waiting in list(timer.schedule.queue):
        entry = waiting.entry
        args = entry.args or ()
        if args and isinstance(args[0], Request) and not entry.canceled:
            found.append((entry, args[0]))
    return found


def take_scheduled(consumer: Any, spare: set[Any]) -> list[Any]:
    """Take the requests that wait for their time out of the timer, the only place where they are."""
    requests = []
    for entry, request in _waiting(consumer.timer):
        if request not in spare:
            entry.cancel()
            requests.append(request)
    return requests


def is_known(identifier: str, consumer: Any) -> bool:
    """Whether the worker has a request of this id: one that waits for its time is known to the timer alone."""
    if identifier in worker_state.requests:
        return True
    return any(request.id == identifier for _, request in _waiting(consumer.timer))


def worker_lost(_request: Any, exc: BaseException) -> Any:
    """The error of a child that said that it exits: Celery has none, billiard says so from 4.3 on."""
    try:
        raise WorkerLostError(f"Worker exited prematurely: {exc!r}.")
    except WorkerLostError:
        return ExceptionInfo().exception


def success_was_stored(request: Any) -> bool:
    """Whether the result store has the request's success; Celery does not ask. One short question."""
    backend = request.task.backend
    if request.ignore_result or backend.as_uri() == "rpc://":
        return False
    try:
        return bool(backend._get_task_meta_for(request.id)["status"] == states.SUCCESS)
    except Exception as exc:  # noqa: BLE001  # whatever the store's driver raises: it did not say so
        logger.debug("the result of %s is not known: %r", request.id, exc)
        return False


def retry_lost(request: Any, exc: BaseException, exc_info: Any) -> bool:
    """Retry a task whose process died, where ``task_retry_on_worker_lost`` wants it; whether that was seen to.

    Celery knows the setting from 5.7 on, where it has the effect that it has here: the task is sent again with one
    retry more, as long as its ``max_retries`` allow one, and its message is acknowledged. Where it can't be sent, the
    message goes back to its queue.
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
            return False  # there is no message any more
        request.reject(requeue=True)
        return True
    if request.store_errors:
        task.backend.mark_as_retry(request.id, exc, exc_info.traceback, request=context)
    if task.acks_late:
        request.acknowledge()
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
    """Run the acknowledgements that wait for the loop's next turn, and leave the rest (kombu/asynchronous/hub.py)."""
    for callback in hub._pop_ready():
        if getattr(getattr(callback, "fun", callback), "__name__", None) not in _ANSWERS:
            hub.call_soon(callback)
            continue
        try:
            callback()
        except Exception:
            logger.exception("an acknowledgement failed")


def timer_entries(timer: Any) -> set[Any]:
    """What a loop's timer has to do (kombu/asynchronous/timer.py)."""
    return {scheduled.entry for scheduled in timer.queue}


def connects_from_now(_consumer: Any) -> None:
    """Nothing: Celery does not tell a connection's timers from others."""


def keep_time_limits(consumer: Any) -> None:
    """Have the time limits of tasks outlive a connection that is lost.

    Celery 5.6 clears the whole timer then (celery/worker/loops.py), and tasks that run on would have none.
    """
    timer, pool = getattr(consumer.hub, "timer", None), getattr(consumer.pool, "_pool", None)
    if timer is None or "clear" in vars(timer):
        return

    def clear() -> None:
        for entry in timer_entries(timer):
            if getattr(entry.fun, "__self__", None) is not pool or pool is None:
                entry.cancel()

    timer.clear = clear
