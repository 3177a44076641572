# ruff: noqa: SLF001  # subclasses of what kombu keeps private
"""Extend kombu 5.7's Redis transport with the atomic fetch.

All private attributes of kombu's transport that this file reads or replaces were checked in the source of kombu 5.7.0.
:mod:`celery_fleet.compat.minors.chosen` adds those that an older minor lacks.
:mod:`celery_fleet.delivery.fetch.queue_poller` describes how the polling connection is used. kombu's attribute
``_in_poll`` is only set while a reply is due, so it is not set while the channel is armed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from queue import Empty
from time import monotonic
from typing import Any

import kombu.transport
import kombu.transport.redis
import kombu.utils.json

from celery_fleet.common import errors
from celery_fleet.common.errors import FleetError, one_line
from celery_fleet.common.redact import redact
from celery_fleet.compat.minors import chosen as minors
from celery_fleet.compat.mixin import Mixin
from celery_fleet.delivery import keys, tags
from celery_fleet.delivery.fetch.held import Fetched, Message, QoS
from celery_fleet.delivery.fetch.push_poller import PushPoller
from celery_fleet.delivery.fetch.queue_poller import (
    Due,
    FetchRequest,
    QueuePoller,
    require_redis,
    tell_once,
)
from celery_fleet.delivery.hooks import HOOKS
from celery_fleet.delivery.messages import FetchedMessage
from celery_fleet.delivery.outage.breaker import BrokerAwayError
from celery_fleet.delivery.scripts import ACK, HEAD, PUT_ASIDE, PUT_BACK, Script, run

# kombu's types are incomplete, which is worse for subclasses than no types at all.
stock: Any = kombu.transport.redis
json: Any = kombu.utils.json

logger = logging.getLogger("celery_fleet.delivery")


class _Atomic(Mixin):  # type: ignore[misc]  # see mixin
    """Fetches messages with a script; a mixin before one of kombu's channels."""

    QoS = QoS
    Message = Message

    #: Whether scripts fetch and acknowledge the messages.
    atomic = False

    # kombu's attributes, for the type checker
    client: Any
    connection: Any
    connection_errors: tuple[type[Exception], ...]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._poller = QueuePoller()
        #: Whether the worker consumes its tasks on this channel. It stays true after the connection is lost, because
        #: messages are still acknowledged.
        self.ours = False
        self._checked = False
        self._unconfirmed: set[str] = set()
        #: For each priority, the list of each queue by the queue's name; and each queue as a JSON string.
        self._lists: list[dict[str, str]] = []
        self._quoted: dict[str, str] = {}
        #: Whether kombu has sent a BRPOP and its reply is due.
        self._popping = False
        super().__init__(*args, **kwargs)
        # kombu's periodic work ignores these errors. kombu's retries use the transport's errors instead.
        self.connection_errors = (*self.connection_errors, BrokerAwayError)

    def _require_version(self) -> None:
        channel: Any = self
        try:
            pooled = minors.kombu.pooled(channel.async_pool)
            try:
                require_redis(pooled)
            finally:
                channel.async_pool.release(pooled)
        except FleetError as exc:
            errors.refuse(exc, os.environ)

    @property
    def armed(self) -> bool:
        """Return whether Redis will push the next message, so polling is unnecessary."""
        return self._poller.armed

    @property
    def listens(self) -> bool:
        """Return whether unrequested input may be a push, and not just the end of the connection."""
        channel: Any = self
        return self._poller.tracked and not channel._in_poll

    def is_lost(self, exc: BaseException) -> bool:
        """Return whether an error means that the broker can't be reached. A closed channel has no connection left."""
        channel: Any = self
        if isinstance(
            exc, KeyError
        ):  # kombu counts it as a lost connection, too, but it may come from kombu itself
            return False
        return isinstance(exc, channel.connection_errors) or (
            isinstance(exc, AttributeError) and self.connection is None
        )

    @property
    def awaited(self) -> str | None:
        """Return the tag of the fetch for which a reply is due; None if there is none."""
        return self._poller.awaited

    def overdue(self, seconds: float) -> bool:
        """Return whether a reply that the loop waits for is more than some seconds late. A push is never late."""
        channel: Any = self
        conn = channel._in_poll
        if not conn or conn._sock is None or channel._brpop_sent_at is None:
            return False
        waits = (
            self._popping or self._poller.due is Due.BLMOVE
        )  # Redis itself waits before it replies
        if monotonic() - channel._brpop_sent_at <= seconds + waits * (channel.brpop_timeout or 0):
            return False
        # It is not the broker's fault if the reply has arrived, but is not read because the prefetch is full.
        return not minors.kombu.readable(conn._sock)

    # --- atomic or stock ---

    def basic_consume(self, queue: str, no_ack: bool = False, *args: Any, **kwargs: Any) -> Any:
        """Start to consume a queue.

        Raises:
            SystemExit, celery.exceptions.ImproperlyConfigured: Redis is too old, see `errors.refuse`.
        """
        if not self._checked and (HOOKS.ours is None or HOOKS.ours(self)):
            self._require_version()
            self.ours = self._checked = True
        (self._unconfirmed.add if no_ack else self._unconfirmed.discard)(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def become_ours(self) -> None:
        """Mark the channel as the worker's before it consumes.

        Running tasks are acknowledged here, and the connection may be lost before it consumes.
        """
        self.ours = True
        self._update_queue_cycle()

    def _update_queue_cycle(self) -> None:
        super()._update_queue_cycle()
        channel: Any = self
        self._poller.forget()  # it knows the state of the previous queues
        self._lists = [
            {queue: channel._q_for_pri(queue, step) for queue in channel.active_queues}
            for step in channel.priority_steps
        ]
        self._quoted = {queue: json.dumps(queue) for queue in channel.active_queues}
        why_not = None
        unconfirmed = self._unconfirmed.intersection(channel.active_queues)
        if not channel.ack_emulation:
            why_not = "ack_emulation is off (broker_transport_options)"
        elif unconfirmed:
            why_not = f"{', '.join(sorted(unconfirmed))} has no_ack"
        self.atomic = self.ours and why_not is None
        # Don't warn about Celery's own queues for replies and gossip, which are deleted when the process ends.
        if (
            self.ours
            and why_not is not None
            and not (unconfirmed and unconfirmed <= channel.auto_delete_queues)
        ):
            tell_once(f"messages are fetched as in stock Celery: {why_not}")

    # --- scripts ---

    def run(self, script: Script, names: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script on a connection from the pool."""
        channel: Any = self
        with channel.conn_or_acquire() as client:
            return run(client, script, names, args)

    def put_back(self, tag: str, key: str, payload: str | bytes, end: str = HEAD) -> bool:
        """Put a message back at one end of a list; return whether it was still held under the tag.

        A task that rejects its message goes to the tail, so it does not keep other tasks waiting again and again.
        """
        channel: Any = self
        names = [channel.unacked_key, channel.unacked_index_key, key]
        return bool(self.run(PUT_BACK, names, [tag, payload, end, ""]))

    # --- fetching ---

    def _brpop_start(self, timeout: float | None = None) -> None:
        channel: Any = self
        conn = self.client.connection
        if not self.atomic:
            if self._poller.tracked:  # kombu does not expect pushes between its replies
                conn.disconnect()
                return
            super()._brpop_start(timeout)
            self._popping = bool(channel._in_poll)
            return
        # Without a socket, redis-py would open one that the loop does not watch.
        if self._poller.idle or conn._sock is None:
            return
        queues = list(channel._queue_cycle.consume(len(channel.active_queues)))
        if not queues:
            return
        request = FetchRequest(
            tag=tags.own().next(),
            names=(channel.unacked_key, channel.unacked_index_key),
            lists=[names[queue] for names in self._lists for queue in queues],
            queues=[self._quoted[queue] for queue in queues],
        )
        try:
            asked = self._poller.ask(conn, request)
        except BaseException:
            conn.disconnect()
            raise
        if asked:
            channel._in_poll = conn
            channel._brpop_sent_at = self._poller.asked_at

    def _brpop_read(self, **options: Any) -> Any:
        channel: Any = self
        popping, self._popping = self._popping, False
        try:
            if popping:
                return super()._brpop_read(**options)
            return self._fetch(self.client.connection)
        except Empty:
            raise
        except Exception as exc:
            if not channel._closing:
                raise
            # Don't raise it: kombu would leave the channel half closed, and the worker would end.
            logger.warning("the last reply to a closing channel failed: %s", redact(one_line(exc)))
            raise Empty from exc
        finally:
            channel._in_poll = None
            channel._flush_brpop_reauth()

    def _fetch(self, conn: Any) -> bool:
        if conn is None:
            raise Empty
        try:
            found = self._poller.hear(conn)
        except BaseException:
            conn.disconnect()
            raise
        if found is None:
            raise Empty
        self._deliver(found)
        return True

    def hear(self) -> None:
        """Read a push while the prefetch is full. kombu would mistake it for the end of the connection."""
        conn = self.client.connection
        try:
            self._poller.hear(conn)
        except Exception as exc:
            conn.disconnect()
            if not self.is_lost(exc):
                raise

    # --- delivering ---

    def _deliver(self, found: FetchedMessage) -> None:
        channel: Any = self
        queue = found.key.rsplit(channel.sep, 1)[0]
        channel._queue_cycle.rotate(queue)
        if channel._closing or queue not in self.connection._callbacks:
            # The queue was cancelled. kombu would let any channel hold the message, under a second tag.
            self.put_back(found.tag, found.key, found.item)
            raise Empty
        try:
            raw = json.loads(found.item)
        except Exception as exc:
            self._park(found, "undecodable", exc)
            raise Empty from exc
        transport = self.connection
        transport.fetched = Fetched(raw, found.tag, found.key)
        try:
            transport._deliver(raw, queue)
            if transport.fetched is not None:  # another channel consumes the queue with no_ack
                self.run(ACK, [channel.unacked_key, channel.unacked_index_key], [found.tag])
        except Exception as exc:
            if (
                transport.fetched is None
            ):  # the channel already holds the message, and its handler failed
                raise
            self._park(found, "malformed", exc)
            raise Empty from exc
        finally:
            transport.fetched = None

    def _park(self, found: FetchedMessage, reason: str, exc: Exception) -> None:
        """Keep an item that can't become a message."""
        channel: Any = self
        detail = redact(one_line(f"{type(exc).__name__}: {exc}"))
        if HOOKS.park_raw is not None:
            try:
                HOOKS.park_raw(self, found, reason, detail)
                return
            except Exception as trouble:
                if self.is_lost(trouble):
                    raise
                logger.exception("an unreadable item can't become a dead letter")
        names = [channel.unacked_key, channel.unacked_index_key, keys.UNREADABLE]
        self.run(PUT_ASIDE, names, [found.tag, found.item, keys.UNREADABLE_KEPT])
        queue = found.key.split(channel.sep)[0]
        logger.error(
            "an item of %s is %s (%s): put into the list %s", queue, reason, detail, keys.UNREADABLE
        )

    # --- the connection ---

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        made: dict[str, Any] = super()._connparams(asynchronous)
        return made if HOOKS.parameters is None else HOOKS.parameters(made)

    def _on_connection_disconnect(self, connection: Any) -> None:
        if getattr(self.__dict__.get("client"), "connection", None) is connection:
            self._poller.lost()
            self._popping = False
        super()._on_connection_disconnect(connection)

    def _flush_brpop_reauth(self) -> None:
        channel: Any = self
        connection = getattr(self.__dict__.get("client"), "connection", None)
        if channel._pending_reauth_token(connection) is not None:
            self._poller.forget()  # kombu reads the reply, and may skip a push
        super()._flush_brpop_reauth()


class Channel(_Atomic, minors.kombu.Channel):  # type: ignore[misc]  # see stock
    """A channel of redis:// and rediss://."""


class SentinelChannel(_Atomic, minors.kombu.SentinelChannel):  # type: ignore[misc]  # see stock
    """A channel of sentinel://."""


class Transport(minors.kombu.Transport):  # type: ignore[misc]  # see stock
    """The transport of redis:// and rediss://."""

    Channel: Any = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle: Any = PushPoller()
        #: The message that is being delivered to its consumer. Its channel may not be the one that fetched it.
        self.fetched: Fetched | None = None


class SentinelTransport(Transport):
    """The transport of sentinel://."""

    default_port: Any = stock.SentinelTransport.default_port
    Channel: Any = SentinelChannel


_CLASSES = {"redis": Transport, "rediss": Transport, "sentinel": SentinelTransport}


def install() -> None:
    """Register these transports for kombu's existing URL schemes."""
    for alias, transport in _CLASSES.items():
        kombu.transport.TRANSPORT_ALIASES[alias] = f"{__name__}:{transport.__name__}"
        kombu.transport._transport_cache.pop(alias, None)
