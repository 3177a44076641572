"""Handle tasks that this worker does not know, although another worker or the next release may."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Container
from functools import partial
from typing import Any

from celery_fleet.common import text as words
from celery_fleet.delivery import keys
from celery_fleet.delivery.dead_letters import internals as adapter
from celery_fleet.delivery.dead_letters import letters as dead_letters
from celery_fleet.delivery.dead_letters.letter_writer import LetterWriter
from celery_fleet.delivery.dead_letters.letters import UNKNOWN
from celery_fleet.delivery.dead_letters.waiting import Waiting, put_back
from celery_fleet.delivery.messages import list_of
from celery_fleet.delivery.options import Options
from celery_fleet.delivery.scripts import TAIL

logger = logging.getLogger("celery_fleet.delivery")

#: Shortest and longest time for which a worker holds a message before it offers it, as fractions of the usual time.
AROUND = (0.75, 1.25)


class UnknownTasks:
    """Holds messages of unknown tasks, offers them to other workers, and parks them in the end.

    Use it in the event loop's thread only.
    """

    def __init__(
        self, consumer: Any, options: Options, writer: LetterWriter, waiting: Waiting
    ) -> None:
        self._consumer = consumer
        self._options = options
        self._writer = writer
        self._waiting = waiting
        self._offset: float | None = None

    def received(self, message: Any, exc: Exception) -> None:
        """Hold a message for a while, and then offer it to the other workers.

        Args:
            message: A message of an unknown task, in ``unacked``.
            exc: Celery's error, with which the task fails when it is parked.
        """
        raw = adapter.raw(message)
        identifier, task = dead_letters.identity(raw)
        count = int(dead_letters.header(raw, keys.UNKNOWN)) + 1
        since = dead_letters.header(raw, keys.UNKNOWN_SINCE) or self._now(message)
        adapter.set_header(message, keys.UNKNOWN, count)
        adapter.set_header(message, keys.UNKNOWN_SINCE, round(since, 3))
        left = max(0.0, since + self._options.unknown_for - self._now(message))
        # Vary the time. BRPOP serves the client that has waited longest. With a fixed interval, this worker would fetch
        # the message again and again, before the workers that know its task.
        around = self._options.unknown_delay * random.uniform(*AROUND)  # noqa: S311 (nothing secret)
        seconds = min(around, adapter.longest_hold(message))
        logger.log(
            logging.WARNING if count == 1 else logging.INFO,
            "task %s[%s] is not known to this worker: it goes back to the end of %s in %.0f s, for other workers or"
            " another release; in %.0f s it becomes a dead letter",
            task,
            identifier,
            dead_letters.queue_of(list_of(message)),
            min(seconds, left),
            left,
        )
        self._waiting.hold(message, min(seconds, left), partial(self._offer, exc=exc, since=since))

    def _offer(self, message: Any, exc: Exception, since: float) -> None:
        """Put a message back into its queue, or park it if it has been offered for long enough."""
        raw = adapter.raw(message)
        if self._now(message) - since >= self._options.unknown_for:
            identifier, task = dead_letters.identity(raw)
            about = {"id": identifier, "task": task}
            times = words.count(int(dead_letters.header(raw, keys.UNKNOWN)), "time")
            detail = (
                f"no worker that fetched it knows this task: it was fetched {times} within"
                f" {self._now(message) - since:.0f} s"
            )
            after = partial(adapter.fail_unknown, self._consumer, message, exc, about)
            self._writer.park(message, UNKNOWN, detail, after, since=since)
            return
        # Put it at the tail, so that other messages come first.
        put_back(message, TAIL)

    def _now(self, message: Any) -> float:
        """Return the time by Redis's clock if it is available, because a host's clock may be wrong."""
        if self._offset is None:
            try:
                with adapter.client(message.channel) as client:
                    seconds, micro = client.time()
                self._offset = int(seconds) + int(micro) / 1e6 - time.monotonic()
            except Exception:  # noqa: BLE001  # use the host's clock instead
                return time.time()
        return time.monotonic() + self._offset


def clear_if_known(message: Any, strategies: Container[Any]) -> None:
    """Remove the header of an unknown task once the task is known, so that its retries don't inherit it."""
    headers = message.headers
    if keys.UNKNOWN in headers and headers.get("task") in strategies:
        for name in (keys.UNKNOWN, keys.UNKNOWN_SINCE):
            headers.pop(name, None)
