"""Connections of a process to an earlier primary end, and no Sentinel that is behind ends those to the present one."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from celery_fleet.compat import primary

OLD, NEW = ("redis1", 6379), ("redis2", 6379)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace what a process knows, its clock, and the connecting itself."""
    now = [100.0]
    monkeypatch.setattr(primary, "_known", {})
    monkeypatch.setattr(primary, "_left", {})
    monkeypatch.setattr(primary, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def connect_to(connection: Any, address: tuple[str, int]) -> None:
        connection.host, connection.port = address

    monkeypatch.setattr(primary._Connection, "connect_to", connect_to)
    return now


class Made:
    """A connection, and the server's end of it."""

    def __init__(self, closing: ExitStack, address: tuple[str, int], name: str) -> None:
        pool = SimpleNamespace(service_name=name)
        self.connection: Any = primary.FollowingConnection(connection_pool=pool)
        self.connection._sock, self.server = map(closing.enter_context, socket.socketpair())
        self.connection.connect_to(address)

    def has_ended(self) -> bool:
        self.server.setblocking(False)
        try:
            return self.server.recv(1) == b""
        except BlockingIOError:
            return False


@pytest.fixture
def connected() -> Iterator[Callable[..., Made]]:
    """Yield a function that connects to an address of a primary."""
    with ExitStack() as closing:
        yield lambda address, name="shop-broker": Made(closing, address, name)


def test_a_new_primary_ends_the_connections_to_the_earlier_one(
    connected: Callable[..., Made],
) -> None:
    old, results, inherited = connected(OLD), connected(OLD, "shop-results"), connected(OLD)
    inherited.connection.pid -= 1
    new = connected(NEW)
    assert old.has_ended()
    assert old.connection._sock.recv(1) == b""
    assert [one.has_ended() for one in (results, inherited, new)] == [False] * 3


def test_a_sentinel_that_is_behind_ends_no_connection(
    connected: Callable[..., Made], clock: list[float]
) -> None:
    first, new = connected(OLD), connected(NEW)
    clock[0] += primary.STALE - 1
    behind = connected(OLD)
    assert [one.has_ended() for one in (first, new, behind)] == [True, False, False]
    # Its pool replaces that connection before it hands it out again.
    assert primary._known == {"shop-broker": NEW}
    clock[0] += 2
    connected(OLD)
    assert new.has_ended()
    assert primary._known == {"shop-broker": OLD}


def test_a_connection_that_only_listens_ends_when_the_primary_has_moved(
    connected: Callable[..., Made],
) -> None:
    """Otherwise redis-py would read from a new one, on which nothing is subscribed."""
    old = connected(OLD)
    connected(NEW)
    read: list[object] = []
    channel = SimpleNamespace(_in_listen=old.connection)
    client = SimpleNamespace(
        connection=old.connection, parse_response=lambda: read.append(old.connection.connect())
    )
    with pytest.raises(RedisConnectionError, match="the primary has moved"):
        primary.receive_one(channel, client)
    assert read == []
    assert channel._in_listen is old.connection._sock is None
