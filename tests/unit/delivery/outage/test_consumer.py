"""A consumer without a broker keeps its timers."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import kombu.asynchronous
import pytest
from celery import Celery, signals
from celery.worker import loops
from celery.worker.consumer import Consumer

from celery_fleet.compat.minors import chosen as minors
from celery_fleet.delivery.hooks import HOOKS
from celery_fleet.delivery.options import ATOMIC, Options
from celery_fleet.delivery.outage import install
from celery_fleet.delivery.outage.consumer import GuardedConsumer

kombu_hub: Any = kombu.asynchronous  # typed in part only


class Away:
    """A breaker that is open the first few times that it is checked."""

    seconds = 0.0

    def __init__(self, looks: int) -> None:
        self._looks = looks

    @property
    def open(self) -> bool:
        self._looks -= 1
        return self._looks >= 0


class Waiting(GuardedConsumer):
    """The parts of a consumer that waiting uses."""

    def __init__(self, hub: Any, breaker: Away, look: Any) -> None:
        self.hub = hub
        self.fleet: Any = SimpleNamespace(breaker=breaker, look=look)
        self.pool = SimpleNamespace()
        self.controller = SimpleNamespace(register_with_event_loop=lambda hub: None)
        self.connection_errors = ()
        # As in Consumer.start before each connection.
        self.timer_entries_before_start = loops._timer_entries(hub.timer)
        self.timer_entries_registered = None


def test_time_limits_that_began_without_a_broker_outlive_the_next_connection() -> None:
    """With a connection, Celery cancels all timers that were added since it began to connect."""
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


class LosesConnection:
    """Celery's consumer before 5.7, which keeps a lost connection."""

    connection: Any

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        self.connection.collected = True

    def on_close(self) -> None:
        self.closed = True


class Guarded(GuardedConsumer, LosesConnection):
    """The parts of a consumer that a lost connection uses."""

    def __init__(self) -> None:
        self.hub, self.timer, self.steps = None, SimpleNamespace(), ()
        self.tripped: list[Exception] = []
        self.fleet: Any = SimpleNamespace(
            carry=None, breaker=SimpleNamespace(trip=self.tripped.append)
        )
        self.connection = self.before = SimpleNamespace(collected=False, close=self.close)
        self.closes = 0

    def close(self) -> None:
        self.closes += 1


def test_without_carry_a_lost_connection_is_closed_and_forgotten() -> None:
    """With a connection, the consumer would start over and over instead of waiting for the broker."""
    consumer, lost = Guarded(), OSError("reset")
    consumer.on_connection_error_after_connected(lost)
    assert consumer.connection is None
    assert consumer.before.collected
    assert (consumer.closes, consumer.tripped) == (1, [lost])


def test_the_timers_of_a_lost_connection_are_forgotten_however_it_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forgotten: list[Any] = []
    monkeypatch.setattr(minors.celery, "forget_timers", forgotten.append)
    for clean in (True, False):
        consumer = Guarded()
        consumer._clean = clean
        consumer.on_close()
        assert ("closed" in vars(consumer)) is not clean
        assert forgotten.pop() is consumer


class GreenTimer(kombu_hub.timer.Timer):  # type: ignore[misc]  # see kombu_hub
    """Like gevent's timer, it returns something else than the entry, and a lost connection does not clear it."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: set[Any] = set()

    def _enter(self, eta: float, priority: int, entry: Any, **_: Any) -> Any:
        self.entries.add(entry)
        return SimpleNamespace(entry=entry, cancel=lambda: None)


def test_each_connections_timers_replace_the_previous_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for field in fields(HOOKS):
        monkeypatch.setattr(HOOKS, field.name, None)
    app = Celery("shop", set_as_current=False)
    install.install(app, Options("at_least_once", ATOMIC, carry=True))
    for signal, uid in (
        (signals.worker_shutting_down, "celery_fleet.deadline"),
        (signals.worker_shutdown, "celery_fleet.outage_guard"),
    ):
        assert signal.disconnect(dispatch_uid=uid), f"{uid} is not connected"
    (made,) = (step for step in app.steps["consumer"] if step.name == "celery_fleet.OutageGuard")
    timer = GreenTimer()
    consumer = SimpleNamespace(
        timer=timer, task_consumer=SimpleNamespace(channel=SimpleNamespace())
    )
    step = made(consumer)
    for _ in range(3):
        step.start(consumer)
        assert len([entry for entry in timer.entries if not entry.canceled]) == 2
