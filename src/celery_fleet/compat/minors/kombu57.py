# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Private attributes of kombu 5.7's Redis transport that differ between minors; older minors override these functions.

Checked in the source of kombu 5.7.0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kombu.transport.redis

# kombu's types are incomplete, which is worse for subclasses than no types at all.
_stock: Any = kombu.transport.redis

#: The classes that the atomic fetch extends.
Channel: Any = _stock.Channel
SentinelChannel: Any = _stock.SentinelChannel
Poller: Any = _stock.MultiChannelPoller
Transport: Any = _stock.Transport


def readable(sock: Any) -> bool:
    """Return whether a socket is readable, without reading it."""
    return bool(_stock._socket_readable(sock))


def pooled(pool: Any) -> Any:
    """Return a connection of redis-py's pool."""
    return pool.get_connection()


def before_each_wait(cycle: Any, call: Callable[[], None]) -> None:
    """Call a function before each wait of a poller without an event loop; an exception that it raises ends the wait."""
    poll_start = cycle.on_poll_start

    def on_poll_start() -> None:
        call()
        poll_start()

    cycle.on_poll_start = on_poll_start


def bindings_without_expiry(channel: Any, exchange: str) -> str | None:
    """Return the key of an exchange's bindings to queues that don't expire; None if kombu keeps no such set."""
    return str(channel.keyprefix_binding_permanent % exchange)


def forget_deadline(channel: Any, exchange: str) -> None:
    """Make kombu forget when the bindings of an exchange expire."""
    channel.client.zrem(channel.keyprefix_binding_deadlines, exchange)
