"""Obey the pauses that operators keep on the broker; see `celery_fleet.common.pauses`.

Remote control's ``fleet_pauses`` has a worker read them; see `celery_fleet.worker.orders`. It continues to consume its
direct queue, so canaries still prove that it works.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from celery.worker import state as worker_state
from kombu.transport.redis import Channel

from celery_fleet.common import pauses
from celery_fleet.common.pauses import Pause
from celery_fleet.compat import worker
from celery_fleet.delivery.keys import PAUSES, direct_queue
from celery_fleet.worker.drainer import Drainer
from celery_fleet.worker.orders import Orders

logger = logging.getLogger("celery_fleet.pausing")


class Pausing(Orders):
    """Which of a worker's queues are paused."""

    name = "fleet_pauses"
    what = "the pauses"
    log = logger

    def __init__(self, drainer: Drainer) -> None:
        super().__init__()
        self._drainer = drainer
        self._found: list[Pause] = []
        self._verdicts: dict[str, bool] = {}
        self._asked = self._answered = 0
        #: The paused queues with their pauses; replaced as a whole, so any thread may read it.
        self.paused: dict[str, Pause] = {}
        drainer.is_paused = self.is_paused

    def why_not(self, consumer: Any) -> str | None:
        """Return why a worker can't pause; None if it can."""
        return worker.why_not_paused(consumer)

    def is_paused(self, queue: str) -> bool:
        """Return whether nothing may be fetched from a queue, which may have been added since the last look."""
        if queue not in self._verdicts:
            self._verdicts[queue] = bool(self._stopped([queue]))
        return self._verdicts[queue]

    def _stopped(self, queues: Iterable[str]) -> dict[str, Pause]:
        node = "" if self._consumer is None else self._consumer.hostname
        ours = [queue for queue in queues if queue != direct_queue(node)]
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

    def running(self) -> dict[str, int]:
        """Return how many tasks of each paused queue still run."""
        found = dict.fromkeys(self.paused, 0)
        for request in tuple(worker_state.reserved_requests):
            queue = getattr(request.message, "queue", None)
            if queue in found:
                found[queue] += 1
        return found

    def reply(self, consumer: Any) -> dict[str, Any]:
        """Return how many tasks of paused queues still run."""
        return {"paused": self.running()}
