# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Differences of kombu 5.6 from 5.7, checked in the source of kombu 5.6.2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kombu.transport.redis
from kombu.utils.eventio import READ, poll

from celery_fleet.compat.minors.kombu57 import *  # noqa: F403  # everything that is not overridden below
from celery_fleet.compat.mixin import Mixin

# kombu's types are incomplete, which is worse for subclasses than no types at all.
_stock: Any = kombu.transport.redis


class _Parts(Mixin):  # type: ignore[misc]  # see mixin
    """Attributes that a channel of 5.7 has and one of 5.6 lacks."""

    #: When the pending poll was sent (monotonic seconds); only the atomic fetch sets it.
    _brpop_sent_at: float | None = None

    @staticmethod
    def _pending_reauth_token(_connection: Any) -> None:
        """Do nothing: kombu keeps using an old token of redis-py until the connection is made again."""

    def _flush_brpop_reauth(self) -> None:
        """Do nothing, like `_pending_reauth_token`."""


class Channel(_Parts, _stock.Channel):  # type: ignore[misc]  # see _stock
    """A channel of redis:// and rediss://."""


class SentinelChannel(_Parts, _stock.SentinelChannel):  # type: ignore[misc]  # see _stock
    """A channel of sentinel://."""


class Poller(_stock.MultiChannelPoller):  # type: ignore[misc]  # see _stock
    """A poller that waits in the same way with and without an event loop, and ignores events of forgotten sockets."""

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        """Wait for a message."""
        self.on_poll_start()
        return super().get(callback, timeout=timeout)

    def on_readable(self, fileno: int) -> Any:
        """Handle a socket that is readable."""
        if fileno not in self._fd_to_chan:
            return None
        channel, kind = self._fd_to_chan[fileno]
        if kind == "BRPOP" and not channel._in_poll and not channel.qos.can_consume():
            # No answer is due, so Redis has closed the connection. If this is not read, it keeps waking the loop.
            channel.client.connection.disconnect()
            return None
        return super().on_readable(fileno)

    def handle_event(self, fileno: int, event: int) -> Any:
        """Handle an event of a socket."""
        return super().handle_event(fileno, event) if fileno in self._fd_to_chan else None

    def forget(self, connection: Any) -> list[int]:
        """Forget the sockets of a lost connection; return their descriptors."""
        lost = {key for key in self._chan_to_sock if key[1].connection is connection}
        for key in lost:
            del self._chan_to_sock[key]
        owners = {(channel, kind) for channel, _, kind in lost}
        gone = [number for number, owner in self._fd_to_chan.items() if owner in owners]
        for number in gone:
            del self._fd_to_chan[number]
        return gone


class Transport(_stock.Transport):  # type: ignore[misc]  # see _stock
    """A transport with an event loop that continues after a connection was lost and established again."""

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let the event loop read the sockets that the poller waits for.

        When one connection is lost, kombu 5.6 ends the whole poll and looks for a socket that redis-py has already
        dropped. If the loss raises no error, the worker would never be notified of anything again.
        """
        super().register_with_event_loop(connection, loop)
        cycle = self.cycle

        def lost(connection: Any) -> None:
            for number in cycle.forget(connection):
                loop.remove(number)

        cycle._on_connection_disconnect = lost


def readable(sock: Any) -> bool:
    """Return whether a socket is readable, without reading it."""
    poller = poll()  # type: ignore[no-untyped-call]  # kombu types it in part
    try:
        poller.register(sock, READ)
        return bool(poller.poll(0))
    finally:
        poller.close()


def pooled(pool: Any) -> Any:
    """Return a connection of redis-py's pool, which up to 5.2 needs the name of a command."""
    if _stock._REDIS_GET_CONNECTION_WITHOUT_ARGS:
        return pool.get_connection()
    return pool.get_connection("_")


def before_each_wait(cycle: Any, call: Callable[[], None]) -> None:
    """Call a function before each wait of a poller without an event loop; an exception that it raises ends the wait.

    In kombu 5.6 ``get`` does not call ``on_poll_start``, and takes every descriptor for a channel's.
    """
    get, handle_event = cycle.get, cycle.handle_event

    def called_get(*args: Any, **kwargs: Any) -> Any:
        call()
        return get(*args, **kwargs)

    def known_event(fileno: int, event: int) -> Any:
        return handle_event(fileno, event) if fileno in cycle._fd_to_chan else None

    cycle.get, cycle.handle_event = called_get, known_event


def bindings_without_expiry(_channel: Any, _exchange: str) -> str | None:
    """Return None: queues don't expire."""
    return None


def forget_deadline(_channel: Any, _exchange: str) -> None:
    """Do nothing: bindings have no deadlines."""
