# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""What the dead letters need of Celery 5.7's and kombu 5.7's private attributes.

Checked in the sources of celery 5.7.0 and kombu 5.7.0; each function names the place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery import signals
from celery.exceptions import NotRegistered, Terminated, WorkerLostError
from celery.utils.objects import Bunch
from celery.worker import state as worker_state
from kombu.transport.redis import Channel
from kombu.transport.virtual import Message
from kombu.utils import json as kombu_json
from kombu.utils.imports import symbol_by_name

from celery_fleet import minors
from celery_fleet.delivery.dead_letters import Places, identity, neutral

# --- messages (kombu/transport/redis.py, kombu/transport/virtual/base.py) ---


def in_unacked(message: Any) -> bool:
    """Whether Redis keeps a message in ``unacked`` as this process's."""
    channel = getattr(message, "channel", None)
    if not isinstance(message, Message) or not isinstance(channel, Channel):
        return False
    if not channel.ack_emulation or channel.closed:
        return False
    tag = message.delivery_tag
    return tag in channel.qos._delivered and tag not in channel.qos._dirty


def is_open(channel: Any) -> bool:
    """Whether a channel is still the one of a connection that is not known to be lost."""
    return not channel.closed and channel.connection is not None


def forget(message: Any) -> None:
    """Have kombu forget a message that is no longer in ``unacked``."""
    message.channel.qos._quick_ack(message.delivery_tag)
    message._state = "REQUEUED"


def raw(message: Any) -> dict[str, Any]:
    """The message as it stands in its list, decoded; to be changed in place."""
    content: dict[str, Any] = message._raw
    return content


def set_header(message: Any, name: str, value: float) -> None:
    """Note something on a message, for whoever takes it next."""
    content = raw(message)
    content["headers"] = {**(content.get("headers") or {}), name: value}


def item_of(message: Any) -> str:
    """What goes into a list again."""
    return str(kombu_json.dumps(neutral(raw(message))))  # type: ignore[no-untyped-call]  # typed in part only


def list_of(message: Any) -> str:
    """The list that a message came from: the atomic take knows it, kombu no more than exchange and routing key."""
    known = getattr(message, "list_key", None)
    if known:
        return str(known)
    channel, info = message.channel, message.delivery_info or {}
    key = info.get("routing_key")
    found = channel._lookup(info.get("exchange"), key) or [key]
    queue = next((queue for queue in found if queue in channel.active_queues), found[0])
    step = channel._get_message_priority(raw(message), reverse=False)
    return str(channel._q_for_pri(queue, step))


def places(channel: Any) -> Places:
    """Where a channel keeps what it holds."""
    return Places(channel.unacked_key, channel.unacked_index_key, channel.global_keyprefix or "")


@contextmanager
def client(channel: Any) -> Iterator[Any]:
    """A client of the channel's pool."""
    with channel.conn_or_acquire() as found:
        yield found


def noted(channel: Any, tag: str, name: str, value: int) -> str | None:
    """What ``unacked`` is to have of a delivery with a header on it; None where it is not there."""
    with client(channel) as redis:
        found = redis.hget(channel.unacked_key, tag)
    if not found:
        return None
    message, *rest = kombu_json.loads(found)  # type: ignore[no-untyped-call]  # typed in part only
    message["headers"] = {**(message.get("headers") or {}), name: value}
    return str(kombu_json.dumps([message, *rest]))  # type: ignore[no-untyped-call]  # typed in part only


def longest_hold(message: Any) -> float:
    """Seconds that a message may be held before another worker could take it for lost.

    A stock take's tag is the message's for ever, so that who is late could not tell another's delivery from its own.
    """
    if getattr(message, "list_key", None):
        return float("inf")
    return float(message.channel.visibility_timeout) / 2


# --- requests (celery/worker/request.py) ---


def retries_lost() -> bool:
    """Whether Celery leaves it to us to retry a task whose process died."""
    return minors.celery.RETRIES_LOST


def use_request(task: Any, died: Callable[[Any, BaseException, Any], bool]) -> None:
    """Have ``died`` asked about each request of a task whose process died; True where it has seen to it.

    It is called on the loop's thread with the request, the error and what Celery has of it, and must not raise.
    """
    base: Any = symbol_by_name(task.Request)  # type: ignore[no-untyped-call]  # typed in part only
    if getattr(base, "celery_fleet", False):
        return

    def on_failure(
        self: Any, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> Any:
        lost = _lost(self, exc_info)
        if lost is not None and (
            died(self, lost, exc_info) or minors.celery.retry_lost(self, lost, exc_info)
        ):
            return None
        return base.on_failure(self, exc_info, send_failed_event, return_ok)

    def retry_worker_lost(self: Any, exc: BaseException, exc_info: Any) -> bool:
        """Celery's retry of a task whose process died. Where it can't be sent, Celery would give the task up."""
        if base._retry_worker_lost(self, exc, exc_info):
            return True
        if not self.task.acks_late or self.acknowledged:
            return False  # there is no message any more
        self.reject(requeue=True)
        return True

    added = {
        "celery_fleet": True,
        "on_failure": on_failure,
        "_retry_worker_lost": retry_worker_lost,
    }
    task.Request = type("Request", (base,), added)


def _lost(request: Any, exc_info: Any) -> BaseException | None:
    """The error of a request whose process died by itself, by its task, or by the kernel; as Request.on_failure."""
    if request._already_revoked or request._already_cancelled or worker_state.should_terminate:
        return None
    exc = exc_info.exception
    exc = exc.exc if isinstance(exc, ExceptionWithTraceback) else exc
    if isinstance(exc, Terminated):
        return None
    if isinstance(exc, (SystemExit, KeyboardInterrupt)):
        exc = minors.celery.worker_lost(request, exc)
        exc = exc.exc if isinstance(exc, ExceptionWithTraceback) else exc
    return exc if isinstance(exc, WorkerLostError) else None


def carry_header(request: Any, name: str, value: int) -> None:
    """Have the message of a retry carry a header (Context.as_execution_options)."""
    context = request._context
    context.headers = {**(context.headers or {}), name: value}


def succeeded(request: Any) -> bool:
    """Whether the result store has its success: then its process died later."""
    return minors.celery.success_was_stored(request)


def taken_over(request: Any) -> None:
    """Have Celery do nothing more about a request: neither run nor acknowledge it."""
    worker_state.task_ready(request)
    request.acknowledged = True


def fail(request: Any, exc: BaseException, exc_info: Any) -> None:
    """Store and tell of a request's failure, as Request.on_failure."""
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
    """The class of consumers that an app's worker has (Consumer component of celery/worker/components.py)."""
    found: type[Any] = symbol_by_name(app.conf.worker_consumer)  # type: ignore[no-untyped-call]  # typed in part only
    return found


# --- the consumer's answers (celery/worker/consumer/consumer.py) ---


def fail_unknown(consumer: Any, message: Any, exc: BaseException, about: Mapping[str, Any]) -> None:
    """Store and tell of the failure of a task that nobody knows, as Consumer.on_unknown_task."""
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
    """Tell of a message that is no task, as Consumer.on_invalid_task."""
    signals.task_rejected.send(sender=consumer, message=message, exc=exc)


def begun(message: Any, consumer: Any) -> bool:
    """Whether a message has become a request that Celery has or will run."""
    identifier, _ = identity(raw(message))
    return identifier is not None and minors.celery.is_known(identifier, consumer)
