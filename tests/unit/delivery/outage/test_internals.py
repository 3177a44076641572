"""How the outage guard changes objects of Celery."""

from __future__ import annotations

from typing import Any

from celery_fleet.delivery.outage import internals


class Dispatcher:
    """Sends grouped events as Celery before 5.7 does: it empties the list after publishing it."""

    def __init__(self) -> None:
        self.buffer: list[dict[str, Any]] = []

    def flush(self) -> None:
        self._publish(self.buffer, None, "task.multi")
        self.buffer[:] = []

    def _publish(self, event: Any, producer: Any, routing_key: str) -> None:
        raise AssertionError("it was not diverted")


def test_events_that_wait_to_be_sent_are_not_changed() -> None:
    waiting: list[Any] = []
    dispatcher = Dispatcher()
    internals.divert(dispatcher, waiting.append)
    dispatcher.buffer.append({"type": "task-started"})
    dispatcher.flush()
    assert waiting == [([{"type": "task-started"}], "task.multi")]


def test_an_empty_group_of_events_is_not_sent() -> None:
    waiting: list[Any] = []
    dispatcher = Dispatcher()
    internals.divert(dispatcher, waiting.append)
    dispatcher.flush()
    assert waiting == []
