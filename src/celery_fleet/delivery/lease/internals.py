# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Private attributes of Celery 5.7 and kombu 5.7 that lease and sweep read, in a thread next to the worker's loop.

These functions only read. They neither connect nor create or cache anything in the loop's objects. They were checked
in the sources of celery 5.7.0 and kombu 5.7.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import redis
from billiard.util import register_after_fork
from kombu.transport import redis as stock
from kombu.utils.url import _parse_url
from redis import sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

from celery_fleet.delivery.lease.sweep import Broker
from celery_fleet.delivery.messages import list_for
from celery_fleet.delivery.outage import internals as outage
from celery_fleet.delivery.scripts import Script, run, run_each


def channel_of(worker: Any) -> Any:
    """Return the channel that the worker consumes from; None if there is none, or if it is not a Redis channel."""
    consumer = getattr(worker, "consumer", None)
    channel = getattr(getattr(consumer, "task_consumer", None), "channel", None)
    if not isinstance(channel, stock.Channel) or channel.closed or channel.connection is None:
        return None
    return channel


def running() -> set[str]:
    """Return the tags of the pool's tasks that are not acknowledged yet, from any connection."""
    tags = {request.message.delivery_tag for request in outage.running()}
    return {tag for tag in tags if isinstance(tag, str)}


def awaited(channel: Any) -> set[str]:
    """Return the tag of a fetch that may have found a message which is not noted as held yet."""
    asked = getattr(channel, "awaited", None)  # kombu's own channel has none
    fetched = getattr(channel.connection, "fetched", None)
    return {tag for tag in (asked, fetched and fetched.tag) if tag}


def address_of(channel: Any) -> tuple[Any, ...]:
    """Return a channel's broker, for comparison: with several broker URLs, the worker may have changed brokers.

    Several URLs of Sentinels are one broker.
    """
    info = channel.connection.client
    primary = getattr(channel, "master_name", None)
    if primary is not None:
        return (primary, info.virtual_host, info.userid, type(channel))
    return (info.hostname, info.port, info.virtual_host, info.userid, type(channel))


def client_of(channel: Any, timeout: float) -> redis.Redis:
    """Return a separate client for a channel's broker, with its TLS, user and database, that makes no retries.

    Args:
        channel: An open channel.
        timeout: Seconds for connecting and for each answer.
    """
    # Call kombu's own method, because a subclass may guard the connections of the loop's thread.
    params = stock.Channel._connparams(channel)  # type: ignore[no-untyped-call]  # typed in part only
    params.update(
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        health_check_interval=0,  # each round uses the connection, which is enough of a check
        retry=Retry(NoBackoff(), 0),
    )
    params.pop("retry_on_timeout", None)
    client: redis.Redis
    if isinstance(channel, stock.SentinelChannel):
        client = _sentinel_client(channel, params)
    else:
        client = redis.Redis(connection_pool=redis.ConnectionPool(**params))
    # A child of the pool would keep the socket open without using it.
    register_after_fork(client, _close)
    return client


def _close(client: redis.Redis) -> None:
    client.connection_pool.disconnect()


def run_each_within(
    client: redis.Redis, script: Script, calls: Iterable[Any], seconds: float | None
) -> list[Any]:
    """Run a script for each call (`run_each`), with this timeout instead of the client's if it is given.

    A timeout limits the time in which a whole call is sent.
    """
    if seconds is None:
        return run_each(client, script, calls)
    usual = client.connection_pool.connection_kwargs["socket_timeout"]
    _reconnect(client, seconds)
    try:
        return run_each(client, script, calls)
    finally:
        _reconnect(client, usual)


def _reconnect(client: redis.Redis, timeout: float) -> None:
    _close(client)
    client.connection_pool.reset()  # a connection keeps its timeout
    client.connection_pool.connection_kwargs["socket_timeout"] = timeout


def _sentinel_client(channel: Any, params: dict[str, Any]) -> redis.Redis:
    # As in SentinelChannel._sentinel_managed_pool.
    host, port = params.pop("host", None), params.pop("port", None)
    found = [_parse_url(url) for url in channel.connection.client.alt or ()]
    servers = [
        (url.hostname, url.port or channel.connection.default_port)
        for url in found
        if url.scheme == "sentinel"
    ]
    manager = sentinel.Sentinel(
        servers or [(host, port)],
        min_other_sentinels=getattr(channel, "min_other_sentinels", 0),
        sentinel_kwargs=getattr(channel, "sentinel_kwargs", None),
        **params,
    )
    own = {name: params[name] for name in ("username", "password") if name in params}
    client: redis.Redis = manager.master_for(channel.master_name, redis.Redis, **own)
    return client


def broker_of(channel: Any, client: redis.Redis) -> Broker:
    """Return a channel's broker for a sweep, which uses a separate client."""

    def table(exchange: str) -> list[tuple[str, ...]]:
        members: Any = client.smembers(channel.keyprefix_queue % exchange)
        return [tuple(member.decode().split(channel.sep)) for member in members]

    def queues(exchange: str, routing_key: str) -> Iterable[str]:
        if not exchange:
            return [routing_key]
        # Like kombu, typeof treats an exchange that this process never declared as a direct exchange.
        found = channel.typeof(exchange).lookup(table(exchange), exchange, routing_key, None)
        # Without a binding, kombu would drop the message. The queue usually has the same name as the routing key.
        return dict.fromkeys(queue for queue in found if queue) or [routing_key]

    def lists(raw: dict[str, Any], exchange: str, routing_key: str) -> Sequence[str]:
        return [
            list_for(queue, raw, channel.sep, channel.priority_steps)
            for queue in queues(exchange, routing_key)
            if queue
        ]

    return Broker(
        run=partial(run, client),
        run_each=partial(run_each_within, client),
        index=channel.unacked_index_key,
        unacked=channel.unacked_key,
        lists=lists,
    )
