# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Follow tasks as they begin and end, and what they send (celery/app/amqp.py, celery/_state.py)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery import signals
from celery._state import get_current_worker_task
from celery.worker import state as worker_state
from celery.worker.request import Request

logger = logging.getLogger("celery_fleet")


def run_first(signal: Any, receiver: Callable[..., Any], uid: Any) -> None:
    """Connect ``receiver`` before all others (celery/utils/dispatch/signal.py)."""
    signal.connect(receiver, weak=False, dispatch_uid=uid)
    with signal.lock:
        # A receiver's key is (dispatch_uid, id of its sender).
        mine = [item for item in signal.receivers if item[0][0] == uid]
        signal.receivers[:] = mine + [item for item in signal.receivers if item not in mine]
        signal.sender_receivers_cache.clear()


def running_tasks() -> int:
    """Tasks that the pool works on now."""
    return len(worker_state.active_requests)


def on_tasks(begun: Callable[[str], object], ended: Callable[[str], object]) -> Callable[[], None]:
    """Call one with a delivery's tag once a pool runs its task, the other once it is acknowledged or rejected.

    Tasks that are acknowledged before they run are passed over by the first one. What they raise is logged.
    Returns what undoes it. All pools call Request.on_accepted in the worker's own process
    (celery/worker/request.py); create_request_cls makes a subclass for each task.
    """
    names = ("on_accepted", "acknowledge", "reject")
    before = {name: getattr(Request, name) for name in names}

    def tell(called: Callable[[str], object], request: Any) -> None:
        try:
            called(request.message.delivery_tag)
        except Exception:  # a note less must not end the worker
            logger.exception("a task can't be noted for the hand-back")

    def on_accepted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.task.acks_late:
            tell(begun, self)
        return before["on_accepted"](self, *args, **kwargs)

    def acknowledge(self: Any) -> Any:
        result = before["acknowledge"](self)
        tell(ended, self)
        return result

    def reject(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = before["reject"](self, *args, **kwargs)
        tell(ended, self)
        return result

    for name, function in zip(names, (on_accepted, acknowledge, reject), strict=True):
        setattr(Request, name, function)

    def undo() -> None:
        for name, function in before.items():
            setattr(Request, name, function)

    return undo


def running_task() -> Any:
    """Return the task that the caller runs for the worker, None outside of one."""
    return get_current_worker_task()


def before_each_task(may_begin: Callable[[Any], bool]) -> None:
    """Have the worker that starts ask ``may_begin`` about each request, just before it gives it to its pool.

    A request that may not begin is dropped as a revoked one is (celery/worker/worker.py).
    """

    def wrap(sender: Any, **_: Any) -> None:
        process = sender._process_task

        def process_task(request: Any) -> None:
            if may_begin(request):
                process(request)
                return
            worker_state.task_ready(request)
            with suppress(AttributeError):  # only prefork has slots to give back
                sender._quick_release()

        sender._process_task = process_task

    signals.worker_init.connect(wrap, weak=False, dispatch_uid="celery_fleet.before_each_task")


def wrap_sender(app: Any, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace the function by which an app sends every task; Celery makes it when the first one is sent."""
    amqp = app.amqp
    create = amqp._create_task_sender
    amqp._create_task_sender = lambda: wrap(create())
    vars(amqp).pop("send_task_message", None)
