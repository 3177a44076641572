# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""kombu 5.6, where it is not as 5.7. Checked in the source of kombu 5.6.2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kombu.transport.redis
from kombu.utils.eventio import READ, poll

from celery_fleet.compat.minors.kombu57 import *  # noqa: F403  # all that is not said otherwise below
from celery_fleet.compat.mixin import Mixin

# Typed in part only, which is worse than not at all for those who subclass.
_stock: Any = kombu.transport.redis


class _Parts(Mixin):  # type: ignore[misc]  # see mixin
    """What a channel of 5.7 has besides."""

    #: When the question was sent whose answer is due; kept by the atomic take alone.
    _brpop_sent_at: float | None = None

    @staticmethod
    def _pending_reauth_token(_connection: Any) -> None:
        """Nothing: kombu leaves a new token of redis-py until the connection is made anew."""

    def _flush_brpop_reauth(self) -> None:
        """Nothing: see there."""


class Channel(_Parts, _stock.Channel):  # type: ignore[misc]  # see _stock
    """A channel of redis:// and rediss://."""


class SentinelChannel(_Parts, _stock.SentinelChannel):  # type: ignore[misc]  # see _stock
    """A channel of sentinel://."""


class Poller(_stock.MultiChannelPoller):  # type: ignore[misc]  # see _stock
    """Waits without an event loop as with one, and bears what comes on a socket that it has forgotten."""

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        """Wait for a message."""
        self.on_poll_start()
        return super().get(callback, timeout=timeout)

    def on_readable(self, fileno: int) -> Any:
        """A socket has something to read."""
        if fileno not in self._fd_to_chan:
            return None
        channel, kind = self._fd_to_chan[fileno]
        if kind == "BRPOP" and not channel._in_poll and not channel.qos.can_consume():
            # No answer is due, so Redis has closed the connection. Unread, that would wake the loop without end.
            channel.client.connection.disconnect()
            return None
        return super().on_readable(fileno)

    def handle_event(self, fileno: int, event: int) -> Any:
        """Something is the matter with a socket."""
        return super().handle_event(fileno, event) if fileno in self._fd_to_chan else None

    def forget(self, connection: Any) -> list[int]:
        """Drop what is registered of a connection that is lost; its descriptors."""
        lost = {key for key in self._chan_to_sock if key[1].connection is connection}
        for key in lost:
            del self._chan_to_sock[key]
        owners = {(channel, kind) for channel, _, kind in lost}
        gone = [number for number, owner in self._fd_to_chan.items() if owner in owners]
        for number in gone:
            del self._fd_to_chan[number]
        return gone


class Transport(_stock.Transport):  # type: ignore[misc]  # see _stock
    """One whose event loop goes on with a connection that was lost and made anew."""

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have the loop read what the poller waits for.

        kombu 5.6 ends the whole poll when one connection is lost, and looks for a socket that redis-py has dropped by
        then: where the loss raises no error, the worker would hear nothing for ever.
        """
        super().register_with_event_loop(connection, loop)
        cycle = self.cycle

        def lost(connection: Any) -> None:
            for number in cycle.forget(connection):
                loop.remove(number)

        cycle._on_connection_disconnect = lost


def readable(sock: Any) -> bool:
    """Whether a socket has something to read, which stays there."""
    poller = poll()  # type: ignore[no-untyped-call]  # kombu types it in part
    try:
        poller.register(sock, READ)
        return bool(poller.poll(0))
    finally:
        poller.close()


def pooled(pool: Any) -> Any:
    """A connection of redis-py's pool, which up to 5.2 wants to know a command."""
    if _stock._REDIS_GET_CONNECTION_WITHOUT_ARGS:
        return pool.get_connection()
    return pool.get_connection("_")


def before_each_wait(cycle: Any, call: Callable[[], None]) -> None:
    """Have a poller without an event loop call this before each wait; what it raises ends the wait.

    Here ``get`` does not go by ``on_poll_start``, and takes each descriptor for a channel's.
    """
    get, handle_event = cycle.get, cycle.handle_event

    def called_get(*args: Any, **kwargs: Any) -> Any:
        call()
        return get(*args, **kwargs)

    def known_event(fileno: int, event: int) -> Any:
        return handle_event(fileno, event) if fileno in cycle._fd_to_chan else None

    cycle.get, cycle.handle_event = called_get, known_event


def bindings_without_expiry(_channel: Any, _exchange: str) -> str | None:
    """None: queues don't expire."""
    return None


def forget_deadline(_channel: Any, _exchange: str) -> None:
    """Nothing: bindings have none."""
