# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""kombu 5.7, and the form of the others: what of its Redis transport is not the same in all minors.

Checked in the source of kombu 5.7.0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kombu.transport.redis

# Typed in part only, which is worse than not at all for those who subclass.
_stock: Any = kombu.transport.redis

#: What the atomic take is built on, and its table of who is to be read.
Channel: Any = _stock.Channel
SentinelChannel: Any = _stock.SentinelChannel
Poller: Any = _stock.MultiChannelPoller
Transport: Any = _stock.Transport


def readable(sock: Any) -> bool:
    """Whether a socket has something to read, which stays there."""
    return bool(_stock._socket_readable(sock))


def pooled(pool: Any) -> Any:
    """A connection of redis-py's pool."""
    return pool.get_connection()


def before_each_wait(cycle: Any, call: Callable[[], None]) -> None:
    """Have a poller without an event loop call this before each wait; what it raises ends the wait."""
    poll_start = cycle.on_poll_start

    def on_poll_start() -> None:
        call()
        poll_start()

    cycle.on_poll_start = on_poll_start


def bindings_without_expiry(channel: Any, exchange: str) -> str | None:
    """The set that holds an exchange's bindings of queues that don't expire; None where kombu keeps none."""
    return str(channel.keyprefix_binding_permanent % exchange)


def forget_deadline(channel: Any, exchange: str) -> None:
    """Have kombu expect no end of an exchange's bindings."""
    channel.client.zrem(channel.keyprefix_binding_deadlines, exchange)
