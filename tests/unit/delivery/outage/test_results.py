"""How long a worker that ends tries to store results."""

from __future__ import annotations

import logging

import pytest
from celery import Celery
from celery.exceptions import BackendStoreError
from redis.exceptions import ConnectionError as RedisConnectionError

from celery_fleet.delivery.outage import results
from celery_fleet.delivery.outage.away import is_away

#: Seconds of each attempt.
ATTEMPT = 4.0


class Clock:
    """A clock that only attempts move on."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("told", "away", "stored"),
    [
        pytest.param(None, 3600, True, id="it goes on"),
        pytest.param(1, 16, True, id="a failover"),
        pytest.param(1, 60, False, id="an outage"),
        pytest.param(600, 16, True, id="a failover, after a long drain"),
        pytest.param(600, 60, False, id="an outage, after a long drain"),
    ],
)
def test_a_worker_that_ends_gives_up_a_result_after_a_while(
    told: float | None,
    away: float,
    stored: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It was told to end so many seconds before the task ended; the result store is away for so many after that."""
    clock = Clock()
    began = clock.now
    deadline = results.ShutdownDeadline(clock=clock)
    if told is not None:
        clock.now = began - told
        deadline.give()
        clock.now = began
    app = Celery("shop", set_as_current=False, backend="redis://127.0.0.1:1/0")
    app.conf.update(result_backend_always_retry=True, result_backend_max_retries=10_000)
    backend = app.backend
    written = []

    def store(task_id: str, *_: object, **__: object) -> None:
        if clock.now < began + away:
            clock.now += ATTEMPT
            raise RedisConnectionError("refused")
        written.append(task_id)

    monkeypatch.setattr(backend, "_store_result", store)
    monkeypatch.setattr(backend, "_sleep", lambda _: None)
    with caplog.at_level(logging.ERROR, logger="celery_fleet.delivery"):
        assert results.bound(backend, deadline, lambda: False).store_result("1", 4, "SUCCESS") == 4
    assert written == (["1"] if stored else [])
    assert ("the result of task 1 (SUCCESS) is not stored" in caplog.text) is not stored
    if not stored:
        assert results.AFTER < clock.now - began <= results.AFTER + ATTEMPT


def test_a_worker_that_ends_stores_no_failure_after_a_success(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Celery's own attempts are over before the deadline is."""
    deadline = results.ShutdownDeadline()
    app = Celery("shop", set_as_current=False, backend="redis://127.0.0.1:1/0")
    app.conf.update(result_backend_always_retry=True, result_backend_max_retries=2)
    backend = results.bound(app.backend, deadline, lambda: False)

    def store(*_: object, **__: object) -> None:
        raise RedisConnectionError("refused")

    monkeypatch.setattr(backend, "_store_result", store)
    monkeypatch.setattr(backend, "_sleep", lambda _: None)
    with pytest.raises(BackendStoreError):
        backend.store_result("1", 4, "SUCCESS")
    deadline.give()
    assert backend.store_result("1", 4, "SUCCESS") == 4
    assert "the result of task 1 (SUCCESS) is not stored" in caplog.text


def test_a_task_of_a_worker_that_ends_waits_to_start_a_chord() -> None:
    """For that, it has to see that the result store is away."""
    deadline = results.ShutdownDeadline(after=0)
    deadline.give()

    def fail() -> None:
        try:
            raise RedisConnectionError("refused")
        except RedisConnectionError:
            deadline.check()
            raise

    with pytest.raises(results.GivenUpError) as caught:
        fail()
    assert is_away(caught.value)
