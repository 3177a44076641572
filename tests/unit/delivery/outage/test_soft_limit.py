"""The soft time limit of a task that waits for the broker, wherever its process is when the limit is reached."""

from __future__ import annotations

import gc
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from billiard.pool import SIG_SOFT_TIMEOUT, soft_timeout_sighandler
from celery.exceptions import SoftTimeLimitExceeded
from kombu import Connection, Producer
from redis import exceptions as redis_errors

from celery_fleet.delivery.outage import sending, soft_limit
from celery_fleet.delivery.outage.sending import PatientProducer, PutBackError, patiently
from scripts.ports import free_port


@pytest.fixture(autouse=True)
def in_a_pool(monkeypatch: pytest.MonkeyPatch, in_a_task: SimpleNamespace) -> Iterator[None]:
    """Make this process one of a prefork pool that runs a task."""
    monkeypatch.setattr(sending, "LONGEST_PAUSE", 0.01)
    before = signal.signal(SIG_SOFT_TIMEOUT, soft_timeout_sighandler)
    yield
    signal.signal(SIG_SOFT_TIMEOUT, before)


@pytest.fixture
def collected_soon() -> Iterator[None]:
    """Let Python collect garbage often: the more objects it knows, the longer it leaves connections undeleted."""
    before = gc.get_threshold()
    gc.freeze()
    gc.collect()
    gc.set_threshold(100, 2, 2)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def reach_the_limit() -> None:
    signal.raise_signal(SIG_SOFT_TIMEOUT)


@pytest.mark.usefixtures("collected_soon")
@pytest.mark.timeout(30)  # a limit that is lost would never end the waiting
@pytest.mark.parametrize(
    ("file", "function"),
    [
        # Python ignores errors in the first, and turns them into a TypeError in the second, which kombu calls.
        ("redis/connection.py", "__del__"),
        ("inspect.py", "getfullargspec"),
        ("outage/away.py", "is_away"),
    ],
)
def test_a_limit_that_is_reached_anywhere_in_an_attempt_puts_the_task_back(
    file: str, function: str
) -> None:
    reached = []

    def trace(frame: FrameType, _event: str, _arg: Any) -> None:
        code = frame.f_code
        if not reached and code.co_filename.endswith(file) and code.co_name == function:
            reached.append(code)
            reach_the_limit()

    with Connection(f"redis://127.0.0.1:{free_port()}") as connection:
        producer = PatientProducer(Producer(connection), "t")
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            with pytest.raises(PutBackError):
                producer.publish("body", routing_key="mail")
        finally:
            sys.settrace(before)
    assert reached


def test_a_limit_that_is_reached_in_a_pause_puts_the_task_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Other threads of this process may sleep, too.
    paused = SimpleNamespace(sleep=lambda _seconds: reach_the_limit(), monotonic=time.monotonic)
    monkeypatch.setattr(sending, "time", paused)

    def attempt() -> None:
        raise redis_errors.ConnectionError("refused")

    with pytest.raises(PutBackError):
        patiently(attempt, "the broker")


def refused() -> None:
    reach_the_limit()
    raise redis_errors.NoPermissionError("NOPERM")


@pytest.mark.parametrize("attempt", [reach_the_limit, refused])
@pytest.mark.parametrize(
    ("seconds", "acks_late", "error"),
    [
        # The task did not wait, so it fails as in stock Celery.
        (60, True, SoftTimeLimitExceeded),
        (0, True, PutBackError),
        (0, False, SoftTimeLimitExceeded),
    ],
)
def test_a_limit_during_an_attempt_that_succeeds_or_is_refused_is_not_forgotten(
    in_a_task: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    attempt: Callable[[], None],
    seconds: float,
    acks_late: bool,
    error: type[Exception],
) -> None:
    monkeypatch.setattr(sending, "SLOW", seconds)
    in_a_task.acks_late = acks_late
    with pytest.raises(SoftTimeLimitExceeded) as found:
        patiently(attempt, "the broker")
    assert found.type is error


def test_a_member_of_a_chord_that_has_ended_ignores_the_limit() -> None:
    token = sending._METHOD.set("on_chord_part_return")
    try:
        patiently(reach_the_limit, "the result store")
    finally:
        sending._METHOD.reset(token)


def test_a_limit_inside_of_another_attempt_is_noted_once() -> None:
    with soft_limit.noted() as outer:
        with soft_limit.noted():
            reach_the_limit()
        assert outer.reached
    assert signal.getsignal(SIG_SOFT_TIMEOUT) is soft_timeout_sighandler
    with pytest.raises(SoftTimeLimitExceeded):
        reach_the_limit()


def test_handlers_of_others_and_other_threads_keep_the_signal() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(patiently, lambda: "sent", "the broker").result() == "sent"
    own = []
    signal.signal(SIG_SOFT_TIMEOUT, lambda *_: own.append("reached"))
    assert patiently(lambda: reach_the_limit() or "sent", "the broker") == "sent"
    assert own == ["reached"]
