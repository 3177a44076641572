# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Private attributes of Celery 5.7 and kombu 5.7 that the dead letters use.

They were checked in the sources of celery 5.7.0 and kombu 5.7.0; each function names the place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery import signals
from celery.exceptions import (
    Ignore,
    NotRegistered,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
)
from celery.utils.objects import Bunch
from celery.worker import state as worker_state
from kombu.transport.redis import Channel
from kombu.transport.virtual import Message
from kombu.utils import json as kombu_json
from kombu.utils.imports import symbol_by_name

from celery_fleet.compat.minors import chosen as minors
from celery_fleet.delivery.dead_letters.letters import Places, identity
from celery_fleet.delivery.messages import neutral

logger = logging.getLogger("celery_fleet.delivery")


class OutOfMemoryError(Exception):
    """A task raised MemoryError."""


# --- messages (kombu/transport/redis.py, kombu/transport/virtual/base.py) ---


def in_unacked(message: Any) -> bool:
    """Return whether Redis keeps a message in ``unacked`` as this process's."""
    channel = getattr(message, "channel", None)
    if not isinstance(message, Message) or not isinstance(channel, Channel):
        return False
    if not channel.ack_emulation or channel.closed:
        return False
    tag = message.delivery_tag
    return tag in channel.qos._delivered and tag not in channel.qos._dirty


def is_open(channel: Any) -> bool:
    """Return whether a channel belongs to a connection that is not known to be lost."""
    return not channel.closed and channel.connection is not None


def forget(message: Any) -> None:
    """Make kombu forget a message that is no longer in ``unacked``."""
    message.channel.qos._quick_ack(message.delivery_tag)
    message._state = "REQUEUED"


def instead_of_ack(message: Any, action: Callable[[Any], bool]) -> None:
    """Replace a message's next acknowledgement, which Celery sends in the loop's thread, with an action.

    The action is called with the message. If it returns False, the message is acknowledged after all.
    """

    def ack(multiple: bool = False) -> None:
        del message.ack
        if not action(message):
            message.ack(multiple=multiple)

    message.ack = ack


def mark_acknowledged(message: Any) -> None:
    """Make kombu forget a message that was acknowledged."""
    message.channel.qos._quick_ack(message.delivery_tag)
    message._state = "ACK"


def raw(message: Any) -> dict[str, Any]:
    """Return the decoded message, as it was in its list. Changes to it change the message."""
    content: dict[str, Any] = message._raw
    return content


def set_header(message: Any, name: str, value: float) -> None:
    """Set a header of a message, for the next worker that fetches it."""
    content = raw(message)
    content["headers"] = {**(content.get("headers") or {}), name: value}


def item_of(message: Any) -> str:
    """Return a message as an item of a list."""
    return str(kombu_json.dumps(neutral(raw(message))))  # type: ignore[no-untyped-call]  # typed in part only


def places(channel: Any) -> Places:
    """Return the keys of the messages that a channel holds."""
    return Places(channel.unacked_key, channel.unacked_index_key)


@contextmanager
def client(channel: Any) -> Iterator[Any]:
    """Yield a client from the channel's connection pool."""
    with channel.conn_or_acquire() as found:
        yield found


def noted(channel: Any, tag: str, name: str, value: float) -> str | None:
    """Return the entry of a delivery in ``unacked`` with a header added; None if there is no entry."""
    with client(channel) as redis:
        found = redis.hget(channel.unacked_key, tag)
    if not found:
        return None
    message, *rest = kombu_json.loads(found)  # type: ignore[no-untyped-call]  # typed in part only
    message["headers"] = {**(message.get("headers") or {}), name: value}
    return str(kombu_json.dumps([message, *rest]))  # type: ignore[no-untyped-call]  # typed in part only


def longest_hold(message: Any) -> float:
    """Return how many seconds a message may be held before another worker considers it abandoned.

    With the stock fetch a tag stays with the message, so a late worker can't distinguish another delivery from its own.
    """
    if getattr(message, "list_key", None):
        return float("inf")
    return float(message.channel.visibility_timeout) / 2


# --- requests (celery/worker/request.py) ---


def use_request(
    task: Any,
    died: Callable[[Any, BaseException, Any], bool],
    was_waiting: Callable[[int], bool] = lambda _: False,
    was_cut_off: Callable[[], bool] = lambda: False,
    failed: Callable[[Any, BaseException], object] | None = None,
) -> None:
    """Replace a task's requests with ones that handle lost processes, time limits and failures.

    Args:
        task: Celery's task.
        died: Called in the loop's thread when the process of a request died, with the request, the error and Celery's
            information about it. It returns whether it has handled the request, and must not raise.
        was_waiting: Returns whether the task of a process was waiting to send a message. If its hard time limit is
            reached at that moment, a task with late acknowledgement is put back.
        was_cut_off: Returns the same for the current greenlet.
        failed: Called in any thread with a request that failed for good and is about to be acknowledged.
    """
    base: Any = symbol_by_name(task.Request)  # type: ignore[no-untyped-call]  # typed in part only
    if getattr(base, "celery_fleet", False):
        return

    class Request(base):  # type: ignore[misc]  # Celery ships no types
        celery_fleet = True
        waited_to_send = False
        failure: BaseException | None = None

        def on_failure(
            self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
        ) -> Any:
            exc = _error(exc_info)
            if self._waits_at_its_limit(exc):
                self.waited_to_send = True
                _put_back(self)
                return None
            _adapt_error(self, exc_info)
            lost = _lost(self, exc_info)
            if lost is not None and died(self, lost, exc_info):
                return None
            if lost is not None and runs_again_for_chord(self):
                _put_back(self)
                return None
            with _ending(self, exc if lost is None else lost):
                if lost is not None:
                    if minors.celery.retry_lost(self, lost, exc_info):
                        return None
                    if lost is not exc:
                        minors.celery.report_lost(exc_info, lost)
                if not isinstance(exc, (Ignore, Reject, Retry, Terminated)):
                    self.failure = exc if lost is None else lost
                return super().on_failure(exc_info, send_failed_event, return_ok)

        def _waits_at_its_limit(self, exc: BaseException) -> bool:
            if not isinstance(exc, TimeLimitExceeded) or not self.task.acks_late:
                return False
            return bool(self.worker_pid) and was_waiting(self.worker_pid)

        def on_timeout(self, soft: bool, timeout: float) -> Any:
            # With prefork, a hard limit calls on_failure first (billiard/pool.py); with greenlets, only this method.
            if self.waited_to_send:
                return None
            if not soft and self.task.acks_late and was_cut_off():
                _put_back(self)
                return None
            if soft:
                return super().on_timeout(soft, timeout)
            self.failure = TimeLimitExceeded(timeout)
            ends = minors.celery.acknowledges_failed(self.task, timeout=True)
            with _ending(self, self.failure):
                answer = super().on_timeout(soft, timeout)
                if self.task.acks_late and not ends and not self.acknowledged:
                    self.reject(requeue=True)  # Celery does this since 5.7
                return answer

        def acknowledge(self) -> None:
            exc = self.failure
            # A task may have succeeded before its process died.
            done = isinstance(exc, WorkerLostError) and succeeded(self)
            if failed is not None and exc is not None and not self.acknowledged and not done:
                failed(self, exc)
            super().acknowledge()

        def _announce_revoked(self, *what: Any) -> None:
            # Otherwise an expired task would become a dead letter, or stay in `unacked`, if the result store is away.
            with _ending(self, Reject("it was revoked or has expired", requeue=True)):
                super()._announce_revoked(*what)

        def _retry_worker_lost(self, exc: BaseException, exc_info: Any) -> bool:
            """Retry a task after its process died, as Celery does; if the retry can't be sent, put the message back."""
            failure, self.failure = self.failure, None
            if super()._retry_worker_lost(exc, exc_info):
                return True
            self.failure = failure
            if not self.task.acks_late or self.acknowledged:
                return False  # there is no message any more
            self.reject(requeue=True)
            return True

    task.Request = Request


def _put_back(request: Any) -> None:
    worker_state.task_ready(request)
    request.reject(requeue=True)


def _adapt_error(request: Any, exc_info: Any) -> None:
    """Replace or complete an error that Celery would handle wrongly."""
    exc = _error(exc_info)
    if isinstance(exc, MemoryError):
        # Celery would end the worker.
        exc_info.exception = OutOfMemoryError(str(exc) or "the task ran out of memory")
    elif not isinstance(exc, (Exception, SystemExit, KeyboardInterrupt)):
        exc_info.exception = minors.celery.storable(exc)
    elif isinstance(exc, Reject) and isinstance(exc.reason, SoftTimeLimitExceeded):
        # The time limit was reached before the retry could be sent (Task.retry).
        exc.requeue = request.task.acks_late


@contextmanager
def _ending(request: Any, exc: BaseException) -> Iterator[None]:
    """Acknowledge or reject a task that has failed if an error keeps Celery from it.

    Otherwise the message would stay in ``unacked`` as long as this worker runs, and its drain would wait for it. In
    threads and greenlets, nothing else would log the error.
    """
    try:
        yield
    except Exception:
        logger.exception("the end of task %s[%s] could not be handled", request.name, request.id)
        if request.acknowledged or not (request.task.acks_late or isinstance(exc, Reject)):
            return
        timeout, lost = isinstance(exc, TimeLimitExceeded), isinstance(exc, WorkerLostError)
        ends = minors.celery.acknowledges_failed(request.task, timeout=timeout)
        if isinstance(exc, Reject):
            request.reject(requeue=exc.requeue)
        elif ends and not lost:
            request.acknowledge()
        else:
            request.reject(requeue=timeout or lost)


def _error(exc_info: Any) -> BaseException:
    exc = exc_info.exception
    found: BaseException = exc.exc if isinstance(exc, ExceptionWithTraceback) else exc
    return found


def _lost(request: Any, exc_info: Any) -> BaseException | None:
    """Return the error if a request's process was lost, and not terminated on purpose, as in Request.on_failure."""
    if request._already_revoked or request._already_cancelled or worker_state.should_terminate:
        return None
    exc = _error(exc_info)
    if isinstance(exc, Terminated):
        return None
    if isinstance(exc, (SystemExit, KeyboardInterrupt)):
        exc = minors.celery.worker_lost(request, exc)
        exc = exc.exc if isinstance(exc, ExceptionWithTraceback) else exc
    return exc if isinstance(exc, WorkerLostError) else None


def carry_header(request: Any, name: str, value: float) -> None:
    """Add a header to the message of a retry (Context.as_execution_options)."""
    context = request._context
    context.headers = {**(context.headers or {}), name: value}


def succeeded(request: Any) -> bool:
    """Return whether the result store has the task's success, in which case its process died later."""
    return minors.celery.success_was_stored(request)


def runs_again_for_chord(request: Any) -> bool:
    """Return whether a request whose process died has succeeded and must run again for its chord.

    Its process may have died after storing the result and before updating the chord. Celery would not update it.
    """
    return bool(request.chord and request.task.acks_late and succeeded(request))


def taken_over(request: Any) -> None:
    """Prevent Celery from running or acknowledging a request."""
    worker_state.task_ready(request)
    request.acknowledged = True


def give_up(request: Any) -> None:
    """Announce that a request that has succeeded does not run again for its chord; its result stays."""
    request.send_event("task-rejected", requeue=False)


def fail(request: Any, exc: BaseException, exc_info: Any) -> None:
    """Store and announce a request's failure, as Request.on_failure does."""
    task = request.task
    task.backend.mark_as_failure(
        request.id, exc, request=request._context, store_result=request.store_errors
    )
    task.request_stack.push(request._context)
    try:
        signals.task_failure.send(
            sender=task,
            task_id=request.id,
            exception=exc,
            args=request.args,
            kwargs=request.kwargs,
            traceback=exc_info.traceback,
            einfo=exc_info,
        )
    finally:
        task.request_stack.pop()
    request.send_event("task-failed", exception=repr(exc), traceback=None)


def consumer_class(app: Any) -> type[Any]:
    """Return the consumer class of an app's worker (Consumer component of celery/worker/components.py)."""
    found: type[Any] = symbol_by_name(app.conf.worker_consumer)  # type: ignore[no-untyped-call]  # typed in part only
    return found


# --- refused messages (celery/worker/consumer/consumer.py) ---


def fail_unknown(consumer: Any, message: Any, exc: BaseException, about: Mapping[str, Any]) -> None:
    """Store and announce the failure of a task that no worker knows, as Consumer.on_unknown_task does."""
    name, identifier = about["task"], about["id"]
    properties = message.properties or {}
    request = Bunch(
        name=name,
        chord=None,
        root_id=(message.headers or {}).get("root_id"),
        correlation_id=properties.get("correlation_id"),
        reply_to=properties.get("reply_to"),
        errbacks=None,
    )
    consumer.app.backend.mark_as_failure(identifier, NotRegistered(name), request=request)
    if consumer.event_dispatcher:
        consumer.event_dispatcher.send(
            "task-failed", uuid=identifier, exception=f"NotRegistered({name!r})"
        )
    signals.task_unknown.send(sender=consumer, message=message, exc=exc, name=name, id=identifier)


def rejected(consumer: Any, message: Any, exc: BaseException | None) -> None:
    """Announce a message that is not a task, as Consumer.on_invalid_task does."""
    signals.task_rejected.send(sender=consumer, message=message, exc=exc)


def begun(message: Any, consumer: Any) -> bool:
    """Return whether a message has become a request that Celery runs, has run or will run."""
    identifier, _ = identity(raw(message))
    return identifier is not None and minors.celery.is_known(identifier, consumer)
