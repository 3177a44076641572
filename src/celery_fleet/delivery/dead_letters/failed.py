"""Keep the messages of tasks that failed for good, instead of acknowledging them."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from celery_fleet.common.errors import is_shortage
from celery_fleet.delivery import keys
from celery_fleet.delivery.dead_letters import internals as adapter
from celery_fleet.delivery.dead_letters import letters as dead_letters
from celery_fleet.delivery.dead_letters.letter_writer import LetterWriter
from celery_fleet.delivery.dead_letters.letters import FAILED, described
from celery_fleet.delivery.options import Options
from celery_fleet.delivery.outage.away import is_away

logger = logging.getLogger("celery_fleet.delivery")


class FailedTasks:
    """Keeps the messages of tasks that failed for good, up to the number in the options."""

    def __init__(self, consumer: Any, options: Options, writer: LetterWriter) -> None:
        self._consumer = consumer
        self._options = options
        self._writer = writer

    def failed(self, request: Any, exc: BaseException) -> None:
        """Park a request's message instead of acknowledging it. Safe in any thread."""
        adapter.instead_of_ack(request.message, partial(self._keep, exc=exc))

    def _keep(self, message: Any, exc: BaseException) -> bool:
        """Make the message of a failed task a dead letter; return False if it has to be acknowledged instead.

        Other dead letters are not dropped to make room, because their tasks may not have run at all.
        """
        channel = message.channel
        identifier, task = dead_letters.identity(adapter.raw(message))
        try:
            if not adapter.in_unacked(message):
                raise ConnectionError("the connection is lost")
            with adapter.client(channel) as client:
                number = int(client.zcard(keys.DEAD_LETTERS_INDEX))
            if number >= self._options.failed:
                logger.error(
                    "failed task %s[%s] is not kept: there are %d dead letters (celery_worker_max_failed_dead_letters)",
                    task,
                    identifier,
                    number,
                )
                return False
            self._writer.park(message, FAILED, described(exc))
        except Exception as error:  # noqa: BLE001  # the task has failed already; its worker must not end as well
            away = is_away(error) or is_shortage(error)
            logger.error(
                "failed task %s[%s] can't be kept (%s): %s",
                task,
                identifier,
                described(error),
                "it runs again" if away else "it is acknowledged",
            )
            if away:
                message.reject_log_error(logger, self._consumer.connection_errors, requeue=True)
            return away
        return True
