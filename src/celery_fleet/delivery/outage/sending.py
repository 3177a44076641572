"""Let tasks wait until the broker has the messages that they send, however long it is away.

A retry, the next step of a chain, a callback or a chord's body is sent while its task runs. If the broker stays away,
Celery gives up after 4 s in a process without a connection, and after about 30 s otherwise. Then it acknowledges the
task, and the following tasks are lost. Here the task waits instead. It also waits for the result store
if the following tasks depend on it, because a chord starts and counts there. The task stays unacknowledged. If its
worker dies or is stopped, the hand-back or the lease returns its message.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import cache, partial
from typing import Any, Self, TypeVar

from celery import bootsteps
from celery.exceptions import Reject, SoftTimeLimitExceeded
from celery.states import FAILURE, STARTED
from redis import exceptions as redis_errors

from celery_fleet.common.errors import error_text
from celery_fleet.compat import settings, tasks
from celery_fleet.compat.minors import chosen as minors
from celery_fleet.delivery.options import AT_LEAST_ONCE, Options
from celery_fleet.delivery.outage import internals, soft_limit
from celery_fleet.delivery.outage.away import is_away
from celery_fleet.delivery.outage.shared_memory import shared_memory

logger = logging.getLogger("celery_fleet.delivery")

Answer = TypeVar("Answer")

#: Seconds after which a task counts as waiting for an attempt that has neither failed nor succeeded.
SLOW = 1.0

#: Instead of the time of the first attempt if the task waits already; 0 would mean that there is no attempt.
_LONG_AGO = 1e-9

#: The number of PIDs on 64-bit Linux (PID_MAX_LIMIT).
_PIDS = 1 << 22

#: Pause in seconds before the second attempt, and longest pause between two attempts.
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 2.0

#: Methods of the result store that are called when a task is sent: they start a chord or subscribe to results.
_AT_SENDING = ("set_chord_size", "apply_chord", "add_pending_result", "on_task_call")

#: Whether the process or greenlet was told to end while its task waited.
_CUT_OFF = ContextVar("celery_fleet_cut_off", default=False)

#: Renews the claim on a chord while its body is being sent.
_RENEW_CLAIM = ContextVar[Callable[[], object] | None]("celery_fleet_renew_claim", default=None)

#: Tokens with which the running task may have claimed its chord (Celery 5.7).
_TOKENS = ContextVar[tuple[str, ...]]("celery_fleet_tokens", default=())

#: Seconds for which the claim on a chord outlives its process, and for which another attempt waits for it at most.
CLAIM = 15

#: The backend's method that is being called; Celery does not retry it.
_METHOD = ContextVar("celery_fleet_method", default="")


def _counts_for_chord() -> bool:
    """Return whether the task has ended, and is counted for its chord."""
    return _METHOD.get() == "on_chord_part_return"


@cache
def _attempts() -> memoryview[float]:
    """Return for each PID since when its task has tried to reach Redis, `_LONG_AGO` or 0; see `_Attempts`."""
    return memoryview(shared_memory("WAITING", 8 * _PIDS)).cast("d")


class PutBackError(Reject, SoftTimeLimitExceeded):  # type: ignore[misc]  # Celery ships no types
    """The soft time limit was reached while the task waited. Unless the task handles this, it runs again."""


def patiently(
    attempt: Callable[[], Answer], what: str, again: Callable[[], object] = lambda: None
) -> Answer:
    """Call a function repeatedly while it fails because Redis is away; return its result.

    Args:
        attempt: The function to call.
        what: The thing that the running task waits for, for the log.
        again: Called before each further attempt.

    Raises:
        PutBackError: The task's soft time limit was reached.
        Exception: The attempt failed for another reason.
    """
    began = time.monotonic()
    pause = 0.0
    task = tasks.running_task()
    name = f"{task.name}[{task.request.id}]"
    _CUT_OFF.set(False)
    # Otherwise a chord's body could be lost, because its last member is already counted.
    with _Attempts(waiting=_counts_for_chord()) as attempts, soft_limit.noted() as limit:
        while True:
            try:
                if pause:
                    time.sleep(pause)
                    _stop_at(limit, attempts, task)
                    _renew_claim()
                    again()
                answer = attempt()
            except Exception as exc:
                away = is_away(exc)
                if away:
                    attempts.wait()
                _stop_at(limit, attempts, task)
                if not away:
                    raise
                if not pause:
                    logger.warning("task %s waits for %s: %s", name, what, error_text(exc))
            except BaseException:
                _CUT_OFF.set(attempts.are_waiting())
                raise
            else:
                _stop_at(limit, attempts, task)
                if pause:
                    logger.info(
                        "task %s waited %.1f s for %s", name, time.monotonic() - began, what
                    )
                return answer
            pause = min(2 * pause, LONGEST_PAUSE) or FIRST_PAUSE


class _Attempts:
    """Attempts of the running task to reach Redis, noted for the process that would kill it at its hard time limit.

    The task waits once an attempt has failed because Redis is away, or has taken long. A task that sends much to a
    Redis that works is nearly always in an attempt. If it counted as waiting, it would not fail at its time limit but
    run again and again.
    """

    def __init__(self, *, waiting: bool) -> None:
        self._since = _LONG_AGO if waiting else time.monotonic()

    def __enter__(self) -> Self:
        self._pid = os.getpid()
        self._before = _attempts()[self._pid]
        _attempts()[self._pid] = self._before or self._since
        return self

    def __exit__(self, *_: object) -> None:
        _attempts()[self._pid] = self._before

    def wait(self) -> None:
        """Note that Redis is away."""
        self._since = _attempts()[self._pid] = _LONG_AGO

    def are_waiting(self) -> bool:
        """Return whether the task waits."""
        return _is_long(self._since)


def _is_long(since: float) -> bool:
    return time.monotonic() - since >= SLOW


def _stop_at(limit: soft_limit.SoftLimit, attempts: _Attempts, task: Any) -> None:
    # Celery would treat the error as a failure of the chord, although the member has ended.
    if limit.reached and not _counts_for_chord():
        exc = SoftTimeLimitExceeded()
        raise PutBackError(exc, requeue=True) if task.acks_late and attempts.are_waiting() else exc


def was_waiting(pid: int) -> bool:
    """Return whether the task of a process that is about to be killed is waiting, and clear its mark."""
    attempts = _attempts()
    since, attempts[pid] = attempts[pid], 0.0
    return bool(since) and _is_long(since)


def was_cut_off() -> bool:
    """Return whether the task of this greenlet was stopped while it waited."""
    return _CUT_OFF.get()


class PatientProducer:
    """A kombu Producer that retries publishing a task until the broker has it."""

    def __init__(self, producer: Any, task: str) -> None:
        self._producer = producer
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, *args: Any, **options: Any) -> Any:
        """Publish as kombu does, and retry as often as needed.

        Raises:
            kombu.exceptions.OperationalError: The broker refuses the message.
        """
        # Disable kombu's own retry: if it reconnects to declare the queue, it publishes on the closed channel.
        options["retry"] = False

        def attempt() -> Any:
            # Otherwise kombu would connect with pauses of its own, of 6 s in all, in which the broker may come and go.
            self._producer.connection.ensure_connection(max_retries=0)
            return self._producer.publish(*args, **options)

        return patiently(attempt, f"the broker, to send {self._task}", self._reconnect)

    def _reconnect(self) -> None:
        connection = self._producer.connection
        connection.collect()
        # If there are several brokers, the next one is asked.
        connection.maybe_switch_next()
        self._producer.revive(connection)


class Producers(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """Lets each thread or greenlet of the pool wait with a producer of its own.

    By default, Celery has 10 for all. Further tasks would wait for a producer in Celery's code, and would fail if their
    time limit is reached there.
    """

    name = "celery_fleet.Producers"

    def create(self, worker: Any) -> None:
        """Enlarge the pool of producers before the first one is made; None and 0 mean that there is no limit."""
        conf = worker.app.conf
        if conf.broker_pool_limit:
            limit = max(conf.broker_pool_limit, worker.concurrency)
            settings.override(conf, "broker_pool_limit", limit)


def install(app: Any, options: Options) -> None:
    """Make the tasks of an ``at_least_once`` worker wait for Redis if other tasks follow them."""
    if options.profile == AT_LEAST_ONCE:
        _attempts()  # before the pool starts its processes
        tasks.wrap_sender(app, _patient_sender)
        internals.each_backend(app, _patient_backend)
        app.steps["worker"].add(Producers)
        minors.celery.raise_from_tracer(PutBackError)


def _patient_sender(send: Callable[..., Any]) -> Callable[..., Any]:
    def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
        # An application that asks for a single attempt must see its failure.
        if tasks.running_task() is not None and options.get("retry") is not False:
            producer = PatientProducer(producer, name)
        return send(producer, name, message, **options)

    return send_task_message


def _patient_backend(backend: Any) -> Any:
    """Make the calls on which later tasks depend wait for the result store, and let tasks begin without it."""

    def patient(name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        task = tasks.running_task()
        begins = name == "store_result" and STARTED in args[2:3]
        if task is None or not (begins or _is_needed(name, task.request, args)):
            return call(*args, **kwargs)
        token = _METHOD.set(_METHOD.get() or name)
        attempt = partial(call, *args, **kwargs)
        try:
            return _begin(attempt, task) if begins else patiently(attempt, "the result store")
        finally:
            _METHOD.reset(token)

    may_retry = backend.exception_safe_to_retry

    def may_retry_itself(exc: Exception) -> bool:
        # Celery's own retries log a traceback each time, and would start over with each of these attempts. A store that
        # is no Redis has its own errors, and only these retries.
        ours = is_away(exc) or isinstance(exc, redis_errors.RedisError)
        return not (_METHOD.get() and ours) and bool(may_retry(exc))

    backend.exception_safe_to_retry = may_retry_itself
    for name in ("store_result", "on_chord_part_return", *_AT_SENDING):
        setattr(backend, name, partial(patient, name, getattr(backend, name)))
    if hasattr(type(backend), "_chord_cleanup_script"):
        # Only these three functions see a claim and its end.
        backend._chord_part_return_script = partial(_count, backend)  # noqa: SLF001  # see above
        backend._chord_claim_extend_script = partial(_claim, backend)  # noqa: SLF001  # see above
        backend._chord_cleanup_script = partial(_clean_up, backend)  # noqa: SLF001  # see above
        count = backend.on_chord_part_return
        backend.on_chord_part_return = partial(_until_dispatched, backend, count)
    minors.celery.keep_chord(backend, _is_body_cut_off)
    return backend


def _is_body_cut_off() -> bool:
    """Return whether a process or greenlet was told to end while it sent a chord's body."""
    return _CUT_OFF.get() and _counts_for_chord()


def _count(backend: Any, *, keys: Any, args: Any, client: Any) -> Any:
    """Count a member of a chord; the last one claims the chord, so that one process sends the body.

    An earlier attempt may have claimed it without an answer. Celery would wait for that one to send the body.
    """
    claim, seconds, token = keys[5], args[6], args[7]
    _TOKENS.set((*_TOKENS.get(), token))
    script = type(backend)._chord_part_return_script.func(backend)  # noqa: SLF001  # what is replaced above
    ready, more, size, claimed = script(keys=keys, args=args, client=client)
    if size and not claimed and (client.get(claim) or b"").decode() in _TOKENS.get():
        claimed = client.set(claim, token, xx=True, ex=seconds)
    return ready, more, size, claimed


def _claim(backend: Any, *, keys: Any, args: Any, client: Any) -> Any:
    """Claim a chord to send its body. The claim must be renewed; Celery 5.7 claims the chord for minutes."""
    script = type(backend)._chord_claim_extend_script.func(backend)  # noqa: SLF001  # what is replaced above
    renew = partial(script, keys=keys, args=[args[0], CLAIM], client=client)
    _RENEW_CLAIM.set(renew)
    return _in_a_task(renew)


def _renew_claim() -> None:
    renew = _RENEW_CLAIM.get()
    if renew is not None:
        with suppress(redis_errors.RedisError, OSError):  # the result store may be away as well
            renew()


def _clean_up(backend: Any, *, keys: Any, args: Any, client: Any) -> Any:
    """Mark a chord as dispatched, unless the attempt was cut off; Celery 5.7 does so at the end of any attempt."""
    _RENEW_CLAIM.set(None)
    if _CUT_OFF.get():
        # When the claim is deleted, the next attempt can start at once.
        return client.delete(keys[0])
    script = type(backend)._chord_cleanup_script.func(backend)  # noqa: SLF001  # the same
    # An error would count as a failure of the body, which is sent.
    return _in_a_task(partial(script, keys=keys, args=args, client=client))


def _in_a_task(call: Callable[[], Answer]) -> Answer:
    """Call a function of the result store patiently if a task runs; the main process must not wait."""
    return call() if tasks.running_task() is None else patiently(call, "the result store")


def _until_dispatched(
    backend: Any, count: Callable[..., Any], request: Any, *args: Any, **kwargs: Any
) -> None:
    """Count a chord's member; repeat this while the chord is claimed by a process that may have died.

    The process that counts the last member claims the chord while it sends the body (Celery 5.7). If that process is
    killed, its member's message is put back before the claim ends, and no other process would send the body.
    """
    _TOKENS.set(())
    again = request.retries or (request.delivery_info or {}).get("redelivered")
    key = request.group and backend.get_key_for_group(request.group, ".c")
    if not (again and key and tasks.running_task()):
        count(request, *args, **kwargs)
        return
    claimed = False
    with _Attempts(waiting=True):
        while True:
            count(request, *args, **kwargs)
            claim = patiently(lambda: backend.client.get(key), "the result store")
            if claim == b"done":
                return
            if not claim and not claimed:
                return  # no process has claimed the chord: this was not its last member
            claimed = bool(claim)
            if claimed:
                with suppress(SoftTimeLimitExceeded):  # the task itself has ended
                    time.sleep(LONGEST_PAUSE)


def _begin(attempt: Callable[[], object], task: Any) -> None:
    """Note that a task starts (``task_track_started``), if the result store takes it.

    Celery would treat an error as the end of the task, and acknowledge it although it has not run.

    Raises:
        PutBackError: The task's soft time limit was reached, because the result store hangs.
    """
    with _Attempts(waiting=False) as attempts, soft_limit.noted() as limit:
        try:
            attempt()
        except MemoryError:
            raise
        except Exception as exc:  # noqa: BLE001  # a result store that is no Redis has errors of its own
            logger.warning(
                "the result store does not note that task %s[%s] has started: %s",
                task.name,
                task.request.id,
                error_text(exc),
            )
        _stop_at(limit, attempts, task)


def _is_needed(name: str, request: Any, args: tuple[Any, ...]) -> bool:
    # Celery stores a failure before it calls the errbacks.
    fails = name == "store_result" and FAILURE in args[2:3]
    return bool(name in _AT_SENDING or request.chord or (fails and request.errbacks))
