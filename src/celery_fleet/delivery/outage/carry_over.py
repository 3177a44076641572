"""Keep running tasks through a lost connection, and acknowledge them on the next one.

When a connection is lost, stock kombu puts back all unacknowledged messages, including those of running tasks. These
tasks run twice, and their acknowledgements fail. Here

* messages of running tasks stay in ``unacked``, and the next connection acknowledges them;
* messages of tasks that have not started are removed from Celery. They go back to the heads of their lists, in order,
  on the next connection, because nothing can be sent on the lost one;
* acknowledgements that fail are kept (:mod:`celery_fleet.delivery.outage.pending`) and sent again.

If the reply to a fetch was lost, only Redis knows the message. With the lease, a sweep puts it back after about 15 s
(:mod:`celery_fleet.delivery.lease.sweep`); without it, only after the visibility timeout.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from celery_fleet.common.errors import error_text
from celery_fleet.compat import intake, worker
from celery_fleet.compat.minors import chosen as minors
from celery_fleet.delivery.outage import give_back, internals
from celery_fleet.delivery.outage.pending import Pending
from celery_fleet.delivery.scripts import ACK

logger = logging.getLogger("celery_fleet.delivery")

#: Seconds between two attempts to send the kept acknowledgements while there is a connection.
RETRY = 1.0

#: Number of acknowledgements sent in one turn of the loop.
BATCH = 500


class AckCarryOver:
    """Carries this process's messages and acknowledgements from one connection to the next."""

    def __init__(self, pending: Pending) -> None:
        self.pending = pending
        self._channel: Any = None
        #: Messages of tasks that were running when the connection was lost, by tag. A new connection adopts them, and
        #: they stay here until the next loss. A request may already count as acknowledged: its task has ended, and the
        #: acknowledgement waits in the event loop.
        self._carried: dict[str, Any] = {}
        #: Messages to put back as soon as possible, oldest first, each with the Unix time of the first attempt.
        self._returning: list[tuple[Any, float | None]] = []

    # --- hooks of the transport ---

    def keep(self, channel: Any) -> Iterable[str]:
        """Return the tags not to put back when a channel closes: all of them, unless the worker stops in order."""
        return () if worker.told_to_stop() else internals.held(channel)

    def ack_failed(self, tag: str, error: Exception) -> bool:
        """Keep an acknowledgement that could not be sent, for later."""
        if not self.pending:
            logger.warning(
                "message %s can't be acknowledged now (%s): the acknowledgement is kept and sent as soon as possible",
                tag,
                _text_of(error),
            )
        self.pending.add(tag)
        return True

    def requeue_failed(self, tag: str, message: Any, error: Exception) -> bool:
        """Keep a message that its task rejected and that could not be put back, for later."""
        logger.warning(
            "message %s can't be put back now (%s): it is put back as soon as possible",
            tag,
            _text_of(error),
        )
        found = self._carried.pop(tag, message)
        if found is not None:
            self._returning.append((found, time.time()))
        return True

    # --- calls of the consumer ---

    def lost(self, consumer: Any) -> bool:
        """Remove tasks that have not started from Celery when the connection is lost; return whether that worked."""
        channel = getattr(consumer.task_consumer, "channel", None)
        if channel is None:  # it never consumed
            return True
        try:
            waiting = intake.take_out(consumer)
        except Exception:
            logger.exception("can't find out which tasks have not started: Celery drops them")
            return False
        if self._channel is not None:
            held = internals.held(self._channel)
            self._carried = {tag: one for tag, one in self._carried.items() if tag in held}
        # Keep this order: a task that ended before is acknowledged below, and one that ends later is among these.
        for request in internals.running():
            self._carried[request.message.delivery_tag] = request.message
        self._channel = None
        now = time.time()
        self._returning += [(one, now) for one in waiting]
        if consumer.hub is not None:
            minors.celery.acknowledge_now(consumer.hub)
        logger.info(
            "the connection is lost: %d tasks go on, %d that had not begun go back to their queues",
            len([tag for tag in self._carried if tag not in self.pending]),
            len(waiting),
        )
        return True

    def connected(self, consumer: Any) -> None:
        """Give a new connection the messages of this process, before it consumes."""
        channel = consumer.task_consumer.channel
        if not getattr(channel, "ack_emulation", False) or not hasattr(channel, "run"):
            return
        channel.become_ours()
        # A task that ended while its connection was lost may have been acknowledged on that one.
        self._carried = {
            tag: one
            for tag, one in self._carried.items()
            if tag not in self.pending and not one.acknowledged
        }
        for message in self._carried.values():
            internals.adopt(channel, message)
        self._channel = channel
        if self._carried:
            logger.info(
                "%d tasks that began on an earlier connection are acknowledged on this one",
                len(self._carried),
            )
        self.flush()
        self._put_back(consumer)

    def flush(self) -> None:
        """Send the kept acknowledgements on the present connection."""
        channel = self._channel
        if not self.pending:
            return
        names = [channel.unacked_key, channel.unacked_index_key]
        sent, gone = [], 0
        try:
            for tag in self.pending.tags()[:BATCH]:
                gone += not channel.run(ACK, names, [tag])
                sent.append(tag)
        finally:
            self.pending.sent(sent)
        logger.info("%d kept acknowledgements were sent", len(sent))
        if gone:
            # The first command may have run, and only its reply was lost.
            logger.info("%d of them were for messages that are no longer in unacked", gone)

    def retry(self, consumer: Any) -> None:
        """Send and put back what Redis has refused so far; a timer calls this, so errors are logged and not raised."""
        if self._channel is None:
            return
        try:
            self.flush()
            self._put_back(consumer)
        except Exception as exc:  # noqa: BLE001  # all of it stays kept, and the loop notices a lost connection itself
            logger.debug("acknowledgements and messages can't be sent yet: %s", error_text(exc))

    def _put_back(self, consumer: Any) -> None:
        if not self._returning:
            return
        # With greenlets, more messages may be added while this waits for Redis.
        returning, self._returning = self._returning, []
        left = returning
        try:
            answers = give_back.give_back(consumer, returning)
            tried = zip(returning, answers, strict=True)
            left = [one for one, answer in tried if isinstance(answer, Exception)]
        finally:
            self._returning = left + self._returning
        logger.log(
            logging.DEBUG if len(left) == len(returning) else logging.INFO,
            "%d messages of tasks that had not started were put back, %d have still to be",
            sum(answer for answer in answers if not isinstance(answer, Exception)),
            len(left),
        )


def _text_of(error: Exception) -> str:
    if isinstance(error, AttributeError):  # kombu's channel has no connection
        return "the connection is lost"
    return error_text(error)
