# ruff: noqa: SLF001  # subclasses of what kombu keeps private
"""Acknowledge and put back the messages that a channel of kombu 5.7 holds under the tags of their deliveries.

This belongs to :mod:`celery_fleet.delivery.fetch.transport` and was checked in the source of kombu 5.7.0.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import kombu.transport.redis
import kombu.transport.virtual
import kombu.utils.json

from celery_fleet.common.errors import one_line
from celery_fleet.common.redact import redact
from celery_fleet.delivery.hooks import HOOKS
from celery_fleet.delivery.messages import redelivered
from celery_fleet.delivery.scripts import ACK, HEAD, TAIL

# kombu's types are incomplete, which is worse for subclasses than no types at all.
stock: Any = kombu.transport.redis
virtual: Any = kombu.transport.virtual
json: Any = kombu.utils.json

logger = logging.getLogger("celery_fleet.delivery")


@dataclass(frozen=True)
class Fetched:
    """A delivery on its way to its consumer: the message as it was read, its tag, and its list."""

    raw: Any
    tag: str
    key: str


class Message(virtual.Message):  # type: ignore[misc]  # see stock
    """A message with the tag of its delivery. ``_raw`` keeps the sender's tag, so it can be put back unchanged."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        super().__init__(payload, channel=channel, **kwargs)
        self.properties: dict[str, Any]
        #: The list that the script fetched it from; None if kombu fetched it.
        self.list_key: str | None = None
        fetched = getattr(getattr(channel, "connection", None), "fetched", None)
        if fetched is not None and fetched.raw is payload:
            self.list_key = fetched.key
            self.delivery_tag = fetched.tag
            self.properties = {**self.properties, "delivery_tag": fetched.tag}

    def ack(self, multiple: bool = False) -> None:
        """Acknowledge the message."""
        channel = self.channel
        super().ack(multiple=multiple)
        self._leave_next(channel)

    def reject(self, requeue: bool = False) -> None:
        """Reject the message."""
        channel = self.channel
        super().reject(requeue=requeue)
        self._leave_next(channel)

    def _leave_next(self, channel: Any) -> None:
        """Have the next connection forget a message that it adopted while this one still waited for Redis."""
        if self.channel is not channel:
            self.channel.qos._quick_ack(self.delivery_tag)


class QoS(stock.QoS):  # type: ignore[misc]  # see stock
    """The messages that a channel holds."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message as held. If the script fetched it, Redis has recorded that already."""
        if getattr(message, "list_key", None) is None:
            super().append(message, delivery_tag)
            return
        self.channel.connection.fetched = None
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message in Redis, and forget it here."""
        if not self.channel.atomic:
            super().ack(delivery_tag)
            return
        self._finish(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Forget a message, or put it back at the tail of its list, as stock kombu does."""
        if not self.channel.atomic:
            super().reject(delivery_tag, requeue=requeue)
            return
        if requeue:
            try:
                self._put_back(delivery_tag, TAIL)
            except Exception as exc:
                later, message = HOOKS.requeue_failed, self._delivered.get(delivery_tag)
                if later is None or not later(delivery_tag, message, exc):
                    raise
        else:
            self._finish(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def _finish(self, tag: str) -> None:
        try:
            ours = self.channel.run(ACK, [self.unacked_key, self.unacked_index_key], [tag])
        except Exception as exc:
            # Celery counts the task as acknowledged from now on, because it has ended.
            if not _is_sent_later(tag, exc):
                raise
            return
        if not ours:
            logger.warning(
                "message %s was no longer held by this worker when it was acknowledged: it had been put back,"
                " so its task may run twice",
                tag,
            )

    def _put_back(self, tag: str, end: str = HEAD) -> None:
        """Put a message back at one end of the list that it came from."""
        message = self._delivered.get(tag)
        key = getattr(message, "list_key", None)
        if key is None:
            self.restore_by_tag(tag, leftmost=end == TAIL)
            return
        self.channel.put_back(tag, key, json.dumps(redelivered(message._raw)), end)

    def restore_unacked(self, client: Any = None) -> None:
        """Put back all held messages, the newest first, so that the oldest is fetched next. It never raises."""
        left = 0
        trouble: Exception | None = None
        for tag in reversed([tag for tag in self._delivered if tag not in self._dirty]):
            # Don't try again if the broker is away. In stock kombu, the error would end the worker.
            if trouble is None or not self.channel.is_lost(trouble):
                try:
                    self._put_back(tag)
                    continue
                except Exception as exc:  # noqa: BLE001  # still put the others back
                    trouble = exc
            left += 1
        if trouble is not None:
            logger.warning(
                "%d messages can't be put back now (%s): they stay in %s until a sweep puts them back",
                left,
                redact(one_line(trouble)),
                self.unacked_key,
            )
        self._delivered.clear()

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Put back messages of tasks that are not running when the channel closes.

        All messages of a channel on which a task itself consumes go back, as in kombu.
        """
        if HOOKS.keep is not None and self.channel.ours:
            try:
                for tag in HOOKS.keep(self.channel):
                    self._delivered.pop(tag, None)
            except Exception:
                logger.exception(
                    "can't find out which tasks are running: all messages are put back"
                )
        super().restore_unacked_once(stderr)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Put back messages that no worker holds any more: according to the lease, or else by age."""
        if HOOKS.sweep is None:
            super().restore_visible(*args, **kwargs)
            return
        try:
            HOOKS.sweep(self.channel)
        except Exception as exc:
            if self.channel.is_lost(exc):
                raise
            logger.exception("messages that no worker holds any more can't be put back")


def _is_sent_later(tag: str, exc: Exception) -> bool:
    if HOOKS.ack_failed is None:
        return False
    try:
        return HOOKS.ack_failed(tag, exc)
    except Exception:
        logger.exception("a failed acknowledgement can't be kept")
        return False
