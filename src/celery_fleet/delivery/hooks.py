"""Functions that the transport calls at certain moments. Standard library only.

The transport does not import the other parts of the delivery: each part sets its functions when the worker is set up.
If `keep`, `ack_failed` or `park_raw` raises an exception, the transport logs it and continues with the default. One of
`sweep` is only logged. A lost connection, in `sweep` or `park_raw`, and exceptions of the other functions are raised.
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

    #: ``(channel)``, when a queue is consumed: return whether the channel is that of the worker's tasks. A channel of
    #: the application's own code, for example in a child of the pool or in a consumer step, fetches as in stock kombu,
    #: because the lease does not renew its messages. Default: it is that of the worker's tasks.
    ours: Callable[[Any], bool] | None = None
    #: ``(channel)``, every 10 s: put back messages that no worker holds any more. Default: by age, as in stock kombu.
    sweep: Callable[[Any], object] | None = None
    #: ``(channel)``, when a channel closes: return the tags of messages not to put back, because their tasks are
    #: running. Default: none.
    keep: Callable[[Any], Iterable[str]] | None = None
    #: ``(tag, error)``, when an acknowledgement could not be sent: return whether it will be sent later, so that it
    #: counts as sent. Default: the error is raised.
    ack_failed: Callable[[str, Exception], bool] | None = None
    #: ``(channel, fetched, reason, detail)``: keep an unreadable item that is in ``unacked``. Default: move it to the
    #: list :data:`celery_fleet.delivery.keys.UNREADABLE`.
    park_raw: Callable[[Any, FetchedMessage, str, str], object] | None = None
    #: ``(tag, message, error)``, when a rejected message could not be put back: return whether it will be put back
    #: later. The message is None if its channel is closed. Default: the error is raised.
    requeue_failed: Callable[[str, Any, Exception], bool] | None = None
    #: ``(parameters)`` of a connection pool: return the parameters to use. Default: the same.
    parameters: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    #: ``(channel)``, before each wait of the event loop: raise an exception to give up the connection.
    tick: Callable[[Any], object] | None = None


HOOKS = Hooks()
