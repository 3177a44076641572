"""A polling connection on a real Redis."""

from __future__ import annotations

import fcntl
import json
import select
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.connection import Connection, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from celery_fleet.delivery import line as module
from celery_fleet.delivery.line import Due, Found, Line, Question, require_redis
from celery_fleet.errors import FleetError
from tests.fleet import free_port
from tests.unit.control.certificates import Authority
from tests.unit.delivery.servers import Server, serving, until

LISTS = ("mail", "bulk", "mail\x06\x163", "bulk\x06\x163")


class Wire:
    """A line, its connection, and the loop that serves it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.connection.connect()
        self.line = Line()
        self.number = 0

    def question(self) -> Question:
        self.number += 1
        return Question(
            f"tag {self.number}", ("unacked", "unacked_index"), LISTS, ['"mail"', '"bulk"']
        )

    def ask(self) -> None:
        self.line.ask(self.connection, self.question())

    def hear(self) -> Found | None:
        """What comes, as soon as the socket has it; what was buffered before would be slept over."""
        assert self.readable(20), "nothing comes"
        return self.line.hear(self.connection)

    def readable(self, seconds: float) -> bool:
        return bool(select.select([self.connection._sock], [], [], seconds)[0])

    def turn(self) -> Found | None:
        """One question and its answer."""
        if not self.line.idle:
            self.ask()
        return self.hear()

    def arm(self) -> None:
        until(lambda: self.line.armed or self.turn() is not None or self.line.armed)


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "_told", set())
    yield _server
    _server.client.config_set("maxmemory", "0")
    _server.client.acl_deluser("limited")
    _server.client.flushall()


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    made = Wire(Connection(port=server.port, socket_timeout=20))
    yield made
    made.connection.disconnect()


def limited(server: Server, *refused: str) -> Wire:
    server.client.execute_command(
        "ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@all", *(f"-{one}" for one in refused)
    )
    return Wire(Connection(port=server.port, username="limited", password="pw"))


def test_an_armed_line_sends_nothing_and_hears_of_every_list(server: Server, wire: Wire) -> None:
    for name in LISTS:
        wire.arm()
        assert wire.line.due is None
        assert not wire.readable(0)
        server.client.lpush(name, name)
        assert wire.hear() is None  # the push
        assert not wire.line.armed
        assert wire.turn() == Found(name.encode(), f"tag {wire.number}", name)


def test_many_pushes_are_no_more_than_one_take(server: Server, wire: Wire) -> None:
    wire.arm()
    for name in LISTS:
        server.client.lpush(name, name)
    assert wire.hear() is None
    found = [wire.turn() for _ in LISTS]
    assert [one.key for one in found if one] == list(LISTS)
    wire.arm()
    assert not wire.readable(0)


def test_the_net_shows_that_redis_answers(wire: Wire) -> None:
    wire.arm()
    wire.line.asked_at -= module.NET
    assert not wire.line.idle
    wire.ask()
    assert wire.line.due is Due.LOOK
    assert wire.hear() is None
    assert wire.line.armed
    assert wire.line.idle


def test_the_net_finds_what_no_push_told_of(server: Server, wire: Wire) -> None:
    wire.arm()
    wire.connection.send_command("CLIENT", "TRACKING", "OFF")
    wire.connection.read_response()
    server.client.lpush("mail", "x")
    assert not wire.readable(0)
    wire.line.asked_at -= module.NET
    assert wire.turn() is None
    assert not wire.line.armed
    found = wire.turn()
    assert found
    assert found.item == b"x"


def test_a_push_that_the_parser_has_read_already_is_not_slept_over(
    server: Server, wire: Wire
) -> None:
    def waiting() -> int:
        size = fcntl.ioctl(wire.connection._sock, termios.FIONREAD, bytes(4))
        return int.from_bytes(size, sys.byteorder)

    wire.arm()
    wire.line.asked_at -= module.NET
    wire.ask()
    answer = until(waiting)
    server.client.lpush("mail", "x")
    until(lambda: waiting() > answer)
    assert wire.hear() is None
    assert not wire.readable(0), "the parser has left the push to the loop"
    assert not wire.line.armed
    assert wire.turn() is not None


def test_nothing_is_asked_before_a_take(server: Server, wire: Wire) -> None:
    """redis-py would wait for the answer to a PING, and connect anew behind the loop's back without one."""
    wire.arm()
    server.client.config_resetstat()
    wire.connection.health_check_interval = 1
    wire.connection.next_health_check = 0
    wire.line.armed = False
    wire.turn()
    assert "ping" not in server.calls()


def test_a_script_that_redis_has_forgotten_is_sent_again(server: Server, wire: Wire) -> None:
    wire.arm()
    server.client.script_flush()
    server.client.lpush("mail", "x")
    assert wire.hear() is None
    assert wire.turn() is None  # NOSCRIPT
    found = wire.turn()
    assert found
    assert found.item == b"x"


def test_a_new_socket_is_told_everything_again(server: Server, wire: Wire) -> None:
    wire.arm()
    wire.connection.disconnect()
    wire.line.lost()
    assert not wire.line.armed
    wire.connection.connect()
    wire.arm()
    server.client.lpush("mail", "x")
    assert wire.hear() is None
    found = wire.turn()
    assert found
    assert found.item == b"x"


def test_the_end_of_an_armed_connection_is_an_error(server: Server, wire: Wire) -> None:
    wire.arm()
    server.client.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(RedisConnectionError):
        wire.hear()


@pytest.mark.parametrize("way", ["refused", "old protocol"])
def test_without_tracking_a_blmove_is_the_bell(
    server: Server, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    old = way == "old protocol"
    plain = Connection(port=server.port, protocol=2)
    wire = Wire(plain) if old else limited(server, "client|tracking")
    assert wire.turn() is None
    assert not wire.line.armed
    wire.ask()
    assert wire.line.due is Due.RING
    server.client.lpush("mail", "x", "y")
    found = wire.hear()
    assert found
    assert (found.item, found.key) == (b"x", "mail")
    wire.ask()  # there may be more
    assert wire.line.due is Due.TAKE
    assert wire.hear() is not None
    assert wire.turn() is None
    wire.ask()
    server.client.lpush("bulk\x06\x163", "z")
    found = wire.hear() or wire.turn()
    assert found
    assert found.item == b"z"
    lines = [record.message for record in caplog.records if "BLMOVE" in record.message]
    assert len(lines) == 1
    again = Wire(wire.connection)
    again.turn()
    assert sum("BLMOVE" in record.message for record in caplog.records) == 1
    wire.connection.disconnect()


@pytest.mark.parametrize("refused", ["script|load", "evalsha"])
def test_a_line_that_may_not_ask_is_an_error_and_no_silence(server: Server, refused: str) -> None:
    wire = limited(server, refused)
    wire.ask()
    with pytest.raises(ResponseError):
        wire.hear()
    wire.connection.disconnect()


def test_a_blmove_that_is_refused_is_not_asked_over_and_over(server: Server) -> None:
    wire = limited(server, "client|tracking", "blmove")
    wire.turn()
    wire.ask()
    assert wire.line.due is Due.RING
    assert wire.hear() is None  # both answers are read
    assert wire.line.idle
    server.client.lpush("mail", "x")
    until(lambda: not wire.line.idle)
    found = wire.turn()
    assert found
    assert found.item == b"x"
    wire.connection.disconnect()


@pytest.mark.parametrize("bell", [True, False])
def test_at_the_memory_limit_messages_are_taken(server: Server, bell: bool) -> None:
    wire = limited(server) if bell else limited(server, "client|tracking")
    assert wire.turn() is None
    server.client.lpush("mail", json.dumps("x" * 100), "y")
    server.client.config_set("maxmemory", "1")
    items = []
    while len(items) < 2:
        until(lambda: not wire.line.idle or wire.readable(0))
        found = wire.turn()
        items += [found.item] if found else []
    assert items == [json.dumps("x" * 100).encode(), b"y"]
    wire.connection.disconnect()


def test_what_redis_refuses_for_now_is_asked_again_later(
    wire: Wire, caplog: pytest.LogCaptureFixture, server: Server
) -> None:
    wire.arm()
    server.client.config_set("min-replicas-to-write", "1")
    try:
        wire.line.armed = False
        for _ in range(2):
            assert wire.turn() is None
            assert wire.line.idle
            assert not wire.line.armed
            wire.line._hold_until = 0.0
    finally:
        server.client.config_set("min-replicas-to-write", "0")
    server.client.lpush("mail", "x")
    found = wire.turn()
    assert found
    assert found.item == b"x"
    said = [record.message for record in caplog.records]
    assert len(said) == 2
    assert "NOREPLICAS" in said[0]
    assert "again" in said[1]


def test_over_tls(tmp_path: Path) -> None:
    authority = Authority("fleet")
    certificate, key = authority.issue(["IP:127.0.0.1"])
    for name, text in (("ca.crt", authority.pem), ("host.crt", certificate), ("host.key", key)):
        (tmp_path / name).write_text(text)
    with serving(tmp_path) as server:
        server.client.config_set("tls-cert-file", str(tmp_path / "host.crt"))
        server.client.config_set("tls-key-file", str(tmp_path / "host.key"))
        server.client.config_set("tls-ca-cert-file", str(tmp_path / "ca.crt"))
        server.client.config_set("tls-auth-clients", "no")
        port = free_port()
        server.client.config_set("tls-port", str(port))
        wire = Wire(
            SSLConnection(host="127.0.0.1", port=port, ssl_ca_certs=str(tmp_path / "ca.crt"))
        )
        for number in range(200):
            if number % 2:
                wire.arm()
            server.client.lpush(LISTS[number % len(LISTS)], str(number))
            found = None
            while found is None:
                if not wire.line.idle:
                    wire.ask()
                assert wire.line.due or wire.readable(20), "a push was slept over"
                found = wire.line.hear(wire.connection)
            assert found.item == str(number).encode()
        wire.connection.disconnect()


@pytest.mark.parametrize(
    "hello",
    [
        {b"version": b"6.2.0"},
        {"version": "8.1.1"},
        {b"version": b"10.0"},
        {},
        None,
        {b"version": b"x"},
    ],
)
def test_a_redis_that_is_new_enough_or_does_not_tell(hello: Any) -> None:
    require_redis(hello)


@pytest.mark.parametrize("version", [b"6.0.16", "5.0.14", b"6.1"])
def test_an_older_redis_is_refused_with_the_remedy(version: Any) -> None:
    with pytest.raises(FleetError, match=r"too old.*6\.2.*celery_worker_take: stock"):
        require_redis({b"version": version})


def test_hello_is_where_the_version_is_looked_for(server: Server) -> None:
    connection = Connection(port=server.port)
    connection.connect()
    assert (
        connection.handshake_metadata[b"version"].decode() == server.client.info()["redis_version"]
    )
    connection.disconnect()
