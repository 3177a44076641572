"""A signal that stops beat only takes effect at the end of the current tick."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from celery_fleet.beat import schedule_file
from celery_fleet.beat.steps import STOP_LIMIT
from celery_fleet.compat import beat
from tests.fleet import wait_for
from tests.unit.runtime.beat.real import RealBeat

#: Celery handles these. SIGHUP does the same.
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def celerys() -> list[int]:
    """Install a handler like Celery's; return the signals that it gets."""
    got: list[int] = []

    def handler(number: int, _: Any) -> None:
        got.append(number)
        raise SystemExit

    for number in SIGNALS:
        signal.signal(number, handler)
    return got


def guarded(tick: Callable[[], Any], limit: float = 60) -> Callable[[], Any]:
    service = SimpleNamespace(scheduler=SimpleNamespace(tick=tick))
    beat.finish_tick_before_stop(service, limit)
    guarded_tick: Callable[[], Any] = service.scheduler.tick
    return guarded_tick


def wait_to_be_stopped() -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        time.sleep(0.01)
    pytest.fail("no signal has come")


@pytest.mark.parametrize("number", [*SIGNALS, signal.SIGHUP])
def test_the_tick_ends_first(celerys: list[int], number: int) -> None:
    done = []

    def tick() -> float:
        os.kill(os.getpid(), number)
        done.append("sent")
        return 0.0

    with pytest.raises(SystemExit):
        guarded(tick)()
    assert (done, celerys) == (["sent"], [])


@pytest.mark.parametrize("number", [*SIGNALS, signal.SIGHUP])
def test_between_ticks_celery_stops_beat(celerys: list[int], number: int) -> None:
    tick = guarded(lambda: 5.0)
    assert tick() == 5.0
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), number)
    assert celerys == [number]


def test_a_tick_that_takes_too_long_is_interrupted(celerys: list[int]) -> None:
    def tick() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        wait_to_be_stopped()

    with pytest.raises(SystemExit):
        guarded(tick, limit=0.1)()
    assert celerys == [signal.SIGTERM]


def test_a_second_signal_interrupts_the_tick(celerys: list[int]) -> None:
    def tick() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        wait_to_be_stopped()

    with pytest.raises(SystemExit):
        guarded(tick)()
    assert celerys == [signal.SIGINT]


def test_an_error_does_not_hide_the_stop(celerys: list[int]) -> None:
    """Redis's client does that, if the handler has closed the connection that it reads from."""

    def tick() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            wait_to_be_stopped()
        finally:
            raise ValueError("I/O operation on closed file.")

    with pytest.raises(SystemExit):
        guarded(tick, limit=0.1)()
    assert celerys == [signal.SIGTERM]


def test_a_tick_that_fails_by_itself_still_fails(celerys: list[int]) -> None:
    def tick() -> None:
        raise TypeError("the schedule's own")

    with pytest.raises(TypeError):
        guarded(tick)()


# --- a real beat --------------------------------------------------------------------------------------


def begin_to_send(real_beat: RealBeat, process: subprocess.Popen[bytes]) -> None:
    """Freeze Redis, and stop beat in the middle of its next send."""
    wait_for(lambda: real_beat.arrived("shop.often"))
    real_beat.redis.signal(signal.SIGSTOP)
    before = real_beat.log.count("Sending due task")
    wait_for(lambda: real_beat.log.count("Sending due task") > before)
    time.sleep(0.5)
    process.terminate()


@pytest.mark.slow
def test_a_task_that_beat_is_sending_arrives(real_beat: RealBeat) -> None:
    """Without this handler its status was 1, or the schedule had a run that was not sent."""
    with real_beat.running(often={"task": "shop.often", "interval": 1}) as process:
        begin_to_send(real_beat, process)
        time.sleep(1)
        assert process.poll() is None
        real_beat.redis.signal(signal.SIGCONT)
        assert process.wait(60) == 0
    sent = real_beat.arrived("shop.often")
    assert real_beat.counts("often", "sent") == sent
    kept = schedule_file.read(real_beat.directory / "schedule")
    assert kept["entries"]["often"].total_run_count == sent


@pytest.mark.slow
def test_a_broker_that_does_not_answer_does_not_delay_the_stop(real_beat: RealBeat) -> None:
    with real_beat.running(often={"task": "shop.often", "interval": 1}) as process:
        begin_to_send(real_beat, process)
        began = time.monotonic()
        assert process.wait(60) == 0
        assert STOP_LIMIT - 1 < time.monotonic() - began < STOP_LIMIT + 10
