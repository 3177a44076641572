"""Addresses of the broker and the result store (kombu/connection.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis
from kombu.connection import Connection
from redis import sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

from celery_fleet.common.redis_client import Server, server_of


@dataclass(frozen=True)
class Endpoint:
    """One broker address as kombu understands the settings."""

    host: str
    port: int
    username: str | None
    password: str | None
    database: int
    # Redis's TLS options; None for plain TCP.
    tls: Mapping[str, Any] | None
    # The primary as its Sentinels know it; then `host` is its name there, and `port` is 0.
    primary: Server | None = None
    # redis-py's options for connections to these Sentinels.
    sentinel_options: Mapping[str, Any] | None = None

    @property
    def address(self) -> str:
        """Return ``host:port`` for messages, or the name of a primary that Sentinels know."""
        return self.host if self.primary else f"{self.host}:{self.port}"

    def options(self, timeout: float) -> dict[str, Any]:
        """Return redis-py's options for a login that gives up quickly, without those of TLS.

        Args:
            timeout: Seconds each for connecting and for a command.
        """
        return {
            "username": self.username,
            "password": self.password,
            "db": self.database,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": Retry(NoBackoff(), 0),
        }


def endpoints(app: Any) -> list[Endpoint]:
    """Return the Redis addresses that the process consumes from; none for other transports.

    It opens neither a socket nor kombu's transport, which would hold an epoll descriptor.
    """
    return _endpoints(app.connection_for_read())


def result_endpoints(app: Any) -> list[Endpoint]:
    """Return the Redis addresses of the result backend; none for other backends."""
    url = app.conf.result_backend
    if not url or not str(url).startswith(("redis://", "rediss://", "sentinel://")):
        return []
    connection: Any = Connection  # typed in part only
    options = app.conf.result_backend_transport_options or {}
    return _endpoints(
        connection(url, ssl=app.conf.redis_backend_use_ssl or False, transport_options=options)
    )


def result_client(app: Any, timeout: float) -> redis.Redis | None:
    """Return a client of the result backend that gives up quickly; None if that is not Redis. It does not connect yet.

    Args:
        app: The Celery app.
        timeout: Seconds each for connecting and for a command.
    """
    return next((client(endpoint, timeout) for endpoint in result_endpoints(app)), None)


def client(endpoint: Endpoint, timeout: float, *, decode_responses: bool = False) -> redis.Redis:
    """Return a client of a server, or of the primary that Sentinels know, that gives up quickly.

    It does not connect yet.

    Args:
        endpoint: The server.
        timeout: Seconds each for connecting and for a command.
        decode_responses: Whether answers are texts in place of bytes.
    """
    options = {
        **endpoint.options(timeout),
        "decode_responses": decode_responses,
        "ssl": endpoint.tls is not None,
        **(endpoint.tls or {}),
    }
    if endpoint.primary is None:
        return redis.Redis(host=endpoint.host, port=endpoint.port, **options)
    manager = sentinel.Sentinel(
        [(one.host, one.port) for one in endpoint.primary.sentinels],
        sentinel_kwargs=dict(endpoint.sentinel_options or {}),
    )
    if endpoint.tls is not None:
        # Imported only here, because it imports Celery's result backend.
        from celery_fleet.compat.primary import FollowingConnection

        options["connection_class"] = FollowingConnection
    found: redis.Redis = manager.master_for(endpoint.host, redis.Redis, **options)
    return found


def _endpoints(first: Any) -> list[Endpoint]:
    if first.transport_cls == "sentinel":
        return [_primary(first)]
    found = []
    for connection in [first, *(first.clone(hostname=url) for url in (first.alt or [])[1:])]:
        if connection.transport_cls not in ("redis", "rediss") or "://" in str(connection.hostname):
            continue
        tls = connection.ssl
        found.append(
            Endpoint(
                host=connection.hostname or "127.0.0.1",
                port=connection.port or 6379,
                username=connection.userid,
                password=connection.password,
                database=_database(connection.virtual_host),
                # kombu itself sets these options for a rediss:// URL without any.
                tls=dict(tls) if isinstance(tls, Mapping) else None,
            )
        )
    return found


def _primary(connection: Any) -> Endpoint:
    """Return the primary that kombu follows. All addresses of the connection are those of its Sentinels."""
    options = connection.transport_options or {}
    tls = connection.ssl if isinstance(connection.ssl, Mapping) else None
    urls = connection.alt or [connection.as_uri(include_password=True)]
    primary = server_of(";".join(urls), tls, options)
    return Endpoint(
        host=primary.host,
        port=primary.port,
        username=primary.user,
        password=primary.password,
        database=primary.database,
        tls=tls and dict(tls),
        primary=primary,
        sentinel_options=options.get("sentinel_kwargs"),
    )


def _database(virtual_host: Any) -> int:
    text = str(virtual_host or "").strip("/")
    return int(text) if text.isdigit() else 0
