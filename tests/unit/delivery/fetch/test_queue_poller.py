"""A polling connection on a real Redis."""

from __future__ import annotations

import fcntl
import json
import math
import random
import select
import sys
import termios
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.connection import Connection, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from celery_fleet.common.errors import FleetError
from celery_fleet.delivery.fetch import queue_poller as module
from celery_fleet.delivery.fetch.queue_poller import (
    Due,
    FetchedMessage,
    FetchRequest,
    QueuePoller,
    require_redis,
)
from celery_fleet.delivery.scripts import FETCH, HEAD, PUT_BACK, Script
from tests.support.certificates import Authority
from tests.support.redis_server import Server, redis_server
from tests.unit.delivery.consumers import until

LISTS = ("mail", "bulk", "mail\x06\x163", "bulk\x06\x163")


class Wire:
    """A poller with its connection, and the event loop that serves it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.connection.connect()
        self.poller = QueuePoller()
        self.number = 0
        self.lists: tuple[str, ...] = LISTS
        self.queues = ['"mail"', '"bulk"']

    def request(self) -> FetchRequest:
        self.number += 1
        return FetchRequest(
            f"tag {self.number}", ("unacked", "unacked_index"), self.lists, self.queues
        )

    @property
    def asked(self) -> list[str]:
        """Return the lists of the last fetch."""
        return list(self.poller._asked.lists)

    def unread(self) -> int:
        """Return how many bytes have arrived and were not read."""
        size = fcntl.ioctl(self.connection._sock, termios.FIONREAD, bytes(4))
        return int.from_bytes(size, sys.byteorder)

    def ask(self) -> None:
        self.poller.ask(self.connection, self.request())

    def hear(self) -> FetchedMessage | None:
        """Read what the socket gets, as the event loop does: data that was buffered before would go unnoticed."""
        assert self.readable(20), "nothing comes"
        return self.poller.hear(self.connection)

    def readable(self, seconds: float) -> bool:
        return bool(select.select([self.connection._sock], [], [], seconds)[0])

    def turn(self) -> FetchedMessage | None:
        """Send one fetch and return its reply."""
        if not self.poller.idle:
            self.ask()
        return self.hear()

    def arm(self) -> None:
        until(lambda: self.poller.armed or self.turn() is not None or self.poller.armed)


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "_told", set())
    # So long that a lost wake-up is never made up for.
    monkeypatch.setattr(module, "NET", 3600.0)
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


def test_an_armed_poller_sends_nothing_and_notices_every_list(server: Server, wire: Wire) -> None:
    for name in LISTS:
        wire.arm()
        assert wire.poller.due is None
        assert not wire.readable(0)
        server.client.lpush(name, name)
        assert wire.hear() is None  # the push
        assert not wire.poller.armed
        assert wire.turn() == FetchedMessage(name.encode(), f"tag {wire.number}", name)


def test_many_pushes_cause_no_additional_fetch(server: Server, wire: Wire) -> None:
    wire.arm()
    for name in LISTS:
        server.client.lpush(name, name)
    assert wire.hear() is None
    found = [wire.turn() for _ in LISTS]
    assert [one.key for one in found if one] == list(LISTS)
    wire.arm()
    assert not wire.readable(0)


def test_the_check_of_all_lists_shows_that_redis_answers(wire: Wire) -> None:
    wire.arm()
    wire.poller.asked_at -= module.NET
    assert not wire.poller.idle
    wire.ask()
    assert wire.poller.due is Due.LOOK
    assert wire.hear() is None
    assert wire.poller.armed
    assert wire.poller.idle


def test_the_check_of_all_lists_finds_messages_without_a_push(server: Server, wire: Wire) -> None:
    wire.arm()
    wire.connection.send_command("CLIENT", "TRACKING", "OFF")
    wire.connection.read_response()
    server.client.lpush("mail", "x")
    assert not wire.readable(0)
    wire.poller.asked_at -= module.NET
    assert wire.turn() is None
    assert not wire.poller.armed
    found = wire.turn()
    assert found
    assert found.item == b"x"
    assert wire.asked == list(LISTS)


def test_a_push_that_the_parser_has_already_read_is_noticed(server: Server, wire: Wire) -> None:
    wire.arm()
    wire.poller.asked_at -= module.NET
    wire.ask()
    answer = until(wire.unread)
    server.client.lpush("mail", "x")
    until(lambda: wire.unread() > answer)
    assert wire.hear() is None
    assert not wire.readable(0), "the parser has left the push to the loop"
    assert not wire.poller.armed
    assert wire.turn() is not None


# --- what is asked for ---


def noted(server: Server, found: FetchedMessage) -> bool:
    """Whether it is noted as taken from its queue."""
    queue = found.key.split("\x06")[0]
    item = found.item.decode()
    return server.client.hget("unacked", found.tag) == f'[{item}, "", "{queue}"]'.encode()


def test_a_single_message_costs_one_fetch_from_its_list(server: Server, wire: Wire) -> None:
    wire.arm()
    for name in (*LISTS, *reversed(LISTS)):
        server.client.config_resetstat()
        server.client.lpush(name, name)
        assert wire.hear() is None
        found = wire.turn()
        assert found
        assert found.key == name
        assert wire.asked == [name]
        assert wire.poller.armed
        assert noted(server, found)
        calls = server.calls()
        assert calls["evalsha"] == 1
        assert calls["exists"] == 1  # within it


def test_a_list_with_more_messages_stays_a_candidate_until_it_is_empty(
    server: Server, wire: Wire
) -> None:
    wire.arm()
    server.client.lpush("bulk", "1", "2", "3")
    assert wire.hear() is None
    for item in (b"1", b"2", b"3"):
        found = wire.turn()
        assert found
        assert found.item == item
        assert wire.poller.armed == (item == b"3")
        assert wire.asked == ["bulk"]
    server.client.lpush("bulk", "4")
    assert (
        wire.hear() is None
    )  # it is watched again, although only this connection has written to it


def test_an_empty_list_is_watched_even_if_another_has_a_message(server: Server, wire: Wire) -> None:
    server.client.lpush(LISTS[2], "1", "2", "3")
    assert wire.turn() is not None
    assert wire.asked == list(LISTS)
    assert wire.turn() is not None
    assert wire.asked == list(LISTS[2:])
    server.client.lpush(LISTS[0], "first")
    until(wire.unread)
    found = wire.turn()
    assert found
    assert found.item == b"first"
    assert wire.asked == [LISTS[0], *LISTS[2:]]


def test_unread_pushes_are_read_before_the_next_fetch(server: Server, wire: Wire) -> None:
    """This happens if a task runs in this thread: the higher priority still goes first."""
    wire.arm()
    server.client.lpush("mail\x06\x163", "low")
    assert wire.hear() is None
    server.client.lpush("bulk", "urgent")
    server.client.lpush("mail", "urgent, too")
    server.client.ping()  # both pushes are written before this reply
    assert [found.item for found in (wire.turn() for _ in range(3)) if found] == [
        b"urgent, too",
        b"urgent",
        b"low",
    ]
    wire.arm()


def before_the_next_command(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]
) -> None:
    """Do something after QueuePoller has read all pushes, and before Redis gets its command."""
    send = wire.connection.send_packed_command

    def late(*args: Any, **options: Any) -> None:
        monkeypatch.setattr(wire.connection, "send_packed_command", send)
        act()
        until(wire.unread)
        send(*args, **options)

    monkeypatch.setattr(wire.connection, "send_packed_command", late)


@pytest.mark.parametrize("found", [True, False])
def test_a_push_that_is_read_with_a_reply_is_not_lost(
    server: Server, wire: Wire, monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    wire.arm()
    server.client.lpush("mail", "x")
    assert wire.hear() is None
    if not found:
        server.client.delete("mail")

    before_the_next_command(wire, monkeypatch, lambda: server.client.lpush("bulk", "y"))
    assert bool(wire.turn()) == found
    assert not wire.readable(0)
    assert not wire.poller.armed
    other = wire.turn()
    assert other
    assert (other.item, wire.asked) == (b"y", ["bulk"])
    assert wire.poller.armed


def test_a_push_that_is_older_than_a_reply_causes_no_fetch(
    server: Server, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire.arm()
    wire.poller.asked_at -= module.NET

    def come_and_go() -> None:
        server.client.lpush("bulk", "y")
        server.client.delete("bulk")

    before_the_next_command(wire, monkeypatch, come_and_go)
    assert wire.turn() is None
    assert wire.poller.armed
    server.client.lpush("bulk", "z")
    assert wire.hear() is None
    assert wire.turn() is not None


@pytest.mark.parametrize("found", [True, False])
def test_a_push_after_a_reply_is_noticed(server: Server, wire: Wire, found: bool) -> None:
    """The push is about the same list, which was empty when Redis replied."""
    wire.arm()
    server.client.lpush("mail", "x")
    assert wire.hear() is None
    if not found:
        server.client.delete("mail")
    wire.ask()
    answer = until(wire.unread)
    server.client.lpush("mail", "y")
    until(lambda: wire.unread() > answer)
    assert bool(wire.hear()) == found
    assert not wire.readable(0), "the parser has left the push to the loop"
    assert not wire.poller.idle
    other = wire.turn()
    assert other
    assert other.item == b"y"


def test_a_connection_that_ends_after_a_reply_loses_no_reply(server: Server, wire: Wire) -> None:
    wire.arm()
    server.client.lpush("mail", "x")
    assert wire.hear() is None
    wire.ask()
    until(wire.unread)
    server.client.client_kill_filter(_type="normal", skipme=True)
    found = wire.hear()
    assert found
    assert found.item == b"x"
    assert not wire.poller.idle
    with pytest.raises(RedisConnectionError):
        wire.ask()


@pytest.mark.parametrize("way", ["flushall", "flushdb"])
def test_a_push_without_names_makes_all_lists_candidates(
    server: Server, wire: Wire, way: str
) -> None:
    wire.arm()
    server.client.execute_command(way)
    assert wire.hear() is None
    assert not wire.poller.armed
    assert wire.turn() is None
    assert wire.asked == list(LISTS)
    for name in LISTS:
        assert wire.poller.armed
        server.client.lpush(name, "x")
        assert wire.hear() is None
        assert wire.turn() is not None


def test_a_tracking_table_that_is_too_small_loses_nothing(server: Server, wire: Wire) -> None:
    wire.arm()
    try:
        server.client.config_set("tracking-table-max-keys", "1")
        server.client.ping()
        assert wire.hear() is None
    finally:
        server.client.config_set("tracking-table-max-keys", "1000000")
    wire.arm()
    assert 0 < len(wire.asked) < len(LISTS)
    for name in LISTS:
        server.client.lpush(name, "x")
        assert wire.hear() is None
        assert wire.turn() is not None


def test_a_push_about_a_foreign_list_is_ignored(server: Server, wire: Wire) -> None:
    """It may be a queue that was consumed before. The poller does not rely on names in pushes."""
    wire.arm()
    wire.lists, wire.queues = LISTS[1:2], ['"bulk"']
    wire.poller.forget()
    wire.arm()
    server.client.lpush("mail", "x")
    assert wire.hear() is None
    assert wire.turn() is None
    assert wire.asked == ["bulk"]
    assert wire.poller.armed
    server.client.lpush("bulk", "y")
    assert wire.hear() is None
    assert wire.turn() is not None


@pytest.mark.parametrize("due", [Due.FETCH, Due.LOOK])
def test_a_reply_about_the_previous_queues_does_not_arm(
    server: Server, wire: Wire, due: Due
) -> None:
    wire.arm()
    wire.poller.asked_at -= module.NET
    if due is Due.FETCH:
        server.client.lpush("mail", "x")
        assert wire.hear() is None
    wire.ask()
    assert wire.poller.due is due
    wire.lists = (*LISTS, "later")
    wire.queues = ['"mail"', '"bulk"', *(['"later"'] * 3)]
    wire.poller.forget()
    server.client.lpush("later", "y")
    wire.hear()
    assert not wire.poller.idle
    found = wire.turn() or wire.turn()
    assert found
    assert found.item == b"y"


def test_a_message_that_another_connection_puts_back_causes_a_push(
    server: Server, wire: Wire
) -> None:
    """Messages are put back through the pool, because this connection would not hear its own push."""
    wire.arm()
    server.client.lpush("mail", "x")
    assert wire.hear() is None
    found = wire.turn()
    assert found
    assert wire.poller.armed
    names = ("unacked", "unacked_index", "mail")
    assert server.client.eval(PUT_BACK.text, 3, *names, found.tag, found.item, HEAD, "") == 1
    assert wire.hear() is None
    again = wire.turn()
    assert again
    assert again.item == b"x"


def test_a_busy_poller_checks_all_lists_from_time_to_time(server: Server, wire: Wire) -> None:
    """Otherwise a lost push would delay a message for as long as other lists have some."""
    wire.arm()
    server.client.lpush("mail", *["x"] * 10)
    assert wire.hear() is None
    assert wire.turn() is not None
    wire.connection.send_command("CLIENT", "TRACKING", "OFF")
    wire.connection.read_response()
    server.client.lpush("bulk", "y")
    wire.connection.send_command("CLIENT", "TRACKING", "ON", "NOLOOP")
    wire.connection.read_response()
    assert wire.turn() is not None
    assert wire.asked == ["mail"]
    wire.poller._all_at -= module.NET
    assert wire.turn() is not None
    assert wire.asked == list(LISTS)
    found = [wire.turn() for _ in range(8)]
    assert [one.key for one in found if one] == ["mail"] * 7 + ["bulk"]


def test_successful_fetches_are_short_and_keep_the_order(server: Server, wire: Wire) -> None:
    names = [f"q{number}" for number in range(6)]
    wire.lists = tuple(name + end for end in ("", "\x06\x163") for name in names)
    wire.queues = [json.dumps(name) for name in names]
    for name in wire.lists:
        server.client.lpush(name, f"{name} 1", f"{name} 2")
    got = []
    asked = []
    for _ in range(2 * len(wire.lists)):
        found = wire.turn()
        assert found
        assert found.item.startswith(found.key.encode())
        assert noted(server, found)
        got.append(found.key)
        asked.append(len(wire.asked))
    assert got == [name for name in wire.lists for _ in range(2)]
    assert asked[0] == len(wire.lists)
    assert max(asked[1:]) == module.FEW
    assert wire.poller.armed


class Crowd:
    """Several pollers that run in any order, and the messages that they got."""

    def __init__(self, port: int, number: int) -> None:
        self.wires = [Wire(Connection(port=port, socket_timeout=20)) for _ in range(number)]
        self.got: list[bytes] = []

    def serve(self, wire: Wire) -> None:
        """Run one step of a poller's loop."""
        if wire.poller.due is None and not wire.poller.idle:
            wire.ask()
        elif wire.readable(0) and (found := wire.poller.hear(wire.connection)) is not None:
            self.got.append(found.item)

    def renew(self, wire: Wire) -> None:
        """Replace a poller's connection after its reply has arrived."""
        if wire.poller.due is None:
            wire.connection.disconnect()
            wire.poller.lost()
            wire.connection.connect()

    def sleeps(self) -> bool:
        """Return whether all pollers wait for a push, and none has come."""
        return all(wire.poller.armed and not wire.readable(0) for wire in self.wires)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "hint"), [(1, True), (2, True), (3, True), (4, False)])
def test_idle_pollers_miss_none_of_many_single_messages(
    server: Server, monkeypatch: pytest.MonkeyPatch, seed: int, hint: bool
) -> None:
    """This also holds without the hint, which Redis 6.2 lacks."""
    if not hint:
        text = FETCH.text.replace("not redis.call('RPOP', KEYS[i], 0)", "true")
        assert text != FETCH.text
        monkeypatch.setattr(module, "FETCH", Script(text))
    chance = random.Random(seed)  # noqa: S311  # no secret
    crowd = Crowd(server.port, 5)
    sent = 0
    while sent < 1500:
        act = chance.random()
        if act < 0.05:
            until_asleep(crowd, server, sent)
        if act < 0.3:
            for _ in range(chance.choice([1, 1, 1, 1, 2, 7])):
                getattr(server.client, chance.choice(["lpush", "rpush"]))(
                    chance.choice(LISTS), str(sent)
                )
                sent += 1
        elif act < 0.31:
            crowd.renew(chance.choice(crowd.wires))
        elif act < 0.32:
            chance.choice(crowd.wires).poller.forget()
        elif act < 0.33 and (item := server.client.rpop(chance.choice(LISTS))) is not None:
            crowd.got.append(item)  # a stock worker's way
        else:
            crowd.serve(chance.choice(crowd.wires))
    until_asleep(crowd, server, sent)
    assert sorted(map(int, crowd.got)) == list(range(sent))
    for wire in crowd.wires:
        wire.connection.disconnect()


def until_asleep(crowd: Crowd, server: Server, sent: int) -> None:
    """Run all pollers until no more messages come; then none may be left."""

    def turn() -> bool:
        for wire in crowd.wires:
            crowd.serve(wire)
        server.client.ping()  # all pushes are written before this reply
        return crowd.sleeps()

    until(turn, 60)
    assert server.client.exists(*LISTS) == 0
    assert len(crowd.got) == sent


# --- what else may come ---


def test_nothing_is_sent_before_the_first_fetch(server: Server, wire: Wire) -> None:
    """redis-py would wait for the answer to a PING, or reconnect without the loop's knowledge."""
    wire.arm()
    server.client.config_resetstat()
    wire.connection.health_check_interval = 1
    wire.connection.next_health_check = 0
    wire.poller.forget()
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


def test_a_new_socket_is_set_up_again(server: Server, wire: Wire) -> None:
    wire.arm()
    wire.connection.disconnect()
    wire.poller.lost()
    assert not wire.poller.armed
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
def test_without_tracking_a_blmove_waits_for_messages(
    server: Server, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    old = way == "old protocol"
    plain = Connection(port=server.port, protocol=2)
    wire = Wire(plain) if old else limited(server, "client|tracking")
    assert wire.turn() is None
    assert not wire.poller.armed
    wire.ask()
    assert wire.poller.due is Due.BLMOVE
    server.client.lpush("mail", "x", "y")
    found = wire.hear()
    assert found
    assert (found.item, found.key) == (b"x", "mail")
    wire.ask()  # there may be more
    assert wire.poller.due is Due.FETCH
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
def test_a_poller_without_the_right_to_fetch_is_an_error(server: Server, refused: str) -> None:
    wire = limited(server, refused)
    wire.ask()
    with pytest.raises(ResponseError):
        wire.hear()
    wire.connection.disconnect()


def test_a_refused_blmove_is_not_repeated(server: Server) -> None:
    wire = limited(server, "client|tracking", "blmove")
    wire.turn()
    wire.ask()
    assert wire.poller.due is Due.BLMOVE
    assert wire.hear() is None  # both answers are read
    assert wire.poller.idle
    server.client.lpush("mail", "x")
    until(lambda: not wire.poller.idle)
    found = wire.turn()
    assert found
    assert found.item == b"x"
    wire.connection.disconnect()


@pytest.mark.parametrize("bell", [True, False])
def test_messages_are_fetched_at_the_memory_limit(server: Server, bell: bool) -> None:
    wire = limited(server) if bell else limited(server, "client|tracking")
    assert wire.turn() is None
    server.client.lpush("mail", json.dumps("x" * 100), "y")
    server.client.config_set("maxmemory", "1")
    items = []
    while len(items) < 2:
        until(lambda: not wire.poller.idle or wire.readable(0))
        found = wire.turn()
        items += [found.item] if found else []
    assert items == [json.dumps("x" * 100).encode(), b"y"]
    wire.connection.disconnect()


@contextmanager
def busy(server: Server) -> Iterator[None]:
    """Let another client's script run, which Redis answers with BUSY."""
    server.client.config_set("lua-time-limit", "1")
    with ThreadPoolExecutor() as pool:
        script = pool.submit(server.client.eval, "while true do end", 0)
        until(lambda: is_busy(server.client.ping))
        try:
            yield
        finally:
            server.client.script_kill()
            assert "killed" in str(script.exception(20))


def is_busy(command: Callable[[], Any]) -> bool:
    try:
        command()
    except ResponseError as error:
        return "BUSY" in str(error)
    return False


@pytest.mark.parametrize("armed", [True, False], ids=["armed", "new socket"])
def test_another_clients_long_script_ends_no_connection(
    wire: Wire, caplog: pytest.LogCaptureFixture, server: Server, armed: bool
) -> None:
    if armed:
        wire.arm()
        wire.poller.asked_at = -math.inf  # the lists are due to be looked at
    with busy(server):
        wire.ask()
        assert wire.poller.due is (Due.LOOK if armed else Due.FETCH)
        assert wire.hear() is None
        assert wire.poller.idle
        assert wire.poller.armed is armed
    wire.poller.asked_at = -math.inf
    until(lambda: not wire.poller.idle)
    assert wire.turn() is None
    wire.arm()
    server.client.lpush("mail", "x")
    assert wire.hear() is None
    found = wire.turn()
    assert found
    assert found.item == b"x"
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "Redis refuses to hand out messages for now",
        "Redis hands out messages again",
    ]


def test_a_temporary_refusal_is_retried_later(
    wire: Wire, caplog: pytest.LogCaptureFixture, server: Server
) -> None:
    wire.arm()
    server.client.config_set("min-replicas-to-write", "1")
    try:
        wire.poller.forget()
        for _ in range(2):
            assert wire.turn() is None
            assert wire.poller.idle
            assert not wire.poller.armed
            wire.poller._hold_until = 0.0
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


def test_polling_works_over_tls(tmp_path: Path) -> None:
    Authority("fleet").install(tmp_path, "IP:127.0.0.1")
    with redis_server(tmp_path, tls=tmp_path) as server:
        ca = str(tmp_path / "ca.crt")
        wire = Wire(SSLConnection(host="127.0.0.1", port=server.tls_port, ssl_ca_certs=ca))
        for number in range(200):
            if number % 2:
                wire.arm()
            server.client.lpush(LISTS[number % len(LISTS)], str(number))
            found = None
            while found is None:
                if not wire.poller.idle:
                    wire.ask()
                assert wire.poller.due or wire.readable(20), "a push was not noticed"
                found = wire.poller.hear(wire.connection)
            assert found.item == str(number).encode()
        wire.connection.disconnect()


class Answering:
    """A connection on which HELLO gets this reply, or this error."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def send_command(self, *command: str) -> None:
        assert command == ("HELLO",)

    def read_response(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "hello",
    [
        {b"version": b"6.2.0"},
        {"version": "8.1.1"},
        [b"server", b"redis", b"version", b"10.0"],
        {},
        [],
        {b"version": b"x"},
    ],
)
def test_a_redis_that_is_new_enough_or_hides_its_version_is_accepted(hello: Any) -> None:
    require_redis(Answering(hello))


@pytest.mark.parametrize(
    "hello",
    [
        {b"version": b"6.0.16"},
        {"version": "5.0.14"},
        [b"server", b"redis", b"version", b"6.1"],
        ResponseError("unknown command `HELLO`, with args beginning with:"),
    ],
)
def test_an_older_redis_is_refused_with_the_remedy(hello: Any) -> None:
    with pytest.raises(FleetError, match=r"too old.*6\.2.*celery_worker_fetch: stock"):
        require_redis(Answering(hello))


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_real_redis_reports_its_version_in_either_protocol(
    server: Server, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.setattr(module, "OLDEST_REDIS", (99, 0))
    connection = Connection(port=server.port, protocol=protocol)
    connection.connect()
    with pytest.raises(FleetError, match=server.client.info()["redis_version"]):
        require_redis(connection)
    connection.disconnect()
