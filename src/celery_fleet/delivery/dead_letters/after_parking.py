"""What follows when a message was parked: the log, and in a thread of its own results and signals."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from celery_fleet.delivery.dead_letters import internals as adapter
from celery_fleet.delivery.dead_letters import letters as dead_letters
from celery_fleet.delivery.dead_letters.letters import described
from celery_fleet.delivery.options import Options

logger = logging.getLogger("celery_fleet.delivery")


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


def tell(
    parked: dead_letters.Parked, task: str | None, queue_: str, reason: str, detail: str, keep: int
) -> None:
    """Log what was parked."""
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
            keep,
        )


def park_raw(options: Options, node: str) -> Callable[[Any, str, str, bytes, str, str], object]:
    """What parks an item that the atomic take can't make a message of; for ``hooks.HOOKS.park_raw``."""

    def parks(channel: Any, tag: str, key: str, item: bytes, reason: str, detail: str) -> None:
        where = adapter.places(channel)
        names, arguments = dead_letters.park_call(
            item,
            key,
            reason,
            described(detail),
            node,
            keep=options.keep,
            tag=tag,
            places=where,
        )
        with adapter.client(channel) as client:
            parked = dead_letters.park(client, names, arguments, where.prefix)
        _, task = dead_letters.identity(dead_letters.parsed(dead_letters.text_of(item)))
        tell(parked, task, dead_letters.queue_of(key), reason, described(detail), options.keep)

    return parks
