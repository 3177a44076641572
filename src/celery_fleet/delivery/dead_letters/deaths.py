"""Count the processes that die while they run a task, and park its message when there were too many."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from celery_fleet.delivery import keys
from celery_fleet.delivery.dead_letters import internals as adapter
from celery_fleet.delivery.dead_letters import letters as dead_letters
from celery_fleet.delivery.dead_letters.letter_writer import LetterWriter
from celery_fleet.delivery.dead_letters.letters import POISON, described
from celery_fleet.delivery.dead_letters.waiting import Waiting
from celery_fleet.delivery.options import Options
from celery_fleet.delivery.outage import internals as outage
from celery_fleet.delivery.scripts import run

logger = logging.getLogger("celery_fleet.delivery")


class Deaths:
    """Counts the processes that died while they ran each task. Use it in the event loop's thread only."""

    def __init__(self, options: Options, writer: LetterWriter, waiting: Waiting) -> None:
        self._options = options
        self._writer = writer
        self._waiting = waiting

    def count(self, request: Any, exc: BaseException, exc_info: Any) -> bool:
        """Count the death of a request's process; return whether its task has become a dead letter.

        Args:
            request: Celery's request.
            exc: The error with which Celery reports the death.
            exc_info: Celery's information about the error.
        """
        try:
            return self._count(request, exc, exc_info)
        except Exception:
            logger.exception("the death of a process that ran a task could not be counted")
            return False

    def _count(self, request: Any, exc: BaseException, exc_info: Any) -> bool:
        message = request.message
        deaths = round(dead_letters.header(adapter.raw(message), keys.DEATHS) + 1, 3)
        adapter.set_header(message, keys.DEATHS, deaths)
        adapter.carry_header(request, keys.DEATHS, deaths)
        held = adapter.in_unacked(message)
        if deaths < self._options.deaths or not (held or request.acknowledged):
            if held and not request.acknowledged:
                _note(message, deaths)
            return False
        if adapter.runs_again_for_chord(request):
            # To store a failure now would count it twice in a chord that knows the success already.
            detail = described(
                f"{deaths:g} processes died of it after it had succeeded, so its chord may wait for it; the last: {exc}"
            )
            after = partial(adapter.give_up, request)
        elif adapter.succeeded(request):
            return False
        else:
            detail = described(f"{deaths:g} processes died of it; the last: {exc}")
            after = partial(adapter.fail, request, type(exc)(f"{detail}: dead letter"), exc_info)
        # A message that was acknowledged before its task ran is not in Redis any more.
        tag = None if held else ""
        action = partial(self._writer.park, reason=POISON, detail=detail, after=after, tag=tag)
        if held and request.acknowledged:
            # Celery has only scheduled this acknowledgement, which would fail after the message was parked.
            adapter.instead_of_ack(message, lambda _: True)
        adapter.taken_over(request)
        if held:
            self._waiting.attempt(message, action)
        else:
            action(message)
        return True


def _note(message: Any, deaths: float) -> None:
    """Record the death in ``unacked``, for the next worker that fetches the message."""
    channel, tag = message.channel, message.delivery_tag
    value = adapter.noted(channel, tag, keys.DEATHS, deaths)
    if value is None:
        return
    with adapter.client(channel) as client:
        run(client, dead_letters.NOTE, [channel.unacked_key], [tag, value])


def not_counted(*_: Any) -> bool:
    """Let Celery handle the death of a task's process, because dead letters are disabled."""
    return False


def would_run_beside_another(message: Any) -> bool:
    """Return whether a task that may have killed workers would run at the same time as another such task."""
    return _is_suspect(message) and any(_is_suspect(other.message) for other in outage.running())


def _is_suspect(message: Any) -> bool:
    """Return whether a task was running at several deaths of a worker. Only one such task may run at a time."""
    return dead_letters.header(adapter.raw(message), keys.CRASHES) >= keys.SUSPECT
