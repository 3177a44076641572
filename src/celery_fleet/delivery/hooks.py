"""What the parts of the delivery do at moments of the transport. Standard library alone.

The transport knows none of them: each part sets its function when the worker is set up. An exception of
one of them is logged and the transport does what it does without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass
class Hooks:
    """One function per moment; None does as it is said. ``channel`` is the transport's channel."""

    #: ``(connection)`` of kombu's, when a queue is consumed: whether it is the worker's. What the application's
    #: own code consumes, be it in a child of the pool, is renewed by nobody: it is taken as stock kombu does.
    #: None: it is.
    ours: Callable[[Any], bool] | None = None
    #: ``(channel)``, every 10 s: put back what nobody holds any more. None: as stock kombu, by age.
    sweep: Callable[[Any], object] | None = None
    #: ``(channel)``, when a channel closes: the tags that must not be put back, since they run. None: none.
    keep: Callable[[Any], Iterable[str]] | None = None
    #: ``(tag, error)``: an acknowledgement could not be sent; True where it will be sent again later, so
    #: that it counts as done. None: the error is raised.
    ack_failed: Callable[[str, Exception], bool] | None = None
    #: ``(channel, tag, key, item, reason, detail)``: keep an item (bytes) of the list ``key`` that can't be
    #: read; it stands under ``tag`` in unacked. None: to the list :data:`celery_fleet.delivery.keys.UNREADABLE`.
    park_raw: Callable[[Any, str, str, bytes, str, str], object] | None = None
    #: ``(tag, message, error)``: a message could not be put back on request of its task; True where that is done later.
    #: The message is None if its channel is closed. None: the error is raised.
    requeue_failed: Callable[[str, Any, Exception], bool] | None = None
    #: ``(parameters)`` of a pool of connections; what they shall be. None: as they are.
    parameters: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    #: ``(channel)``, before each wait of the event loop; raises where the connection is to be given up.
    tick: Callable[[Any], object] | None = None


HOOKS = Hooks()
