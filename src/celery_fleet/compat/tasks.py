# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Follow tasks as they start and end, and as they are sent (celery/app/amqp.py, celery/_state.py)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from celery import signals
from celery._state import get_current_worker_task
from celery.worker import state as worker_state
from celery.worker.request import Request

from celery_fleet.compat.pools import intake_of

logger = logging.getLogger("celery_fleet")

T = TypeVar("T")


def run_first(signal: Any, receiver: Callable[..., Any], uid: Any) -> None:
    """Connect ``receiver`` to run before all others (celery/utils/dispatch/signal.py)."""
    signal.connect(receiver, weak=False, dispatch_uid=uid)
    with signal.lock:
        # A receiver's key is (dispatch_uid, id of its sender).
        mine = [item for item in signal.receivers if item[0][0] == uid]
        signal.receivers[:] = mine + [item for item in signal.receivers if item not in mine]
        signal.sender_receivers_cache.clear()


def snapshot(items: Collection[T]) -> list[T]:
    """Return the items of a collection that another thread may change at the same time."""
    while True:
        try:
            return list(items)
        except RuntimeError:  # it changed while it was read
            continue


def running_tasks() -> int:
    """Return the number of tasks that the pool is running."""
    return len(worker_state.active_requests)


def on_tasks(begun: Callable[[str], object], ended: Callable[[str], object]) -> Callable[[], None]:
    """Call ``begun`` when a pool starts a task, and ``ended`` when the task is acknowledged or rejected.

    Both get the delivery tag; errors that they raise are logged. ``begun`` skips tasks that are acknowledged before
    they run. Returns a function that undoes this. All pools call Request.on_accepted in the worker's main process
    (celery/worker/request.py); create_request_cls makes a subclass for each task.
    """
    names = ("on_accepted", "acknowledge", "reject")
    before = {name: getattr(Request, name) for name in names}

    def tell(called: Callable[[str], object], request: Any) -> None:
        try:
            called(request.message.delivery_tag)
        except Exception:  # a missing record must not end the worker
            logger.exception("a task can't be recorded for the hand-back")

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
    """Return the task that the caller runs in a worker; None outside of a task."""
    return get_current_worker_task()


def before_each_task(may_begin: Callable[[Any], bool]) -> None:
    """Ask ``may_begin`` about each request just before a starting worker passes it to its pool.

    A request that may not begin is dropped like a revoked one (celery/worker/worker.py). If it is not acknowledged, our
    consumer holds its message and tries again (delivery/dead_letters/parking.py).
    """

    def wrap(sender: Any, **_: Any) -> None:
        process = sender._process_task

        def process_task(request: Any) -> None:
            if may_begin(request):
                process(request)
                return
            worker_state.task_ready(request)
            with suppress(AttributeError):  # only prefork has slots to release
                sender._quick_release()
            if not request.acknowledged:
                # What Celery calls for a task whose rate limit was reached.
                again = partial(sender.consumer._limit_move_to_pool, request)
                sender.consumer.hold(request.message, again)

        # Some pools would queue all that they get: acknowledged at once, that is the whole queue of the broker.
        sender._process_task = lambda request: intake_of(sender.pool, sender.hub).when_free(
            process_task, request
        )

    signals.worker_init.connect(wrap, weak=False, dispatch_uid="celery_fleet.before_each_task")


def wrap_sender(app: Any, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Wrap the function with which an app sends every task; Celery creates it when it sends the first one."""
    amqp = app.amqp
    create = amqp._create_task_sender
    amqp._create_task_sender = lambda: wrap(create())
    vars(amqp).pop("send_task_message", None)
