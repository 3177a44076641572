"""Hold messages that this worker can't run now in ``unacked``, until an action ends their wait.

It runs in a worker, on its event loop, and raises the prefetch by the number of held messages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery_fleet.delivery.dead_letters import internals as adapter
from celery_fleet.delivery.dead_letters.letters import described
from celery_fleet.delivery.messages import list_of
from celery_fleet.delivery.outage.give_back import claim_of
from celery_fleet.delivery.scripts import PUT_BACK, run

logger = logging.getLogger("celery_fleet.delivery")

#: Seconds until the next attempt if Redis refused an action.
RETRY = 5.0

#: Largest number of messages that are held in addition to the prefetch. Beyond it, the worker fetches no others until
#: some have gone back. This keeps a queue full of unknown tasks out of its memory.
MOST_HELD = 1000


@dataclass
class WaitingMessage:
    """A message that waits in ``unacked``, and the action after its wait."""

    message: Any
    action: Callable[[Any], object]
    #: Whether the prefetch was raised for it.
    raised: bool
    entry: Any = None


class Waiting:
    """The messages that a consumer holds but does not run. Use it in the event loop's thread only.

    Args:
        consumer: Celery's consumer. It has no ``timer`` and ``qos`` before it starts, so they are read when needed.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._held: dict[str, WaitingMessage] = {}

    def attempt(self, message: Any, action: Callable[[Any], object]) -> None:
        """Call an action with a message; if that fails, hold the message and try again."""
        try:
            action(message)
        except Exception as exc:  # noqa: BLE001  # the message must not be lost
            logger.warning(
                "a message that can't be run here can't leave unacked now (%s): the next attempt is in %.0f s",
                described(exc),
                RETRY,
            )
            self.hold(message, RETRY, action)

    def guarded(self, message: Any, action: Callable[[], object]) -> None:
        """Call an action; if it fails, log the traceback, hold the message and try again."""
        try:
            action()
        except Exception:
            logger.exception("a message that can't be run stays in unacked for now")
            self.hold(message, RETRY, lambda _: action())

    def hold(self, message: Any, seconds: float, action: Callable[[Any], object]) -> None:
        """Hold a message for some seconds, and then call an action with it."""
        raised = len(self._held) < MOST_HELD
        if raised:
            self._consumer.qos.increment_eventually()
        held = WaitingMessage(message, action, raised)
        self._held[message.delivery_tag] = held
        held.entry = self._consumer.timer.call_after(seconds, self._due, (held,))

    def take(self) -> list[Any]:
        """Remove and return the messages that wait here. The caller must put them back."""
        messages = []
        for held in list(self._held.values()):
            self._let_go(held)
            if adapter.in_unacked(held.message):
                messages.append(held.message)
        return messages

    def forget(self) -> list[Any]:
        """Forget all messages, because their connection closes and kombu puts them back with the others.

        Returns:
            Those that Redis may have removed for this process, so that kombu can't find them.
        """
        messages = [held.message for held in self._held.values()]
        for held in list(self._held.values()):
            self._let_go(held, decrement=False)
        return [message for message in messages if claim_of(message)]

    def _let_go(self, held: WaitingMessage, decrement: bool = True) -> None:
        self._held.pop(held.message.delivery_tag, None)
        if held.entry is not None:
            self._consumer.timer.cancel(held.entry)
        if decrement and held.raised:
            self._consumer.qos.decrement_eventually()

    def _due(self, held: WaitingMessage) -> None:
        if self._held.get(held.message.delivery_tag) is not held:
            return
        self._held.pop(held.message.delivery_tag)
        if not adapter.is_open(held.message.channel) or not adapter.in_unacked(held.message):
            return
        if held.raised:
            self._consumer.qos.decrement_eventually()
        self.attempt(held.message, held.action)


def put_back(message: Any, end: str) -> None:
    """Put a message back into its queue, for any worker.

    Args:
        message: A message in ``unacked``.
        end: :data:`~celery_fleet.delivery.scripts.HEAD` or :data:`~celery_fleet.delivery.scripts.TAIL`.

    Raises:
        redis.exceptions.RedisError, OSError: Redis did not confirm it, and the message stays in ``unacked``.
    """
    channel = message.channel
    where = adapter.places(channel)
    names = [where.unacked, where.unacked_index, list_of(message)]
    with adapter.client(channel) as client:
        run(client, PUT_BACK, names, [message.delivery_tag, adapter.item_of(message), end, ""])
    adapter.forget(message)
