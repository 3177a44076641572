"""Make dead letters of messages, log them, and store their results and send their signals in a separate thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery_fleet.delivery.dead_letters import internals as adapter
from celery_fleet.delivery.dead_letters import letters as dead_letters
from celery_fleet.delivery.dead_letters.letters import PARK, Parked, described
from celery_fleet.delivery.messages import FetchedMessage, list_of
from celery_fleet.delivery.options import Options
from celery_fleet.delivery.outage.send_queue import SendQueue
from celery_fleet.delivery.scripts import run

logger = logging.getLogger("celery_fleet.delivery")

#: Most dead letters whose results and signals wait.
MOST_ASIDE = 10_000


class LetterWriter:
    """Makes dead letters of a worker's messages.

    Args:
        options: How many dead letters to keep.
        node: The worker's name, for the letters.
    """

    def __init__(self, options: Options, node: str) -> None:
        self._options = options
        self._node = node
        #: Stores results and sends signals of what was parked: a result store that hangs must not block the event
        #: loop.
        self._aside: SendQueue[Callable[[], object]] = SendQueue(
            "celery_fleet.dead_letters",
            lambda action: action(),
            limit=MOST_ASIDE,
            pause=0.0,
            again=lambda *_: False,
            dropped=_tell_of_lost,
            newest=True,
        )

    def park(
        self,
        message: Any,
        reason: str,
        detail: str,
        after: Callable[[], object] | None = None,
        since: float | None = None,
        tag: str | None = None,
    ) -> None:
        """Make a message a dead letter.

        Args:
            message: kombu's.
            reason: One of :data:`celery_fleet.delivery.dead_letters.letters.REASONS`.
            detail: The reason in words.
            after: Called in another thread if the message was still this worker's.
            since: Unix time since when it could not be run; None for now.
            tag: Its tag in ``unacked``, empty if it is not there; None for its delivery's.

        Raises:
            redis.exceptions.RedisError, OSError: Redis did not take it.
        """
        channel = message.channel
        tag = message.delivery_tag if tag is None else tag
        fetched = FetchedMessage(adapter.item_of(message), tag, list_of(message))
        parked = self._park(channel, fetched, reason, detail, since)
        if adapter.in_unacked(message):
            adapter.forget(message)
        _, task = dead_letters.identity(adapter.raw(message))
        self._tell(parked, task, dead_letters.queue_of(fetched.key), reason, detail)
        if parked.done and after is not None:
            self._aside.put(after)

    def park_raw(self, channel: Any, fetched: FetchedMessage, reason: str, detail: str) -> None:
        """Park an item that can't become a message; used as ``hooks.HOOKS.park_raw``."""
        detail = described(detail)
        parked = self._park(channel, fetched, reason, detail)
        _, task = dead_letters.identity(dead_letters.parsed(dead_letters.text_of(fetched.item)))
        self._tell(parked, task, dead_letters.queue_of(fetched.key), reason, detail)

    def _park(
        self,
        channel: Any,
        fetched: FetchedMessage,
        reason: str,
        detail: str,
        since: float | None = None,
    ) -> Parked:
        names, arguments = dead_letters.park_call(
            fetched,
            reason,
            detail,
            self._node,
            keep=self._options.keep,
            since=since,
            places=adapter.places(channel),
        )
        with adapter.client(channel) as client:
            return Parked.of(run(client, PARK, names, arguments))

    def close(self, seconds: float) -> bool:
        """Wait until all results are stored and signals sent, for so many seconds at most; return whether they are."""
        return not self._aside.close(seconds)

    def _tell(
        self, parked: Parked, task: str | None, queue_: str, reason: str, detail: str
    ) -> None:
        if not parked.done:
            logger.warning("a message of %s that can't be run is another worker's by now", queue_)
            return
        logger.error(
            "dead letter (%s): %s[%s] of %s: %s; celery-fleet dead-letters show %s",
            reason,
            task or "a message",
            parked.id,
            queue_,
            detail,
            parked.id,
        )
        if parked.gone:
            logger.error(
                "the oldest %d dead letters are gone for good: more than %d are not kept"
                " (celery_worker_max_dead_letters)",
                parked.gone,
                self._options.keep,
            )


def _tell_of_lost(items: list[Any], why: str) -> None:
    logger.error("the results and signals of %d dead letters are lost: %s", len(items), why)
