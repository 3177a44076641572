"""What a task sends reaches the broker, however long the broker is away.

A retry, the next step of a chain, a callback or a chord's body is sent while its task runs. Celery gives up when the
broker stays away: after 4 s in a process that has no connection yet, after some 30 s in one that has. It then
acknowledges the task, and what was to follow is lost. Here the task waits instead, and so does the result of a chord's
member for the result store, which counts them. It stays unacknowledged, so a worker
that dies or is stopped meanwhile leaves its message to the hand-back or the lease.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from redis import exceptions as redis_errors

from celery_fleet import _celery57 as adapter
from celery_fleet.delivery import _outage57 as internals
from celery_fleet.delivery.breaker import BrokerAwayError, text_of
from celery_fleet.delivery.options import AT_LEAST_ONCE, Options

logger = logging.getLogger("celery_fleet.delivery")

Answer = TypeVar("Answer")

#: Seconds before the second attempt, and the longest pause between two attempts.
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 2.0

_AWAY = (
    BrokerAwayError,
    OSError,
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.OutOfMemoryError,
    redis_errors.ReadOnlyError,
)

#: Connection errors by which Redis refuses us for good.
_REFUSED = (redis_errors.AuthenticationError, redis_errors.AuthorizationError)

#: How error replies begin that Redis soon gives no more; redis-py has no class for them.
_SOON = ("BUSY ", "MASTERDOWN ", "TRYAGAIN ", "MISCONF ", "NOREPLICAS ")


def is_away(exc: BaseException | None) -> bool:
    """Return whether an error means that the broker can't take a message now, but will.

    A refusal, such as a missing right, is none of these: it would stay the same however long a task waits.
    """
    while exc is not None:
        if isinstance(exc, _REFUSED):
            return False
        if isinstance(exc, _AWAY):
            return True
        if isinstance(exc, redis_errors.ResponseError) and str(exc).startswith(_SOON):
            return True
        exc = exc.__cause__
    return False


def patiently(
    attempt: Callable[[], Answer], what: str, again: Callable[[], object] = lambda: None
) -> Answer:
    """Return what an attempt returns, made again and again while it fails because Redis is away.

    Args:
        attempt: Does it.
        what: What the running task waits for, for the log.
        again: Called before each further attempt.

    Raises:
        Exception: The attempt failed for another reason.
    """
    began = time.monotonic()
    pause = 0.0
    while True:
        try:
            answer = attempt()
        except Exception as exc:
            if not is_away(exc):
                raise
            if not pause:
                logger.warning("task %s waits for %s: %s", _name(), what, text_of(exc))
        else:
            if pause:
                logger.info("task %s waited %.1f s for %s", _name(), time.monotonic() - began, what)
            return answer
        pause = min(2 * pause, LONGEST_PAUSE) or FIRST_PAUSE
        time.sleep(pause)
        again()


def _name() -> str:
    task = adapter.running_task()
    return f"{task.name}[{task.request.id}]"


class PatientProducer:
    """A kombu Producer that publishes a task again and again until the broker has it."""

    def __init__(self, producer: Any, task: str) -> None:
        self._producer = producer
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(
        self, *args: Any, retry: bool = True, retry_policy: Any = None, **options: Any
    ) -> Any:
        """Publish as kombu does; ``retry`` is always on.

        Raises:
            kombu.exceptions.OperationalError: The broker refuses the message.
        """
        # One reconnect for each attempt: the pauses are ours, and kombu's own would take minutes if the broker hangs.
        policy = {**(retry_policy or {}), "max_retries": 1}
        return patiently(
            lambda: self._producer.publish(*args, retry=True, retry_policy=policy, **options),
            f"the broker, to send {self._task}",
            lambda: self._producer.revive(self._producer.connection),
        )


def install(app: Any, options: Options) -> None:
    """Have the tasks of an ``at_least_once`` worker wait for Redis when something is to follow them."""
    if options.profile == AT_LEAST_ONCE:
        adapter.wrap_sender(app, _patient_sender)
        internals.each_backend(app, _patient_backend)


def _patient_sender(send: Callable[..., Any]) -> Callable[..., Any]:
    def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
        # An application that asks for a single attempt wants to be told.
        if adapter.running_task() is not None and options.get("retry") is not False:
            producer = PatientProducer(producer, name)
        return send(producer, name, message, **options)

    return send_task_message


def _patient_backend(backend: Any) -> Any:
    """Have the result of a chord's member wait for the result store: the chord's body depends on it."""

    def patient(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        task = adapter.running_task()
        if task is None or not task.request.chord:
            return call(*args, **kwargs)
        return patiently(lambda: call(*args, **kwargs), "the result store, for its chord")

    for name in ("store_result", "on_chord_part_return"):
        setattr(backend, name, partial(patient, getattr(backend, name)))
    return backend
