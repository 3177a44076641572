from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from celery_fleet.supervision import watch
from celery_fleet.supervision.notify import Notifier
from celery_fleet.supervision.watch import ProcessStatus, State, Watch
from tests.unit.runtime.conftest import SOURCE, Manager

WORKING = ProcessStatus(State.WORKING, "consuming")
STUCK = ProcessStatus(State.STUCK, "stuck")
WAITING = ProcessStatus(State.WAITING, "connecting")
STARTING = ProcessStatus(State.STARTING, "starting")
DRAINING = ProcessStatus(State.DRAINING, "draining: 2 tasks running")


class Fake(Notifier):
    """Records messages, and the watchdog's pings separately."""

    def __init__(self) -> None:
        super().__init__(None, 30.0)
        self.said: list[str] = []
        self.feedings: list[float] = []
        self.clock = 0.0

    def send(self, *assignments: str) -> bool:
        if assignments == ("WATCHDOG=1",):
            self.feedings.append(self.clock)
        else:
            self.said.append(" ".join(assignments))
        return True


class Case:
    """A watch over a process whose state and broker the test sets; time passes in steps."""

    def __init__(self) -> None:
        self.notifier = Fake()
        self.look = STARTING
        self.trouble: str | None = None
        self.asked = 0
        self.asking_takes = 0.0
        self.left: list[float] = []
        self.watch = Watch(
            self.notifier,
            lambda: self._look(),
            self._ask,
            lambda: self.now,
            lambda status: self.left.append(status),
        )

    now = 0.0

    def _look(self) -> ProcessStatus:
        return self.look

    def _ask(self) -> str | None:
        self.asked += 1
        self.now += self.asking_takes
        return self.trouble

    def steps(self, number: int) -> list[bool]:
        results = []
        for _ in range(number):
            results.append(self.watch.step())
            self.now += 1.0
            self.notifier.clock = self.now
        return results

    def longest_hunger(self) -> float:
        """Return the longest time in seconds without a keep-alive, up to now."""
        times = [*self.notifier.feedings, self.now]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


@pytest.fixture
def case() -> Case:
    return Case()


@pytest.fixture
def ready(case: Case) -> Case:
    case.look = WORKING
    case.steps(1)
    return case


def test_ready_is_sent_once_with_the_first_keep_alive(case: Case) -> None:
    case.steps(3)
    case.look = WORKING
    case.steps(3)

    assert case.notifier.said == ["STATUS=starting", "READY=1 STATUS=consuming"]


def test_without_a_broker_it_says_so_and_keeps_waiting(case: Case) -> None:
    case.trouble = "broker redis1:6379: refused"
    healthy = case.steps(300)

    assert all(healthy)
    assert case.notifier.said == ["STATUS=waiting for broker redis1:6379: refused"]
    assert case.asked == 60


def test_a_process_that_was_never_ready_is_not_given_up(case: Case) -> None:
    case.look = STUCK
    assert all(case.steps(100))
    case.look = STARTING
    assert all(case.steps(100))


@pytest.mark.parametrize("look", [STARTING, STUCK])
def test_a_start_that_hangs_while_the_broker_answers_is_ended(
    case: Case, look: ProcessStatus, caplog: pytest.LogCaptureFixture
) -> None:
    case.look = look
    case.steps(300)
    assert case.left == []

    case.steps(3)
    assert case.left[0] == 70
    assert f"not ready, though the broker has answered for 300 s ({look.text})" in caplog.text


def test_a_start_is_not_ended_while_the_broker_is_away_or_it_tries_again(case: Case) -> None:
    case.trouble = "broker redis1:6379: refused"
    case.steps(600)
    case.trouble = None
    case.steps(250)
    case.look = replace(STARTING, attempts=1)
    case.steps(250)
    case.look = WORKING
    case.steps(600)
    case.look = WAITING
    case.steps(600)

    assert case.left == []


def test_a_process_whose_main_thread_hangs_is_ended() -> None:
    code = (
        "import time\n"
        "from celery_fleet.supervision import watch\n"
        "from celery_fleet.supervision.notify import Notifier\n"
        "watch.START_LIMIT = 0.0\n"
        "look = watch.ProcessStatus(watch.State.STARTING, 'preparing to consume')\n"
        "watch.Watch(Notifier(None), lambda: look, lambda: None).start()\n"
        "time.sleep(60)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 70
    assert "exits to be restarted" in done.stderr


def test_a_working_process_sends_a_keep_alive_every_few_seconds(ready: Case) -> None:
    ready.steps(60)

    assert 12 <= len(ready.notifier.feedings) <= 14
    assert ready.longest_hunger() <= 5.0


def test_the_verdict_is_reported_when_it_changes(ready: Case) -> None:
    told: list[bool] = []
    ready.watch._verdict = told.append
    ready.steps(5)
    assert told == []
    ready.look = STUCK
    ready.steps(20)
    assert told == [False]
    ready.look = WORKING
    ready.steps(5)
    assert told == [False, True]


def test_no_verdict_is_reported_during_a_start(case: Case) -> None:
    told: list[bool] = []
    case.watch._verdict = told.append
    case.look = STUCK
    case.steps(20)
    assert told == []


def test_a_stuck_process_gets_no_keep_alive_while_the_broker_answers(ready: Case) -> None:
    ready.steps(10)
    ready.look = STUCK

    assert ready.steps(6) == [True, True, False, False, False, False]
    assert "STATUS=stuck" in ready.notifier.said


def test_a_broker_that_hangs_excuses_a_stuck_process(ready: Case) -> None:
    ready.look, ready.trouble, ready.asking_takes = STUCK, "broker redis1:6379: timeout", 8.0

    assert all(ready.steps(200))
    assert ready.longest_hunger() < 20.0


def test_after_the_broker_is_back_there_is_a_grace_period(ready: Case) -> None:
    ready.look, ready.trouble = STUCK, "redis1:6379: timeout"
    ready.steps(6)
    ready.trouble = None
    healthy = ready.steps(50)

    assert 28 <= healthy.index(False) <= 32
    assert not any(healthy[healthy.index(False) :])


def test_one_or_two_bad_checks_do_not_matter(ready: Case) -> None:
    for _ in range(20):
        ready.look = STUCK
        assert all(ready.steps(2))
        ready.look = WORKING
        assert all(ready.steps(1))
    assert ready.asked == 0


def test_reconnecting_is_left_alone_while_the_broker_is_away(ready: Case) -> None:
    ready.look, ready.trouble = WAITING, "redis1:6379: refused"

    assert all(ready.steps(600))


def test_reconnecting_ends_the_process_if_the_broker_answers_all_the_time(ready: Case) -> None:
    ready.look = WAITING
    healthy = ready.steps(100)

    assert 60 <= healthy.index(False) <= 66


def test_repeated_attempts_to_reconnect_are_no_hang(ready: Case) -> None:
    healthy = []
    for attempt in range(1, 6):
        ready.look = replace(WAITING, attempts=attempt)
        healthy += ready.steps(50)
    assert all(healthy)

    healthy = ready.steps(50)
    assert 10 <= healthy.index(False) <= 16


def test_a_drain_is_left_to_its_own_time_limit(ready: Case) -> None:
    ready.look = DRAINING

    assert all(ready.steps(1000))
    assert ready.notifier.said[-1] == "STOPPING=1 STATUS=draining: 2 tasks running"


def test_a_check_that_fails_is_logged_once_and_sends_no_keep_alive(
    ready: Case, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> ProcessStatus:
        raise RuntimeError("internals changed")

    ready.watch._observe = fail

    assert ready.steps(5)[2:] == [False] * 3
    assert caplog.text.count("watchdog, state: internals changed") == 1


def test_a_broker_probe_that_fails_is_no_excuse(
    ready: Case, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> str | None:
        raise OSError(24, "Too many open files")

    ready.watch._ask = fail
    ready.look = STUCK

    assert ready.steps(5)[2:] == [False] * 3
    assert caplog.text.count("Too many open files") >= 1


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "INTERVAL", 0.01)
    monkeypatch.setattr(watch, "STARTING_INTERVAL", 0.01)


@pytest.mark.usefixtures("quick")
def test_the_thread_survives_and_ends(manager: Manager) -> None:
    calls: list[int] = []

    def look() -> ProcessStatus:
        calls.append(1)
        return WORKING

    notifier = Notifier(manager.address)
    running = Watch(notifier, look, lambda: None)
    real_step: Any = running.step

    def step() -> bool:
        if len(calls) == 1:
            calls.append(1)
            raise RuntimeError("once")
        return bool(real_step())

    running.step = step  # type: ignore[method-assign]  # fails once
    running.start()
    running.start()
    deadline = time.monotonic() + 30
    while len(calls) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    running.stop()

    assert len(calls) >= 6
    assert "celery_fleet.watch" not in {thread.name for thread in threading.enumerate()}
    assert manager.heard()[0] == "READY=1\nSTATUS=consuming"
