from __future__ import annotations

import errno
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from celery_fleet.compat.broker import Endpoint
from celery_fleet.supervision import broker
from scripts.ports import free_port


class Server:
    """A TCP server on the loopback that answers PING with PONG, or nothing at all."""

    def __init__(self, answers: bool) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.open = 0
        self._answers = answers
        self.replies = {
            b"HELLO": b"%1\r\n+proto\r\n:3\r\n",
            b"CLIENT": b"+OK\r\n",
            b"SELECT": b"+OK\r\n",
            b"MULTI": b"+OK\r\n",
            b"PING": b"+PONG\r\n",
            b"SADD": b"+QUEUED\r\n",
            b"DISCARD": b"+OK\r\n",
        }
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
                    for command in re.findall(rb"\*\d+\r\n\$\d+\r\n(\w+)", data):
                        client.sendall(self.replies.get(command, b"-ERR unknown\r\n"))
        self.open -= 1

    def closed(self) -> bool:
        """Return whether clients have closed all connections: a leaked one is never closed, however long this waits."""
        deadline = time.monotonic() + 10
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
def test_a_broker_that_hangs_times_out_without_a_leaked_connection(server: Server) -> None:
    start = time.monotonic()
    with pytest.raises(RedisError):
        broker.ping(endpoint(server.port), timeout=0.2)

    # Without a limit it would wait for ever.
    assert time.monotonic() - start < 10
    assert server.closed()


@pytest.mark.parametrize("server", [True], indirect=True)
def test_a_full_broker_does_not_count_as_answering(server: Server) -> None:
    assert broker.ask_endpoints([endpoint(server.port)], queueing=True) is None

    server.replies[b"SADD"] = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
    trouble = broker.ask_endpoints([endpoint(server.port)], queueing=True)

    assert trouble is not None
    assert trouble.startswith(f"127.0.0.1:{server.port}: ")
    assert "maxmemory" in trouble
    assert server.closed()


@pytest.mark.parametrize("server", [True], indirect=True)
def test_a_refused_write_counts_as_an_answer(server: Server) -> None:
    server.replies[b"SADD"] = b"-NOPERM this user has no permissions to access one of the keys\r\n"
    assert broker.ask_endpoints([endpoint(server.port)], queueing=True) is None
    server.replies[b"PING"] = b"-NOPERM this user has no permissions to run the 'ping' command\r\n"
    assert "no permissions" in str(broker.ask_endpoints([endpoint(server.port)]))


@pytest.mark.parametrize("server", [True], indirect=True)
def test_a_worker_asks_the_result_store_as_well(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Server(answers=False)
    try:
        app = Celery("shop", set_as_current=False, broker=f"redis://127.0.0.1:{server.port}/0")
        app.conf.result_backend = f"redis://127.0.0.1:{store.port}/0"
        ping = broker.ping

        def impatient(place: Endpoint, queueing: bool = False) -> None:
            ping(place, queueing, 0.3 if place.port == store.port else 20)

        monkeypatch.setattr(broker, "ping", impatient)

        trouble = broker.question(app, results=True)()
        assert trouble is not None
        assert trouble.startswith(f"result store 127.0.0.1:{store.port}: ")
        assert broker.question(app)() is None

        # A store without an address is not asked.
        app.conf.result_backend = "cache+memory://"
        assert broker.question(app, results=True)() is None
    finally:
        store.stop()


def test_a_broker_that_refuses_is_named_before_the_result_store() -> None:
    app = Celery("shop", set_as_current=False, broker="redis://127.0.0.1:9/0")
    app.conf.result_backend = "redis://127.0.0.1:9/1"

    trouble = broker.question(app, results=True)()
    assert trouble is not None
    assert trouble.startswith("broker 127.0.0.1:9: ")


def test_no_password_of_another_transport_is_in_the_status() -> None:
    app = Celery(
        "shop", set_as_current=False, broker="sqla+postgresql://shop:geheim@postgresql1/shop"
    )

    assert "geheim" not in broker.name(app)


def test_a_refused_connection_names_the_address() -> None:
    port = free_port()

    trouble = broker.ask_endpoints([endpoint(port)])

    assert trouble is not None
    assert trouble.startswith(f"127.0.0.1:{port}: ")
    assert "refused" in trouble


def test_one_of_several_brokers_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def ping(which: Endpoint, _: bool) -> None:
        if which.port == 1:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    monkeypatch.setattr(broker, "ping", ping)

    assert broker.ask_endpoints([endpoint(1), endpoint(2)]) is None
    assert broker.ask_endpoints([endpoint(1)]) == "127.0.0.1:1: [Errno 111] Connection refused"


def test_a_shortage_of_this_process_is_not_blamed_on_the_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ping(*_: Any) -> None:
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


def test_a_probe_that_hangs_ends_in_time_and_is_not_repeated() -> None:
    release = threading.Event()
    put = []

    def hang() -> str | None:
        put.append(1)
        release.wait(60)
        return None

    question = broker.Question(hang, "redis1:6379", deadline=0.05)
    try:
        assert question.ask() == "redis1:6379: no answer within 0.05 s"
        assert question.ask() == "redis1:6379: no answer within 0.05 s"
        assert len(put) == 1
    finally:
        release.set()
    assert question._thread is not None
    question._thread.join(30)
    question._deadline = 30.0
    assert question.ask() is None
    assert len(put) == 2


def test_an_exception_of_a_probe_reaches_its_caller() -> None:
    def fail() -> str | None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        broker.Question(fail, "x").ask()
