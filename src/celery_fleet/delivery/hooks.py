"""What the parts of the delivery do at certain moments of the transport. Standard library only.

The transport imports none of them: each part sets its function when the worker is set up. The transport logs a
function's exception and continues as if there were no function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_fleet.delivery.messages import FetchedMessage


@dataclass
class Hooks:
    """One function for each moment, or None for the default. ``channel`` is the transport's channel."""

    #: ``(connection)`` of kombu's, when a queue is consumed: return whether it is the worker's. The lease does not
    #: renew what the application's own code consumes, also in a child of the pool, so such a channel takes as stock
    #: kombu does. Default: it is the worker's.
    ours: Callable[[Any], bool] | None = None
    #: ``(channel)``, every 10 s: put back messages that no worker holds any more. Default: as stock kombu, by age.
    sweep: Callable[[Any], object] | None = None
    #: ``(channel)``, when a channel closes: return the tags to leave in place, since their tasks run. Default: none.
    keep: Callable[[Any], Iterable[str]] | None = None
    #: ``(tag, error)``, when an acknowledgement could not be sent: return whether it will be sent later, so that it
    #: counts as done. Default: the error is raised.
    ack_failed: Callable[[str, Exception], bool] | None = None
    #: ``(channel, fetched, reason, detail)``: keep an item that can't be read and is in ``unacked``. Default: to the
    #: list :data:`celery_fleet.delivery.keys.UNREADABLE`.
    park_raw: Callable[[Any, FetchedMessage, str, str], object] | None = None
    #: ``(tag, message, error)``, when a task rejected its message and it could not be put back: return whether that
    #: is done later. The message is None if its channel is closed. Default: the error is raised.
    requeue_failed: Callable[[str, Any, Exception], bool] | None = None
    #: ``(parameters)`` of a connection pool: return those to use. Default: as they are.
    parameters: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    #: ``(channel)``, before each wait of the event loop; raises if the connection is to be given up.
    tick: Callable[[Any], object] | None = None


HOOKS = Hooks()
