"""Making a dead letter of a message, and what follows: the log, and results and signals in a thread of their own."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from celery_fleet.delivery.dead_letters import internals as adapter
from celery_fleet.delivery.dead_letters import letters as dead_letters
from celery_fleet.delivery.dead_letters.letters import PARK, Parked, described
from celery_fleet.delivery.messages import list_of
from celery_fleet.delivery.options import Options
from celery_fleet.delivery.run import run

logger = logging.getLogger("celery_fleet.delivery")


class LetterWriter:
    """Makes dead letters of a worker's messages.

    Args:
        options: how many are kept.
        node: the worker's name, for the letters.
    """

    def __init__(self, options: Options, node: str) -> None:
        self._options = options
        self._node = node
        self._aside = Aside()

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
            reason: one of :data:`celery_fleet.delivery.dead_letters.letters.REASONS`.
            detail: the reason in words.
            after: what follows if the message was still this worker's; in another thread.
            since: Unix time since when it could not be run; None is now.
            tag: under which it is in ``unacked``, empty if it is not there; None is its delivery's.

        Raises:
            redis.exceptions.RedisError, OSError: Redis did not take it.
        """
        channel = message.channel
        where = adapter.places(channel)
        key = list_of(message)
        item = adapter.item_of(message)
        names, arguments = dead_letters.park_call(
            item,
            key,
            reason,
            detail,
            self._node,
            keep=self._options.keep,
            tag=message.delivery_tag if tag is None else tag,
            since=since,
            places=where,
        )
        with adapter.client(channel) as client:
            parked = Parked.of(run(client, PARK, names, arguments))
        if adapter.in_unacked(message):
            adapter.forget(message)
        _, task = dead_letters.identity(adapter.raw(message))
        self._tell(parked, task, dead_letters.queue_of(key), reason, detail)
        if parked.done and after is not None:
            self._aside.do(after)

    def park_raw(
        self, channel: Any, tag: str, key: str, item: bytes, reason: str, detail: str
    ) -> None:
        """Park an item that the atomic take can't make a message of; for ``hooks.HOOKS.park_raw``."""
        where = adapter.places(channel)
        names, arguments = dead_letters.park_call(
            item,
            key,
            reason,
            described(detail),
            self._node,
            keep=self._options.keep,
            tag=tag,
            places=where,
        )
        with adapter.client(channel) as client:
            parked = Parked.of(run(client, PARK, names, arguments))
        _, task = dead_letters.identity(dead_letters.parsed(dead_letters.text_of(item)))
        self._tell(parked, task, dead_letters.queue_of(key), reason, described(detail))

    def flush(self, seconds: float) -> bool:
        """Wait until what follows from the letters is done, but no longer than that; return whether it is."""
        return self._aside.flush(seconds)

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
                " (celery_worker_dead_letters_keep)",
                parked.gone,
                self._options.keep,
            )


class Aside:
    """Does one thing after the other in a thread of its own, which ends with the process."""

    def __init__(self) -> None:
        self._todo: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def do(self, action: Callable[[], object]) -> None:
        """Have it done; an exception is logged."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=self._run, name="celery_fleet.dead_letters", daemon=True
            )
            self._thread.start()
        self._todo.put(action)

    def flush(self, seconds: float) -> bool:
        """Wait until all is done that is to be done by now, but no longer than that; whether it is."""
        if self._thread is None:
            return True
        done = threading.Event()
        self._todo.put(done.set)
        if not done.wait(seconds):
            logger.warning("results of dead letters could not be stored within %.0f s", seconds)
        return done.is_set()

    def _run(self) -> None:
        while True:
            action = self._todo.get()
            try:
                action()
            except Exception:
                logger.exception("what follows from a dead letter could not be done")
