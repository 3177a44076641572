"""Have tasks wait until the broker has what they send, however long it is away.

A retry, the next step of a chain, a callback or a chord's body is sent while its task runs. Celery gives up if the
broker stays away: after 4 s in a process without a connection, after some 30 s in one that has one. Then it
acknowledges the task, and what was to follow is lost. Here the task waits instead, also for the result store if what
follows depends on it: a chord begins and counts there. The task stays unacknowledged. If its worker dies or is
stopped, the hand-back or the lease returns its message.
"""

from __future__ import annotations

import logging
import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from celery.exceptions import Reject, SoftTimeLimitExceeded
from celery.states import FAILURE
from redis import exceptions as redis_errors

from celery_fleet.common.errors import error_text
from celery_fleet.compat import tasks
from celery_fleet.delivery.options import AT_LEAST_ONCE, Options
from celery_fleet.delivery.outage import internals
from celery_fleet.delivery.outage.breaker import BrokerAwayError

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

#: Beginnings of error replies that Redis soon stops giving; redis-py has no classes for them.
_SOON = ("BUSY ", "MASTERDOWN ", "TRYAGAIN ", "MISCONF ", "NOREPLICAS ")

#: What sending calls in the result store: it begins a chord, and subscribes to results.
_AT_SENDING = ("set_chord_size", "apply_chord", "add_pending_result", "on_task_call")

#: A byte for each PID that Linux can give, 1 while the task of that process waits. The pool's children share it.
_WAITING = mmap.mmap(-1, 1 << 22)

#: Whether the process or greenlet was told to end while its task waited.
_CUT_OFF = ContextVar("celery_fleet_cut_off", default=False)

#: Renews the claim of the chord whose body is being sent.
_RENEW_CLAIM = ContextVar[Callable[[], object] | None]("celery_fleet_renew_claim", default=None)

#: Seconds for which a chord's claim outlives its process, and the longest that another attempt waits for it.
CLAIM = 15

#: The backend's method that is being retried.
_METHOD = ContextVar("celery_fleet_method", default="")


class PutBackError(Reject, SoftTimeLimitExceeded):  # type: ignore[misc]  # Celery ships no types
    """The soft time limit passed while the task waited: unless the task handles that, it runs again."""


def is_away(exc: BaseException | None) -> bool:
    """Return whether an error means that the broker can't take a message now, but will later.

    A refusal, such as a missing right, does not count: it would stay the same however long a task waits.
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
    """Make an attempt, again and again while it fails because Redis is away; return what it returns.

    Args:
        attempt: Makes the attempt.
        what: What the running task waits for, for the log.
        again: Called before each further attempt.

    Raises:
        PutBackError: The task's soft time limit has passed.
        Exception: The attempt failed for another reason.
    """
    began = time.monotonic()
    pause = 0.0
    task = tasks.running_task()
    name = f"{task.name}[{task.request.id}]"
    _CUT_OFF.set(False)
    with _noted():
        while True:
            try:
                if pause:
                    time.sleep(pause)
                    _renew_claim()
                    again()
                answer = attempt()
            except SoftTimeLimitExceeded as exc:
                # Celery would take it for a failure of the chord, although its member is done.
                if _METHOD.get() != "on_chord_part_return":
                    if task.acks_late:
                        raise PutBackError(exc, requeue=True) from exc
                    raise
            except Exception as exc:
                if not is_away(exc):
                    raise
                if not pause:
                    logger.warning("task %s waits for %s: %s", name, what, error_text(exc))
            except BaseException:
                _CUT_OFF.set(True)
                raise
            else:
                if pause:
                    logger.info(
                        "task %s waited %.1f s for %s", name, time.monotonic() - began, what
                    )
                return answer
            pause = min(2 * pause, LONGEST_PAUSE) or FIRST_PAUSE


@contextmanager
def _noted() -> Iterator[None]:
    """Note that this process's task waits."""
    pid = os.getpid()
    before, _WAITING[pid] = _WAITING[pid], 1
    try:
        yield
    finally:
        _WAITING[pid] = before


def was_waiting(pid: int) -> bool:
    """Return whether the task of a process that is about to be killed waits, and forget it."""
    before, _WAITING[pid] = _WAITING[pid], 0
    return bool(before)


def was_cut_off() -> bool:
    """Return whether the task of this greenlet was ended while it waited."""
    return _CUT_OFF.get()


class PatientProducer:
    """A kombu Producer that publishes a task again and again until the broker has it."""

    def __init__(self, producer: Any, task: str) -> None:
        self._producer = producer
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, *args: Any, **options: Any) -> Any:
        """Publish as kombu does, as often as needed.

        Raises:
            kombu.exceptions.OperationalError: The broker refuses the message.
        """
        # Without kombu's retry: if it reconnects to declare the queue, it publishes on the closed channel.
        options["retry"] = False
        return patiently(
            lambda: self._producer.publish(*args, **options),
            f"the broker, to send {self._task}",
            self._reconnect,
        )

    def _reconnect(self) -> None:
        connection = self._producer.connection
        connection.collect()
        self._producer.revive(connection)


def install(app: Any, options: Options) -> None:
    """Have the tasks of an ``at_least_once`` worker wait for Redis if something is to follow them."""
    if options.profile == AT_LEAST_ONCE:
        tasks.wrap_sender(app, _patient_sender)
        internals.each_backend(app, _patient_backend)


def _patient_sender(send: Callable[..., Any]) -> Callable[..., Any]:
    def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
        # An application that asks for a single attempt wants to hear of its failure.
        if tasks.running_task() is not None and options.get("retry") is not False:
            producer = PatientProducer(producer, name)
        return send(producer, name, message, **options)

    return send_task_message


def _patient_backend(backend: Any) -> Any:
    """Have those calls wait for the result store on which later tasks depend."""

    def patient(name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        task = tasks.running_task()
        if task is None or not _is_needed(name, task.request, args):
            return call(*args, **kwargs)
        token = _METHOD.set(_METHOD.get() or name)
        try:
            return patiently(lambda: call(*args, **kwargs), "the result store")
        finally:
            _METHOD.reset(token)

    may_retry = backend.exception_safe_to_retry
    # Celery's own retries log a traceback each, and would start over with each of ours.
    backend.exception_safe_to_retry = lambda exc: not _METHOD.get() and may_retry(exc)
    for name in ("store_result", "on_chord_part_return", *_AT_SENDING):
        setattr(backend, name, partial(patient, name, getattr(backend, name)))
    if hasattr(type(backend), "_chord_cleanup_script"):
        # A claim and its end are visible only here.
        backend._chord_claim_extend_script = partial(_claim, backend)  # noqa: SLF001  # see above
        backend._chord_cleanup_script = partial(_clean_up, backend)  # noqa: SLF001  # see above
        count = backend.on_chord_part_return
        backend.on_chord_part_return = partial(_until_dispatched, backend, count)
    return backend


def _claim(backend: Any, *, keys: Any, args: Any, client: Any) -> Any:
    """Claim a chord to send its body, for as long as the claim is renewed; Celery 5.7 claims it for minutes."""
    script = type(backend)._chord_claim_extend_script.func(backend)  # noqa: SLF001  # what is replaced above
    renew = partial(script, keys=keys, args=[args[0], CLAIM], client=client)
    _RENEW_CLAIM.set(renew)
    return renew()


def _renew_claim() -> None:
    renew = _RENEW_CLAIM.get()
    if renew is not None:
        with suppress(redis_errors.RedisError, OSError):  # the result store may be away as well
            renew()


def _clean_up(backend: Any, *, keys: Any, args: Any, client: Any) -> Any:
    """Mark a chord as dispatched, unless it was cut off; Celery 5.7 does so at the end of any attempt."""
    _RENEW_CLAIM.set(None)
    if _CUT_OFF.get():
        # Without its claim, the next attempt can begin at once.
        return client.delete(keys[0])
    script = type(backend)._chord_cleanup_script.func(backend)  # noqa: SLF001  # the same
    return script(keys=keys, args=args, client=client)


def _until_dispatched(
    backend: Any, count: Callable[..., Any], request: Any, *args: Any, **kwargs: Any
) -> None:
    """Count a chord's member, again while the chord is claimed by a process that may have died.

    The process that counts the last member claims the chord while it sends the body (Celery 5.7). If it is killed,
    its member's message comes back before the claim ends, and no other process would send the body.
    """
    again = request.retries or (request.delivery_info or {}).get("redelivered")
    key = request.group and backend.get_key_for_group(request.group, ".c")
    if not (again and key and tasks.running_task()):
        count(request, *args, **kwargs)
        return
    claimed = False
    with _noted():
        while True:
            count(request, *args, **kwargs)
            claim = patiently(lambda: backend.client.get(key), "the result store")
            if claim == b"done" or not (claim or claimed):
                return
            claimed = bool(claim)
            if claimed:
                with suppress(SoftTimeLimitExceeded):  # the member has ended
                    time.sleep(LONGEST_PAUSE)


def _is_needed(name: str, request: Any, args: tuple[Any, ...]) -> bool:
    # Celery stores a failure before it calls the errbacks.
    fails = name == "store_result" and FAILURE in args[2:3]
    return bool(name in _AT_SENDING or request.chord or (fails and request.errbacks))
