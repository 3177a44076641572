"""What a consumer does while it has no broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import kombu.asynchronous
from celery.worker import loops
from celery.worker.consumer import Consumer

from celery_fleet.delivery.consumer import SteadyConsumer

kombu_hub: Any = kombu.asynchronous  # typed in part only


class Away:
    """A breaker that is open for some looks."""

    seconds = 0.0

    def __init__(self, looks: int) -> None:
        self._looks = looks

    @property
    def open(self) -> bool:
        self._looks -= 1
        return self._looks >= 0


class Waiting(SteadyConsumer):
    """As far as waiting needs one."""

    def __init__(self, hub: Any, breaker: Away, look: Any) -> None:
        self.hub = hub
        self.fleet: Any = SimpleNamespace(breaker=breaker, look=look)
        self.pool = SimpleNamespace()
        self.controller = SimpleNamespace(register_with_event_loop=lambda hub: None)
        self.connection_errors = ()
        # As Consumer.start has it before each connection.
        self.timer_entries_before_start = loops._timer_entries(hub.timer)
        self.timer_entries_registered = None


def test_time_limits_that_began_without_a_broker_outlive_the_next_connection() -> None:
    """Celery cancels with a connection all timers since it began to connect."""
    hub: Any = kombu_hub.Hub()
    set_: list[Any] = []

    def look() -> None:
        if not set_:
            set_.append(hub.call_later(100, print))

    consumer = Waiting(hub, Away(3), look)
    consumer.wait_for_broker()
    of_the_connection = hub.call_later(100, print)
    Consumer._cancel_connection_timer_entries(consumer)
    assert not set_[0].cancelled
    assert of_the_connection.cancelled
    hub.close()
