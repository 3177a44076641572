"""Follow what operators keep on the broker for workers: pauses and pool sizes.

A worker reads it on each new connection before it consumes, every `INTERVAL` seconds, and when remote control's command
tells it to. Everything happens in the loop's thread, or in a greenlet.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery.worker.control import Panel
from redis.exceptions import ResponseError

from celery_fleet.common.errors import error_text
from celery_fleet.compat import intake, worker

#: Seconds between two looks at the broker, for a worker that has missed the command.
INTERVAL = 30.0


class Orders:
    """What operators want of a worker, as the broker has it.

    Attributes:
        name: The remote control command that makes a worker read it.
        what: It in words, for logs.
        log: Where changes and errors are logged.
    """

    name: str
    what: str
    log: logging.Logger

    def __init__(self) -> None:
        self._consumer: Any = None
        self._ends: list[Callable[[], None]] = []
        self._trouble: str | None = None

    def why_not(self, consumer: Any) -> str | None:
        """Return why a worker can't obey; None if it can."""
        raise NotImplementedError

    def read(self) -> None:
        """Read the orders and obey them.

        Raises:
            Exception: The broker does not answer, or refuses.
        """
        raise NotImplementedError

    def reply(self, consumer: Any) -> dict[str, Any]:
        """Return the reply to the command, after reading."""
        raise NotImplementedError

    def connected(self, consumer: Any) -> None:
        """Read the orders on a new connection that does not consume yet.

        Raises:
            Exception: The broker is away again; Celery connects once more.
        """
        if self.why_not(consumer) is not None:
            return
        self._consumer = consumer
        try:
            self.read()
        except consumer.task_consumer.channel.connection_errors:
            raise
        except Exception as exc:  # noqa: BLE001  # what someone has written there must not end the worker
            self._tell(exc)
        self._ends = [intake.repeat(consumer.timer, INTERVAL, self._read_again)]

    def disconnected(self) -> None:
        """Handle a lost connection."""
        self._consumer, ends, self._ends = None, self._ends, []
        for end in ends:
            end()

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
            self.log.warning("%s can't be read: %s", self.what, text)

    def command(self, state: Any, **_: Any) -> dict[str, Any]:
        """Read the orders and obey them, because remote control says so."""
        why_not = self.why_not(state.consumer)
        if why_not is not None:
            return {"why_not": why_not}
        try:
            self.read()
        except ResponseError as exc:
            # For example its user lacks the right until the next run of site.yml.
            self._tell(exc)
            return {"why_not": f"{self.what} can't be read: {error_text(exc)}"}
        except Exception:  # noqa: BLE001  # it has no connection now, and reads on the next one
            return {"later": True}
        return self.reply(state.consumer)

    def register(self) -> None:
        """Add the remote control command."""
        Panel.register(name=self.name)(self.command)
