# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Let a process follow a primary that Sentinels know (redis/sentinel.py).

redis-py asks the Sentinels for each new connection. It keeps the connections of its pools: those of one pool are closed
if the pool itself makes a new connection to another primary. A primary that hangs, or has lost its power, closes none.
So a process would wait for a timeout with each of its pools, such as those of remote control and of each result. On
some connections it only listens, without a timeout: for the next task, remote control, events or a result. They end as
soon as another connection has found a new primary. Also, a primary that was replaced refuses to write for seconds
before it becomes a replica, which is no reason for redis-py to ask again.

Redis replicates after it has answered. So a task only counts as sent once replicas have it, too.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakSet

from celery.backends import redis as results
from kombu.transport import redis as stock
from redis import sentinel
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

#: The transport option that says how many replicas must have a task.
WAIT_REPLICAS = "wait_replicas"
#: Milliseconds in which they have to confirm it, and how often they are asked. Altogether that is longer than a primary
#: accepts anything without its replicas (`min-replicas-max-lag`), so the sender's next attempt adds no further copy.
WAIT, TRIES = 1000, 7

#: Beginnings of the answers of a primary with fewer replicas than ``min-replicas-to-write``, and of one that becomes a
#: replica while a client waits.
NO_REPLICAS = ("NOREPLICAS", "UNBLOCKED")

# They are typed in part only, which is worse for subclasses than no types at all.
_Connection: Any = sentinel.SentinelManagedSSLConnection
_base: Any = stock.Channel
_channel: Any = stock.SentinelChannel
_backend: Any = results.SentinelBackend

#: The address to which this process has last connected, by the primary's name.
_known: dict[str, tuple[str, int]] = {}

#: When this process has left an address, by the primary's name and the address, on the monotonic clock.
_left: dict[tuple[str, tuple[str, int]], float] = {}

#: Seconds for which Sentinels start no second failover (twice `failover-timeout`). One that names an earlier address in
#: that time has not heard of the new one.
STALE = 20.0

#: All connections that this process has made, or the one that it was forked from.
_made: WeakSet[Any] = WeakSet()


class FollowingConnection(_Connection):  # type: ignore[misc]  # see above
    """A connection that ends, and is made again, if another one of this process has found a new primary."""

    def connect(self) -> None:
        """Connect to the primary; pools call this each time they hand out the connection.

        Raises:
            redis.exceptions.ConnectionError: No Sentinel knows a primary, or it can't be reached.
        """
        if self.is_left:
            self.disconnect()
        try:
            super().connect()
        except sentinel.MasterNotFoundError:
            # redis-py lists all options of each Sentinel's connections.
            name = self.connection_pool.service_name
            raise RedisConnectionError(
                f"no Sentinel answers that knows the primary {name}"
            ) from None

    @property
    def is_left(self) -> bool:
        """Whether another connection of this process has found a new primary."""
        known = _known.get(self.connection_pool.service_name)
        return bool(self._sock) and known not in (None, (self.host, self.port))

    def connect_to(self, address: tuple[str, int]) -> None:
        """Connect to an address that a Sentinel has named."""
        super().connect_to(address)
        _made.add(self)
        name, now = self.connection_pool.service_name, time.monotonic()
        before = _known.get(name, address)
        if before != address and now - _left.get((name, address), -math.inf) < STALE:
            return
        _known[name] = address
        if before != address:
            _left[name, before] = now
            _end_others(name, address)

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Read a reply.

        Raises:
            redis.exceptions.ConnectionError: The server is no longer the primary, or has lost its replicas.
        """
        try:
            return super().read_response(*args, **kwargs)
        except ResponseError as exc:
            if not str(exc).startswith(NO_REPLICAS):
                raise
            self.disconnect()
            raise RedisConnectionError(f"the primary can't write: {exc}") from exc


def _end_others(name: str, address: tuple[str, int]) -> None:
    """Let this process's connections to an earlier primary read the end of the stream, as if it had been killed."""
    for one in _all_made():
        sock = one._sock
        # The pool's processes have copies of their parent's sockets, which the parent still needs.
        foreign = one.pid != os.getpid() or one.connection_pool.service_name != name
        if sock and not foreign and (one.host, one.port) != address:
            # Its thread may be closing it. `SSLSocket.shutdown` would also end the TLS under a thread that reads.
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _all_made() -> list[Any]:
    while True:
        with suppress(RuntimeError):  # another thread has added one
            return list(_made)


def require_copies(found: int, wanted: int) -> None:
    """Check how many replicas have what was sent.

    Raises:
        redis.exceptions.ConnectionError: Too few, so the sender tries again, and the task may be there twice.
    """
    if found < wanted:
        raise RedisConnectionError(f"{found} of {wanted} replicas confirmed the task in time")


def put(channel: Any, queue: str, message: Any, **kwargs: Any) -> None:
    """Push a message as kombu does, and wait until replicas have it.

    Raises:
        redis.exceptions.ConnectionError: See `require_copies`.
    """
    wanted = int(channel.connection.client.transport_options.get(WAIT_REPLICAS) or 0)
    if not wanted:
        _base._put(channel, queue, message, **kwargs)
        return
    # WAIT is about what the same connection has written.
    with channel.conn_or_acquire() as shared, shared.client() as client:
        channel.only_client = client
        try:
            _base._put(channel, queue, message, **kwargs)
        finally:
            channel.only_client = None
        found = 0
        for _ in range(TRIES):
            found = client.wait(wanted, WAIT)
            if found >= wanted:
                return
        require_copies(found, wanted)


def receive_one(channel: Any, client: Any) -> Any:
    """Receive remote control or an event as kombu does.

    redis-py connects before it reads. On a connection to a new primary nothing is subscribed, so the process would wait
    for ever. After an error kombu subscribes again.

    Raises:
        redis.exceptions.ConnectionError: The connection has ended, or there is a new primary.
    """
    if getattr(client.connection, "is_left", False):
        client.connection.disconnect()
        channel._in_listen = None
        raise RedisConnectionError("the primary has moved")
    return _base._receive_one(channel, client)


@contextmanager
def conn_or_acquire(channel: Any, client: Any = None) -> Iterator[Any]:
    """Yield the client with which `put` pushes, otherwise what kombu yields."""
    with _base.conn_or_acquire(channel, client or channel.only_client) as found:
        yield found


def install() -> None:
    """Make kombu and the result backend use these connections for ``sentinel://``."""
    _channel.connection_class_ssl = FollowingConnection
    _backend.connection_class_ssl = FollowingConnection
    _channel._put, _channel.conn_or_acquire, _channel.only_client = put, conn_or_acquire, None
    _channel._receive_one = receive_one
    # With kombu 5.7, an application may send many messages in one step, which would end after the wait.
    _channel.supports_batch_publish = False
