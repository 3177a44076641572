"""Extend kombu's poller, which waits on the sockets of all channels of a connection.

Its private attributes were checked in the source of kombu 5.7.0.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from celery_fleet.compat.minors import chosen as minors
from celery_fleet.delivery.fetch.queue_poller import NET
from celery_fleet.delivery.hooks import HOOKS


class PushPoller(minors.kombu.Poller):  # type: ignore[misc]  # kombu's types are incomplete
    """kombu's poller, extended to handle pushes."""

    def on_poll_start(self) -> None:
        """Call the hook ``tick`` for each channel before each wait."""
        if HOOKS.tick is not None:
            for channel in tuple(self._channels):
                HOOKS.tick(channel)
        super().on_poll_start()

    def on_readable(self, fileno: int) -> Any:
        """Read from a socket that is readable."""
        found = self._fd_to_chan.get(fileno)
        channel: Any = found and found[0]
        if found and found[1] == "BRPOP" and channel.listens and not channel.qos.can_consume():
            return channel.hear()
        return super().on_readable(fileno)

    def _on_connection_disconnect(self, connection: Any) -> None:
        """Forget the sockets of a lost connection: another one may get their file descriptors.

        kombu 5.7 does this with an event loop, and replaces this method. With greenlets, a task may open a connection
        during the wait, for example to acknowledge its message.
        """
        super()._on_connection_disconnect(connection)
        lost = [key for key in self._chan_to_sock if key[1].connection is connection]
        for key in lost:
            del self._chan_to_sock[key]
        gone = {(channel, kind) for channel, _, kind in lost}
        for fileno in [fileno for fileno, found in self._fd_to_chan.items() if found in gone]:
            del self._fd_to_chan[fileno]
            # Unlike poll and select, epoll forgets a closed socket by itself.
            with suppress(OSError, KeyError):
                self.poller.unregister(fileno)

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        """Wait for a message if there is no event loop; wake up often enough to check all lists."""
        return super().get(callback, timeout=NET if timeout is None else min(timeout, NET))
