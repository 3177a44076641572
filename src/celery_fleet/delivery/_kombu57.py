# ruff: noqa: SLF001  # subclasses of what kombu keeps private
"""kombu 5.7's Redis transport with the atomic take.

All that is read or replaced of kombu stands here, checked in the source of kombu 5.7.0, so that another
minor gets a module of its own. A channel's polling connection is in one of these states:

* a reply is due (`_in_poll`, as kombu has it): of the take script, of the net's question, or of a BRPOP;
* armed: nothing was sent and nothing will come but a push, once any of the lists was written to;
* neither: the next tick of the loop sends a take, if there is credit.

The take registers its lists for a push in the same step in which it finds them empty, so no wake-up can be
lost between the two. The net asks all the same, once in :data:`NET` seconds, as it also shows that the
broker answers. Where Redis refuses client tracking, a BLMOVE within one list is the bell instead: of the
first list at once, of the others within :data:`BLIND_WAIT`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from queue import Empty
from time import monotonic
from typing import Any

import kombu.transport
import kombu.transport.redis
import kombu.transport.virtual
import kombu.utils.json
from redis.exceptions import NoScriptError, ResponseError

from celery_fleet import errors
from celery_fleet.delivery import keys, process
from celery_fleet.delivery.breaker import BrokerAwayError
from celery_fleet.delivery.hooks import HOOKS
from celery_fleet.delivery.scripts import ACK, PUT_ASIDE, RESTORE, TAKE, Script
from celery_fleet.errors import FleetError, one_line
from celery_fleet.redact import redact

# Typed in part only, which is worse than not at all for those who subclass.
stock: Any = kombu.transport.redis
virtual: Any = kombu.transport.virtual
json: Any = kombu.utils.json

logger = logging.getLogger("celery_fleet.delivery")

#: Seconds between two questions of an armed channel.
NET = 1.0

#: Seconds that a worker without client tracking may take to see a message in other lists than the first.
BLIND_WAIT = 0.1

#: Seconds until the next take where Redis refuses it for now.
REFUSED_WAIT = 1.0

#: The oldest Redis with BLMOVE and client tracking as they are used here.
OLDEST_REDIS = (6, 2)

#: What Redis answers while it can't write for a reason that may pass by itself.
_FOR_NOW = ("OOM", "MISCONF", "NOREPLICAS")

_told: set[str] = set()


def _tell_once(text: str, level: int = logging.WARNING) -> None:
    """Log it once in the process's life: channels come and go with their connections."""
    if text not in _told:
        _told.add(text)
        logger.log(level, "%s", text)


class Due(Enum):
    """The reply that a channel waits for."""

    TAKE = "take"
    #: BLMOVE, then the take.
    RING = "ring"
    LOOK = "look"
    #: kombu's own BRPOP.
    STOCK = "stock"


@dataclass(frozen=True)
class Taken:
    """A delivery: the message as it was read, its tag, and the list that it came from."""

    raw: Any
    tag: str
    key: str


class Message(virtual.Message):  # type: ignore[misc]  # see stock
    """A message whose tag is its delivery's. ``_raw`` keeps the sender's: so it may be put back as it is."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        super().__init__(payload, channel=channel, **kwargs)
        self.properties: dict[str, Any]
        #: The list that it was taken from by script; None where kombu's own way took it.
        self.list_key: str | None = None
        taken = getattr(channel, "_taken", None)
        if taken is not None and taken.raw is payload:
            self.list_key = taken.key
            self.delivery_tag = taken.tag
            self.properties = {**self.properties, "delivery_tag": taken.tag}


class QoS(stock.QoS):  # type: ignore[misc]  # see stock
    """What a channel holds."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message as held; what the script took already stands in Redis."""
        if getattr(message, "list_key", None) is None:
            super().append(message, delivery_tag)
            return
        self.channel._taken = None
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Forget a message for good, in Redis and here."""
        if not self.channel.atomic:
            super().ack(delivery_tag)
            return
        self._finish(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Forget a message, or put it back to the head of the list that it came from."""
        if not self.channel.atomic:
            super().reject(delivery_tag, requeue=requeue)
            return
        if requeue:
            try:
                self._put_back([delivery_tag])
            except Exception as exc:
                if HOOKS.requeue_failed is None or not HOOKS.requeue_failed(delivery_tag, exc):
                    raise
        else:
            self._finish(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def _finish(self, tag: str) -> None:
        try:
            ours = self.channel.run(ACK, [self.unacked_key, self.unacked_index_key], [tag])
        except Exception as exc:
            # A lost connection, kombu's channel without one (AttributeError), or a Redis that refuses it.
            if HOOKS.ack_failed is None or not HOOKS.ack_failed(tag, exc):
                raise
            return
        if not ours:
            logger.warning(
                "message %s was no longer held by this worker when it was acknowledged: it had been put back,"
                " so its task may run twice",
                tag,
            )

    def _put_back(self, tags: Sequence[str]) -> None:
        """To the heads of their lists, the first given nearest to it."""
        for tag in reversed(tags):
            message = self._delivered.get(tag)
            key = getattr(message, "list_key", None)
            if key is None:
                self.restore_by_tag(tag, leftmost=False)
            else:
                self.channel.restore(tag, key, json.dumps(redelivered(message._raw)))

    def restore_unacked(self, client: Any = None) -> None:
        """Put back what is held; oldest first again."""
        try:
            self._put_back([tag for tag in self._delivered if tag not in self._dirty])
        except Exception as exc:  # noqa: BLE001  # stock kombu ends the worker of it
            logger.warning(
                "%d messages can't be put back now (%s): they stay in %s until they are swept up",
                len(self._delivered),
                redact(one_line(exc)),
                self.channel.unacked_key,
            )
        self._delivered.clear()

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """When the channel closes: put back what does not run."""
        if HOOKS.keep is not None:
            try:
                for tag in HOOKS.keep(self.channel):
                    self._delivered.pop(tag, None)
            except Exception:
                logger.exception("what runs can't be told from what waits: all is put back")
        super().restore_unacked_once(stderr)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Put back what nobody holds any more: as the lease has it, else by age."""
        if HOOKS.sweep is None:
            super().restore_visible(*args, **kwargs)
            return
        try:
            HOOKS.sweep(self.channel)
        except self.channel.connection_errors:
            raise
        except Exception:
            logger.exception("what nobody holds can't be swept up")


def redelivered(raw: dict[str, Any]) -> dict[str, Any]:
    """A copy of a message with kombu's marks of one that was delivered before."""
    properties = dict(raw.get("properties") or {})
    info = {**(properties.get("delivery_info") or {}), "redelivered": True}
    headers = {**(raw.get("headers") or {}), "redelivered": True}
    return {**raw, "headers": headers, "properties": {**properties, "delivery_info": info}}


class _Atomic:
    """Takes by script; mixed in before one of kombu's channels."""

    QoS = QoS
    Message = Message

    #: Whether messages are taken by script, and acknowledged so.
    atomic = False
    #: Whether pushes tell of messages.
    armed = False

    _taken: Taken | None = None
    _due: Due | None = None
    #: The socket on which the script is loaded and tracking was asked for.
    _ready_socket: Any = None
    _preparing = 0
    _bell = False
    _refused = False
    _hungry = False
    _hold_until = float("-inf")
    _tag = ""
    _places: Sequence[tuple[str, str]] = ()

    # kombu's, for the type checker
    client: Any
    connection: Any
    connection_errors: tuple[type[Exception], ...]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._unconfirmed: set[str] = set()
        super().__init__(*args, **kwargs)
        # For what kombu does from time to time; its retrying goes by the transport's errors.
        self.connection_errors = (*self.connection_errors, BrokerAwayError)
        self._require_version()

    def _require_version(self) -> None:
        channel: Any = self
        pooled = channel.async_pool.get_connection()
        try:
            hello = getattr(pooled, "handshake_metadata", None) or {}
        finally:
            channel.async_pool.release(pooled)
        try:
            require_redis(hello)
        except FleetError as exc:
            errors.refuse(exc, os.environ)

    # --- which way ---

    def basic_consume(self, queue: str, no_ack: bool = False, *args: Any, **kwargs: Any) -> Any:
        """Begin to consume a queue."""
        (self._unconfirmed.add if no_ack else self._unconfirmed.discard)(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)  # type: ignore[misc]

    def _update_queue_cycle(self) -> None:
        super()._update_queue_cycle()  # type: ignore[misc]
        channel: Any = self
        # The lists that ring are those of before.
        self.armed = False
        why_not = self._why_stock(channel.active_queues)
        self.atomic = why_not is None
        if why_not is not None and not self._unconfirmed <= channel.auto_delete_queues:
            _tell_once(f"messages are taken as stock Celery does it: {why_not}")

    def _why_stock(self, queues: Sequence[str]) -> str | None:
        channel: Any = self
        if not channel.ack_emulation:
            return "ack_emulation is off (broker_transport_options)"
        if channel.global_keyprefix:
            return "global_keyprefix is set (broker_transport_options)"
        unconfirmed = sorted(self._unconfirmed.intersection(queues))
        if unconfirmed:
            return f"{', '.join(unconfirmed)} has no_ack"
        return None

    # --- scripts ---

    def run(self, script: Script, names: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script on a connection of the pool."""
        channel: Any = self
        with channel.conn_or_acquire() as client:
            try:
                return client.evalsha(script.sha, len(names), *names, *args)
            except NoScriptError:
                client.script_load(script.text)
                return client.evalsha(script.sha, len(names), *names, *args)

    def restore(self, tag: str, key: str, payload: str | bytes) -> bool:
        """Put a message back to the head of a list; False where it is no longer held under the tag."""
        channel: Any = self
        names = [channel.unacked_key, channel.unacked_index_key, key]
        return bool(self.run(RESTORE, names, [tag, payload]))

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        made: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[misc]
        return made if HOOKS.parameters is None else HOOKS.parameters(made)

    def overdue(self, seconds: float) -> bool:
        """Whether the reply that the loop waits for has not come for so long; a push is none."""
        channel: Any = self
        connection = channel._in_poll
        if not connection or channel._brpop_sent_at is None or connection._sock is None:
            return False
        limit = seconds
        if self._due in (Due.STOCK, Due.RING):  # Redis waits by itself
            limit += channel.brpop_timeout or 0
        if monotonic() - channel._brpop_sent_at <= limit:
            return False
        # Kept unread without credit, it is no fault of the broker's.
        return not stock._socket_readable(connection._sock)

    # --- asking ---

    def _brpop_start(self, timeout: float | None = None) -> None:
        channel: Any = self
        conn = self.client.connection
        if not self.atomic:
            if self._bell:  # else pushes would come among its replies
                self._bell = False
                conn.disconnect()
                return
            self._due = Due.STOCK
            super()._brpop_start(timeout)  # type: ignore[misc]
            if not channel._in_poll:
                self._due = None
            return
        now = monotonic()
        if now < self._hold_until or conn._sock is None:
            return
        if self.armed:
            if now - channel._brpop_sent_at >= NET:
                self._send(Due.LOOK, [("EXISTS", *(key for _, key in self._places))])
            return
        queues = list(channel._queue_cycle.consume(len(channel.active_queues)))
        if not queues:
            return
        self._places = [
            (queue, channel._q_for_pri(queue, step))
            for step in channel.priority_steps
            for queue in queues
        ]
        self._tag = process.tags().next()
        commands: list[tuple[Any, ...]] = []
        if conn._sock is not self._ready_socket:
            commands.append(("SCRIPT", "LOAD", TAKE.text))
            self._bell = not self._refused and str(conn.get_protocol()) == "3"
            if self._bell:
                commands.append(("CLIENT", "TRACKING", "ON", "NOLOOP"))
            else:
                _tell_once("no client tracking without RESP3: an idle worker asks by BLMOVE")
            self._hungry = False
        self._preparing = len(commands)
        due = Due.TAKE
        if self._hungry and not self._bell:
            due = Due.RING
            first = self._places[0][1]
            wait = channel.brpop_timeout if len(self._places) == 1 else BLIND_WAIT
            commands.append(("BLMOVE", first, first, "RIGHT", "RIGHT", wait))
        names = [channel.unacked_key, channel.unacked_index_key, *(key for _, key in self._places)]
        args = [self._tag, "1" if self._bell else "0", *(json.dumps(queue) for queue in queues)]
        commands.append(("EVALSHA", TAKE.sha, len(names), *names, *args))
        self._send(due, commands)

    def _send(self, due: Due, commands: list[tuple[Any, ...]]) -> None:
        channel: Any = self
        conn = self.client.connection
        channel._in_poll = conn
        channel._brpop_sent_at = monotonic()
        self._due = due
        self.armed = False
        # Without redis-py's own check, which blocks, and may open another socket than the loop's.
        conn.send_packed_command(conn.pack_commands(commands), check_health=False)

    # --- hearing ---

    def _brpop_read(self, **options: Any) -> Any:
        channel: Any = self
        due, self._due = self._due, None
        if due is Due.STOCK:
            return super()._brpop_read(**options)  # type: ignore[misc]
        conn = self.client.connection
        if conn is None:
            channel._in_poll = None
            raise Empty
        try:
            found = self._heard(conn, due)
        except BaseException as exc:
            # What is still to come would be taken for another's reply.
            conn.disconnect()
            if channel._closing and isinstance(exc, self.connection_errors):
                # Else kombu would leave the channel half closed, and the worker would end of it.
                raise Empty from exc
            raise
        finally:
            channel._in_poll = None
            channel._flush_brpop_reauth()
        if found is None:
            raise Empty
        return self._deliver(*found)

    def _heard(self, conn: Any, due: Due | None) -> tuple[int, bytes] | None:
        """What a take has brought; reads as many replies as are due, whatever is in them."""
        if due is None:  # a push, or the end of the connection
            conn.read_response(push_request=True)
            self.armed = False
            return None
        if due is Due.LOOK:
            self.armed = not _raised(_reply(conn)) and not conn.can_read(0)
            return None
        prepared = [_reply(conn) for _ in range(self._preparing)]
        rung = _reply(conn) if due is Due.RING else None
        answer = _reply(conn)
        if prepared:
            _raised(prepared[0])
            self._ready_socket = conn._sock
            if len(prepared) > 1 and isinstance(prepared[1], ResponseError):
                self._bell, self._refused = False, True
                _tell_once(
                    "client tracking is refused, so an idle worker asks by BLMOVE, which costs more: "
                    + redact(one_line(prepared[1]))
                )
        if isinstance(answer, NoScriptError):
            self._ready_socket = None
            return None
        if isinstance(answer, ResponseError) and str(answer).startswith(_FOR_NOW):
            self._hold_until = monotonic() + REFUSED_WAIT
            _tell_once(f"Redis lets no message be taken for now: {redact(one_line(answer))}")
            return None
        found = _raised(answer)
        self._hungry = not found
        if found:
            return int(found[0]), found[1]
        if isinstance(rung, ResponseError):  # it did not wait, and must not be asked over and over
            self._hold_until = monotonic() + BLIND_WAIT
        # A push that the parser has already read would not wake the loop.
        self.armed = self._bell and not conn.can_read(0)
        return None

    def hear(self) -> None:
        """Read a push though there is no credit; kombu takes it for the end of the connection."""
        conn = self.client.connection
        self.armed = False
        try:
            conn.read_response(push_request=True)
        except self.connection_errors:
            conn.disconnect()

    def _deliver(self, place: int, item: bytes) -> bool:
        channel: Any = self
        tag = self._tag
        queue, key = self._places[place]
        channel._queue_cycle.rotate(queue)
        if channel._closing or queue not in self.connection._callbacks:
            # Cancelled meanwhile. kombu would have any channel of the connection hold it, under a second tag.
            self.restore(tag, key, item)
            raise Empty
        try:
            raw = json.loads(item.decode())
        except Exception as exc:  # whatever a foreign sender makes the decoder raise
            self._park(tag, key, item, "undecodable", exc)
            raise Empty from exc
        self._taken = Taken(raw, tag, key)
        try:
            self.connection._deliver(raw, queue)
        except Exception as exc:
            if self._taken is None:  # it is held, so what failed is its handling
                raise
            self._park(tag, key, item, "malformed", exc)
            raise Empty from exc
        finally:
            self._taken = None
        return True

    def _park(self, tag: str, key: str, item: bytes, reason: str, exc: Exception) -> None:
        """Put aside what can't become a message."""
        channel: Any = self
        detail = redact(one_line(f"{type(exc).__name__}: {exc}"))
        if HOOKS.park_raw is not None:
            try:
                HOOKS.park_raw(channel, tag, key, item, reason, detail)
                return
            except self.connection_errors:
                raise
            except Exception:
                logger.exception("what can't be read can't be parked as a dead letter")
        names = [channel.unacked_key, channel.unacked_index_key, keys.UNREADABLE]
        self.run(PUT_ASIDE, names, [tag, item, keys.UNREADABLE_KEPT])
        logger.error(
            "an item of %s is %s (%s): it was put into the list %s",
            key.split(channel.sep)[0],
            reason,
            detail,
            keys.UNREADABLE,
        )

    # --- the connection ---

    def _on_connection_disconnect(self, connection: Any) -> None:
        client = self.__dict__.get("client")
        if client is not None and client.connection is connection:
            self.armed = False
            self._due = None
            self._ready_socket = None
        super()._on_connection_disconnect(connection)  # type: ignore[misc]

    def _flush_brpop_reauth(self) -> None:
        client = self.__dict__.get("client")
        connection = getattr(client, "connection", None)
        channel: Any = self
        if self.armed and channel._pending_reauth_token(connection) is not None:
            self.armed = False  # the reply's reader passes over a push
        super()._flush_brpop_reauth()  # type: ignore[misc]


def _reply(conn: Any) -> Any:
    """The next reply; an error of Redis is one, too."""
    try:
        return conn.read_response()
    except ResponseError as exc:
        return exc


def _raised(answer: Any) -> Any:
    """The answer; an error is raised."""
    if isinstance(answer, Exception):
        raise answer
    return answer


def require_redis(hello: Any) -> None:
    """Refuse a Redis that is too old, by its reply to HELLO; without one (RESP2) it is not known.

    Raises:
        FleetError: naming its version and the remedy.
    """
    text = hello.get(b"version") or hello.get("version") or ""
    text = text.decode() if isinstance(text, bytes) else str(text)
    parts = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    if parts and parts < OLDEST_REDIS:
        wanted = ".".join(map(str, OLDEST_REDIS))
        raise FleetError(
            f"Redis {text} is too old for the atomic take: use {wanted} or later, or celery_worker_take: stock"
        )


class Channel(_Atomic, stock.Channel):  # type: ignore[misc]  # see stock
    """A channel of redis:// and rediss://."""


class SentinelChannel(_Atomic, stock.SentinelChannel):  # type: ignore[misc]  # see stock
    """A channel of sentinel://."""


class Poller(stock.MultiChannelPoller):  # type: ignore[misc]  # see stock
    """kombu's poller, which knows an armed channel."""

    def on_poll_start(self) -> None:
        """Before each wait."""
        if HOOKS.tick is not None:
            for channel in tuple(self._channels):
                HOOKS.tick(channel)
        super().on_poll_start()

    def on_readable(self, fileno: int) -> Any:
        """A socket has something to read."""
        found = self._fd_to_chan.get(fileno)
        channel: Any = found and found[0]
        if found and found[1] == "BRPOP" and channel.armed and not channel.qos.can_consume():
            return channel.hear()
        return super().on_readable(fileno)

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        """Wait for a message where there is no event loop; the net is to be cast all the same."""
        return super().get(callback, timeout=NET if timeout is None else min(timeout, NET))


class Transport(stock.Transport):  # type: ignore[misc]  # see stock
    """redis:// and rediss://."""

    Channel: Any = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle: Any = Poller()


class SentinelTransport(Transport):
    """sentinel://."""

    default_port: Any = stock.SentinelTransport.default_port
    Channel: Any = SentinelChannel


_CLASSES = {"redis": Transport, "rediss": Transport, "sentinel": SentinelTransport}


def install() -> None:
    """Have these transports stand behind the schemes of URLs, which stay as they are."""
    for alias, transport in _CLASSES.items():
        kombu.transport.TRANSPORT_ALIASES[alias] = f"{__name__}:{transport.__name__}"
        kombu.transport._transport_cache.pop(alias, None)
