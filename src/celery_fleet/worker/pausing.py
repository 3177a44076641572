"""Obey the pauses that operators keep on the broker; see `celery_fleet.common.pauses`.

A worker reads them on each new connection before it consumes, every `INTERVAL` seconds, and when remote control's
``fleet_pauses`` tells it to. It continues to consume its direct queue, so canaries still prove that it works.
Everything happens in the loop's thread, or in a greenlet.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from celery.worker import state as worker_state
from celery.worker.control import Panel
from kombu.transport.redis import Channel
from redis.exceptions import ResponseError

from celery_fleet.common import pauses
from celery_fleet.common.errors import error_text
from celery_fleet.common.pauses import Pause
from celery_fleet.compat import intake, worker
from celery_fleet.delivery.keys import PAUSES
from celery_fleet.worker.drainer import Drainer

logger = logging.getLogger("celery_fleet.pausing")

#: Seconds between two looks at the broker, for a worker that has missed the command.
INTERVAL = 30.0


class Pausing:
    """Which of a worker's queues are paused."""

    def __init__(self, drainer: Drainer) -> None:
        self._drainer = drainer
        self._consumer: Any = None
        self._end: Callable[[], None] | None = None
        self._trouble: str | None = None
        self._found: list[Pause] = []
        self._verdicts: dict[str, bool] = {}
        self._asked = self._answered = 0
        #: The paused queues with their pauses; replaced as a whole, so any thread may read it.
        self.paused: dict[str, Pause] = {}
        drainer.is_paused = self.is_paused

    def connected(self, consumer: Any) -> None:
        """Read the pauses on a new connection that does not consume yet.

        Raises:
            Exception: The broker is away again; Celery connects once more.
        """
        if worker.why_not_paused(consumer) is not None:
            return
        self._consumer = consumer
        try:
            self.read()
        except consumer.task_consumer.channel.connection_errors:
            raise
        except Exception as exc:  # noqa: BLE001  # what someone has written there must not end the worker
            self._tell(exc)
        self._end = intake.repeat(consumer.timer, INTERVAL, self._read_again)

    def disconnected(self) -> None:
        """Handle a lost connection."""
        self._consumer, end, self._end = None, self._end, None
        if end is not None:
            end()

    def is_paused(self, queue: str) -> bool:
        """Return whether nothing may be fetched from a queue, which may have been added since the last look."""
        if queue not in self._verdicts:
            self._verdicts[queue] = bool(self._stopped([queue]))
        return self._verdicts[queue]

    def _stopped(self, queues: Iterable[str]) -> dict[str, Pause]:
        node = "" if self._consumer is None else self._consumer.hostname
        ours = [queue for queue in queues if queue != f"{node}.dq2"]
        return pauses.paused(self._found, node, ours)

    def read(self) -> None:
        """Read the pauses and obey them.

        Raises:
            Exception: The broker does not answer, or refuses.
        """
        consumer = self._consumer
        self._asked += 1
        number = self._asked
        channel: Channel = consumer.task_consumer.channel
        with channel.conn_or_acquire() as client:
            found = pauses.parse(client.hgetall(PAUSES))
        self._trouble = None
        # With greenlets, an earlier question may be answered later, and the connection may be lost meanwhile.
        if number > self._answered and self._consumer is consumer:
            self._answered = number
            self._obey(found)

    def _obey(self, found: list[Pause]) -> None:
        self._found, self._verdicts = found, {}
        queues = [queue.name for queue in self._consumer.task_consumer.queues]
        before, self.paused = self.paused, self._stopped(queues)
        if before.keys() == self.paused.keys():
            return
        self._drainer.pause_queues(frozenset(self.paused))
        for queue in sorted(self.paused.keys() - before.keys()):
            pause = self.paused[queue]
            logger.warning("queue %s is paused (%s) %s", queue, pause.words, pause.reason)
        for queue in sorted(before.keys() - self.paused.keys()):
            logger.warning("queue %s is consumed again", queue)

    def _read_again(self) -> None:
        if self._consumer is None or worker.told_to_stop():
            return
        try:
            self.read()
        except Exception as exc:  # noqa: BLE001  # it must not end the loop; a lost connection shows elsewhere
            self._tell(exc)

    def _tell(self, exc: Exception) -> None:
        text = error_text(exc)
        if text != self._trouble:
            self._trouble = text
            logger.warning("the pauses can't be read: %s", text)

    def running(self) -> dict[str, int]:
        """Return how many tasks of each paused queue still run."""
        found = dict.fromkeys(self.paused, 0)
        for request in tuple(worker_state.reserved_requests):
            queue = getattr(request.message, "queue", None)
            if queue in found:
                found[queue] += 1
        return found

    def register(self) -> None:
        """Add the remote control command."""

        def fleet_pauses(state: Any, **_: Any) -> dict[str, Any]:
            """Read the pauses that the broker keeps, and obey them."""
            why_not = worker.why_not_paused(state.consumer)
            if why_not is not None:
                return {"why_not": why_not}
            try:
                self.read()
            except ResponseError as exc:
                # For example its user lacks the right until the next run of site.yml.
                self._tell(exc)
                return {"why_not": f"the pauses can't be read: {error_text(exc)}"}
            except Exception:  # noqa: BLE001  # it has no connection now, and reads on the next one
                return {"later": True}
            return {"paused": self.running()}

        Panel.register(name="fleet_pauses")(fleet_pauses)
