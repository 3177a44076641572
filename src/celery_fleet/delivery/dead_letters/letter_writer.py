"""Turn messages into dead letters and log them. A separate thread stores their results and sends their signals."""

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

#: Largest number of dead letters that wait for that thread.
MOST_ASIDE = 10_000


class LetterWriter:
    """Turns a worker's messages into dead letters.

    Args:
        options: How many dead letters to keep.
        node: The worker's name, for the letters.
    """

    def __init__(self, options: Options, node: str) -> None:
        self._options = options
        self._node = node
        #: Stores the results and sends the signals of dead letters. A result store that hangs must not block the event
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
        """Turn a message into a dead letter.

        Args:
            message: kombu's message.
            reason: One of :data:`celery_fleet.delivery.dead_letters.letters.REASONS`.
            detail: The reason in words.
            after: Called in another thread if this worker still held the message.
            since: Unix time since which it could not be run; None for now.
            tag: Its tag in ``unacked``, empty if it is not there; None for the tag of its delivery.

        Raises:
            redis.exceptions.RedisError, OSError: Redis did not store it.
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
        """Wait up to some seconds until all results are stored and signals are sent; return whether they are."""
        return not self._aside.close(seconds)

    def _tell(
        self, parked: Parked, task: str | None, queue_: str, reason: str, detail: str
    ) -> None:
        if not parked.done:
            logger.warning(
                "a message of %s that can't be run is no longer held by this worker", queue_
            )
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
                "the oldest %d dead letters were dropped, because at most %d are kept"
                " (celery_worker_max_dead_letters)",
                parked.gone,
                self._options.keep,
            )


def _tell_of_lost(items: list[Any], why: str) -> None:
    logger.error("the results and signals of %d dead letters are lost: %s", len(items), why)
