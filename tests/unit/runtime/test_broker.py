from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from celery import Celery
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from celery_fleet import broker
from celery_fleet._celery57 import Endpoint


class Server:
    """A TCP server on the loopback that answers as told: PING with PONG, or nothing at all."""

    def __init__(self, answers: bool) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.open = 0
        self._answers = answers
        self._threads: list[threading.Thread] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.open += 1
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            while data := client.recv(4096):
                if self._answers:
                    for _ in range(data.count(b"*")):
                        client.sendall(b"+PONG\r\n" if b"PING" in data else b"-ERR unknown\r\n")
        self.open -= 1

    def closed(self) -> bool:
        """Whether every connection was closed by its client, given a second."""
        deadline = time.monotonic() + 1
        while self.open and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.open == 0

    def stop(self) -> None:
        self._listener.close()


@pytest.fixture(params=[True, False], ids=["answers", "hangs"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    made = Server(request.param)
    yield made
    made.stop()


def endpoint(port: int) -> Endpoint:
    return Endpoint("127.0.0.1", port, None, None, 0, None)


@pytest.mark.parametrize("server", [False], indirect=True)
def test_a_broker_that_hangs_is_given_up_in_time_and_without_a_leak(server: Server) -> None:
    start = time.monotonic()
    with pytest.raises(RedisError):
        broker.ping(endpoint(server.port), timeout=0.2)

    assert time.monotonic() - start < 2
    assert server.closed()


def test_a_refused_connection_names_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]

    trouble = broker.ask_endpoints([endpoint(port)])

    assert trouble is not None
    assert trouble.startswith(f"127.0.0.1:{port}: ")
    assert "refused" in trouble


def test_one_broker_of_several_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def ping(which: Endpoint) -> None:
        if which.port == 1:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    monkeypatch.setattr(broker, "ping", ping)

    assert broker.ask_endpoints([endpoint(1), endpoint(2)]) is None
    assert broker.ask_endpoints([endpoint(1)]) == "127.0.0.1:1: [Errno 111] Connection refused"


def test_our_own_shortage_is_not_the_brokers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def ping(_: Endpoint) -> None:
        try:
            raise OSError(errno.EMFILE, "Too many open files")
        except OSError as exc:
            raise RedisConnectionError("can't connect") from exc

    monkeypatch.setattr(broker, "ping", ping)

    with pytest.raises(RedisError):
        broker.ask_endpoints([endpoint(1)])


def test_another_transport_is_asked_through_kombu() -> None:
    app = Celery("shop", set_as_current=False, broker="memory://")

    assert broker.ask(app) is None
    assert broker.name(app) == "memory://"


def test_a_question_that_hangs_ends_in_time_and_is_not_put_twice() -> None:
    release = threading.Event()
    put = []

    def hang() -> str | None:
        put.append(1)
        release.wait(5)
        return None

    question = broker.Question(hang, "redis1:6379", deadline=0.05)
    try:
        assert question.ask() == "redis1:6379: no answer within 0.05 s"
        assert question.ask() == "redis1:6379: no answer within 0.05 s"
        assert len(put) == 1
    finally:
        release.set()
    time.sleep(0.05)
    assert question.ask() is None
    assert len(put) == 2


def test_what_a_question_raises_is_raised_to_who_asks() -> None:
    def fail() -> str | None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        broker.Question(fail, "x").ask()
