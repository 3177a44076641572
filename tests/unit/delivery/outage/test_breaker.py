from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.connection import Connection

from celery_fleet.delivery.outage.breaker import LIMIT, Breaker, BrokerAwayError, guard
from scripts.ports import free_port
from tests.unit.delivery.consumers import until


class Broker:
    """A broker that answers or fails, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = threading.Event()

    def __call__(self) -> None:
        self.asked += 1
        if not self.answers.is_set():
            raise OSError("refused redis://:secret@host")


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def breaker(broker: Broker) -> Iterator[Breaker]:
    made = Breaker(broker, pause=0.01, longest=0.05)
    made.adopt()
    yield made
    made.end()
    broker.answers.set()


def test_a_closed_breaker_lets_everything_pass(breaker: Breaker, broker: Broker) -> None:
    breaker.check()
    assert not breaker.open
    assert not broker.asked
    assert breaker.seconds == 0


def test_an_open_breaker_only_refuses_the_guarded_thread(breaker: Breaker) -> None:
    breaker.trip("too slow")
    with pytest.raises(BrokerAwayError, match="does not answer"):
        breaker.check()
    passed = []
    other = threading.Thread(target=lambda: (breaker.check(), passed.append(True)))
    other.start()
    other.join()
    assert passed == [True]


def test_a_child_of_the_pool_is_not_affected(breaker: Breaker) -> None:
    breaker.trip("too slow")
    child = os.fork()
    if child == 0:
        os._exit(1 if breaker.concerned else 0)
    assert os.waitpid(child, 0)[1] == 0


def test_a_task_of_a_solo_pool_is_not_affected(
    breaker: Breaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs in the guarded thread, and may retry for as long as the application lets it."""
    breaker.trip("too slow")
    monkeypatch.setattr("celery_fleet.delivery.outage.breaker.running_task", object)
    breaker.check()
    assert not breaker.concerned


def test_another_thread_does_not_open_it(breaker: Breaker) -> None:
    other = threading.Thread(target=breaker.trip, args=("too slow",))
    other.start()
    other.join()
    assert not breaker.open


def test_it_closes_and_logs_that_when_the_broker_answers(
    breaker: Breaker, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    told = threading.Event()
    breaker.on_closed.append(told.set)
    breaker.trip("too slow")
    until(lambda: broker.asked > 2)
    assert breaker.open
    assert breaker.seconds > 0
    broker.answers.set()
    assert told.wait(30)
    assert not breaker.open
    breaker.check()
    until(lambda: "answers again" in caplog.text)
    assert caplog.text.count("the broker does not answer (refused") == 1
    assert "secret" not in caplog.text


def test_tripping_an_open_breaker_changes_nothing(
    breaker: Breaker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    breaker.trip("too slow")
    breaker.trip("again")
    assert caplog.text.count("a separate thread asks the broker") == 1


def test_an_error_soon_after_it_closed_makes_it_wait_longer() -> None:
    now = [0.0]
    asked: list[float] = []
    breaker = Breaker(lambda: asked.append(now[0]), pause=1.0, longest=3.0, clock=lambda: now[0])
    waits: list[float] = []

    class Ended(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return False

    breaker._ended = Ended()
    breaker.adopt()
    for _ in range(4):
        breaker.trip("again")
        until(lambda: not breaker.open)
    now[0] = 60.0
    breaker.trip("after a minute")
    until(lambda: not breaker.open)
    assert waits == [0, 1.0, 2.0, 3.0, 0]


# --- connections ---


@pytest.fixture
def silent() -> Iterator[int]:
    """Return a port with a listener that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def pool(port: int, breaker: Breaker, timeout: float = 0.2) -> redis.ConnectionPool:
    parameters = {
        "connection_class": Connection,
        "host": "127.0.0.1",
        "port": port,
        "socket_timeout": timeout,
        "socket_connect_timeout": None,
    }
    return redis.ConnectionPool(**guard(parameters, breaker))


def test_a_connection_that_is_not_answered_opens_it_after_one_attempt(
    breaker: Breaker, silent: int
) -> None:
    began = time.monotonic()
    with pytest.raises(redis.RedisError):
        redis.Redis(connection_pool=pool(silent, breaker)).ping()
    assert time.monotonic() - began < LIMIT
    with pytest.raises(BrokerAwayError):
        redis.Redis(connection_pool=pool(silent, breaker)).ping()


def test_a_refused_connection_opens_it(breaker: Breaker) -> None:
    with pytest.raises(redis.ConnectionError):
        redis.Redis(connection_pool=pool(free_port(), breaker)).ping()
    assert breaker.open


def test_timeouts_are_limited_and_nothing_is_retried(breaker: Breaker) -> None:
    made = guard(
        {"connection_class": Connection, "socket_timeout": 10, "socket_connect_timeout": 1}, breaker
    )
    assert made["socket_timeout"] == LIMIT
    assert made["socket_connect_timeout"] == 1
    assert made["retry"].get_retries() == 0


def test_connections_of_other_threads_are_not_changed(breaker: Breaker) -> None:
    given = {"connection_class": Connection, "socket_timeout": 10}
    made: list[Any] = []
    other = threading.Thread(target=lambda: made.append(guard(given, breaker)))
    other.start()
    other.join()
    assert made == [given]


def test_a_read_without_a_timeout_gets_one_in_the_guarded_thread(
    breaker: Breaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Recorder:
        given: Any = "nothing"

        def read_response(self, **options: Any) -> None:
            Recorder.given = options.get("timeout")

    connection = guard({"connection_class": Recorder}, breaker)["connection_class"]()
    connection.read_response(timeout=None)
    assert Recorder.given == LIMIT
    other = threading.Thread(target=connection.read_response, kwargs={"timeout": None})
    other.start()
    other.join()
    assert Recorder.given is None
