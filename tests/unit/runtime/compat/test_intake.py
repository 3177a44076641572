"""Tasks that wait for their ETA in a worker whose clock is set."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from celery.concurrency.gevent import Timer as GreenTimer
from celery.worker.request import Request
from kombu.asynchronous import timer as kombu_timer

from celery_fleet.compat import intake
from celery_fleet.compat.minors import chosen as minors


@pytest.mark.parametrize("timer", [kombu_timer.Timer(), GreenTimer()], ids=["loop", "greenlets"])
@pytest.mark.parametrize(
    ("step", "left"),
    [pytest.param(3000, 600, id="forward"), pytest.param(-3000, 6600, id="back")],
)
def test_a_task_waits_for_its_time_on_the_new_clock(
    monkeypatch: pytest.MonkeyPatch, timer: Any, step: int, left: int
) -> None:
    real = time.time
    request = Request.__new__(Request)
    request._eta = datetime.now(UTC) + timedelta(hours=1)
    other = timer.call_after(60, print)
    request._eta_timer_entry = timer.call_at(request.eta, print, (request,))
    look = intake.follow_clock(SimpleNamespace(timer=timer))
    for module, name in ((time, "time"), (kombu_timer, "_time")):
        monkeypatch.setattr(module, name, lambda: real() + step)
    for _ in range(2):
        look()
        ((waiting, found),) = minors.celery.waiting_requests(timer)
        assert found is request
        assert waiting.eta - time.monotonic() == pytest.approx(left, abs=30)
        assert not other.canceled
    # Celery cancels it by this, for example if the connection is lost.
    timer.cancel(request._eta_timer_entry)
    gevent.sleep(0)
    assert minors.celery.waiting_requests(timer) == []
    timer.clear()


def test_a_task_that_has_just_begun_does_not_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """gevent's timer has its greenlet for a moment after the end, if others run in the same turn of the loop."""
    timer = GreenTimer()
    real = time.time
    begun: list[Request] = []
    request = Request.__new__(Request)
    request._eta = datetime.now(UTC) + timedelta(seconds=0.1)
    timer.call_at(request.eta, begun.append, (request,))
    look = intake.follow_clock(SimpleNamespace(timer=timer))

    def step() -> None:
        monkeypatch.setattr(time, "time", lambda: real() + 3000)
        look()

    timer.call_after(0.11, step)
    gevent.spawn(time.sleep, 0.3)  # blocks the loop, so that both expire together
    gevent.sleep(0.5)
    assert begun == [request]
    timer.clear()
