"""Let a process follow a primary that Sentinels know (redis/sentinel.py).

redis-py asks the Sentinels for each new connection. It keeps the connections of its pools: those of one pool are closed
if the pool itself makes a new connection to another primary. A frozen primary closes none, so a process would wait for
a timeout with each of its pools, such as those of remote control and of each result. Also, a primary that was replaced
refuses to write for seconds before it becomes a replica, which is no reason for redis-py to ask again.
"""

from __future__ import annotations

from typing import Any

from celery.backends import redis as results
from kombu.transport import redis as stock
from redis import sentinel
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

#: Beginning of the answer of a primary with fewer replicas than ``min-replicas-to-write``.
NO_REPLICAS = "NOREPLICAS"

# They are typed in part only, which is worse for subclasses than no types at all.
_Connection: Any = sentinel.SentinelManagedSSLConnection
_channel: Any = stock.SentinelChannel
_backend: Any = results.SentinelBackend

#: The address to which this process has last connected, by the primary's name.
_known: dict[str, tuple[str, int]] = {}


class FollowingConnection(_Connection):  # type: ignore[misc]  # see above
    """A connection that is made again if another one of this process has found a new primary."""

    def connect(self) -> None:
        """Connect to the primary; pools call this each time they hand out the connection.

        Raises:
            redis.exceptions.ConnectionError: No Sentinel knows a primary, or it can't be reached.
        """
        known = _known.get(self.connection_pool.service_name)
        if self._sock and known not in (None, (self.host, self.port)):
            self.disconnect()
        try:
            super().connect()
        except sentinel.MasterNotFoundError:
            # redis-py lists all options of each Sentinel's connections.
            name = self.connection_pool.service_name
            raise RedisConnectionError(
                f"no Sentinel answers that knows the primary {name}"
            ) from None

    def connect_to(self, address: tuple[str, int]) -> None:
        """Connect to an address that a Sentinel has named."""
        super().connect_to(address)
        _known[self.connection_pool.service_name] = address

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


def install() -> None:
    """Make kombu and the result backend use these connections for ``sentinel://``."""
    _channel.connection_class_ssl = FollowingConnection
    _backend.connection_class_ssl = FollowingConnection
