"""Poll the lists of queues on a channel's own connection. This file knows redis-py and Redis, but not kombu.

A poller is in one of these states:

* a reply is *due*: to the take script, or to a look at all lists;
* *armed*: nothing was sent, and only a push will come, when one of the lists is written to;
* neither: it sends a take as soon as the prefetch has room.

A list is *cold* if a script found it empty and had Redis watch it, in one step, and no push has named it since.
Otherwise it is *hot*, and takes ask for it. Redis writes to a connection in the order in which it did things. So a
push that is read before a take's answer is older than that take, and one that is read after it is news. Lists become
cold at the moment when an answer is read, so no wake-up is lost. Redis does not push what this connection itself has
written (NOLOOP): a list that a message was taken from is no longer watched, and stays hot until it is found empty.

A push that comes while a take is on its way is heard after that take, so a message of lower priority may come first.
Once in :data:`NET` seconds all lists are looked at, whatever was pushed, which also shows that Redis answers.

If Redis or redis-py knows no client tracking, a BLMOVE from the head of a list to the same head waits for a message:
in the first list at once, in the others within :data:`BLIND_WAIT`. Asking every 0.1 s instead would be less code, but
a task would wait 50 ms instead of 0.7 ms (median, one queue), and the event loop would need a timer.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from time import monotonic
from typing import Any

from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError

from celery_fleet.common.errors import FleetError, one_line
from celery_fleet.common.redact import redact
from celery_fleet.delivery.messages import FetchedMessage
from celery_fleet.delivery.scripts import TAKE

logger = logging.getLogger("celery_fleet.delivery")

#: Seconds between two looks of an armed poller, and the longest time for which a take leaves out lists. An idle
#: worker may send two commands a second; the rest of Celery and the lease send one and a bit.
NET = 1.25

#: Hot lists that a take asks for while takes find messages: usually one of the first has one. With 24 queues, so 96
#: lists, a take costs the worker 35 µs instead of 98 µs, and Redis 21 µs instead of 30 µs.
FEW = 4

#: Longest time in seconds until a worker without client tracking sees a message in a list other than the first.
BLIND_WAIT = 0.1

#: Longest wait of such a worker for the first list, if there is no other.
BLIND_LONGEST = 1.0

#: Seconds until the next take if Redis refuses takes for now.
REFUSED_WAIT = 1.0

#: The oldest Redis with BLMOVE, and with client tracking as it is used here.
OLDEST_REDIS = (6, 2)

#: Errors that may pass: Redis can't save, has too few replicas, or is busy with another's script. Reconnecting would
#: not help.
_FOR_NOW = re.compile(r"\b(OOM|MISCONF|NOREPLICAS|BUSY)\b")

_told: set[str] = set()


def tell_once(text: str) -> None:
    """Warn once in the life of the process: channels come and go with their connections."""
    if text not in _told:
        _told.add(text)
        logger.warning("%s", text)


def require_redis(connection: Any) -> None:
    """Refuse a Redis that is too old, by its reply to HELLO, which keeps the connection's protocol.

    Args:
        connection: redis-py's, on which no answer is due.

    Raises:
        FleetError: It is too old; the text has its version and the remedy.
        redis.exceptions.RedisError, OSError: It does not answer.
    """
    connection.send_command("HELLO")
    try:
        hello = connection.read_response()
    except ResponseError as exc:
        if "unknown command" not in str(exc).lower():
            raise
        text = "older than 6.0"
        parts: tuple[int, ...] = (5,)
    else:
        # With RESP2 it is a list: name, value, name, value.
        said = hello if isinstance(hello, dict) else dict(zip(hello[::2], hello[1::2], strict=True))
        version = said.get(b"version") or said.get("version") or ""
        text = version.decode() if isinstance(version, bytes) else str(version)
        parts = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    if parts and parts < OLDEST_REDIS:
        wanted = ".".join(map(str, OLDEST_REDIS))
        raise FleetError(
            f"Redis {text} is too old for the atomic take: use {wanted} or later, or celery_worker_fetch: stock"
        )


class Due(Enum):
    """The replies that a poller waits for."""

    TAKE = "take"
    #: BLMOVE's reply, then the take's.
    RING = "ring"
    LOOK = "look"


@dataclass(frozen=True)
class TakeRequest:
    """What a take asks for.

    ``names`` are ``unacked`` and ``unacked_index``. ``lists`` has all queues with their first priority, then all with
    their second, and so on. ``queues`` are JSON strings.
    """

    tag: str
    names: tuple[str, str]
    lists: Sequence[str]
    queues: Sequence[str]


@dataclass(frozen=True)
class _Asked:
    """A take on its way: its tag, and the lists that it asks for, in order."""

    tag: str
    lists: Sequence[str]


class QueuePoller:
    """Polls on one connection after the other; each call gets the current connection."""

    def __init__(self) -> None:
        self.due: Due | None = None
        #: Whether pushes may come on the current socket.
        self.tracked = False
        #: When something was last sent, by the clock ``monotonic``.
        self.asked_at = float("-inf")
        self._asked = _Asked("", ())
        self._preparing = 0
        #: Lists that may have a message; None: any list.
        self._hot: set[str] | None = None
        #: Whether the parser may hold a push, for which the loop would not wake.
        self._unread = False
        #: When all lists were last hot or looked at.
        self._all_at = float("-inf")
        #: Whether the last take found a message and there may be more.
        self._flows = False
        #: The socket that knows the script, and on which tracking was asked for.
        self._known: Any = None
        self._deaf = False
        self._hungry = False
        self._hold_until = float("-inf")
        self._refusal: str | None = None

    # --- asking ---

    def lost(self) -> None:
        """Forget what was due: the connection is gone."""
        self.due = None
        self.tracked = self._hungry = False
        self._known = None
        self.forget()

    def forget(self) -> None:
        """Forget what is known of the lists, for example because they have changed."""
        self._hot = None

    @property
    def armed(self) -> bool:
        """Return whether nothing is due, and all lists were empty, are watched, and have not been pushed."""
        return self.due is None and self._hot is not None and not self._hot and not self._unread

    @property
    def idle(self) -> bool:
        """Return whether there is nothing to send now: armed and the last look is recent, or told to wait."""
        now = monotonic()
        return now < self._hold_until or (self.armed and now - self.asked_at < NET)

    @property
    def awaited(self) -> str | None:
        """Return the tag of a take whose answer is still to come; None if none is."""
        return self._asked.tag if self.due in (Due.TAKE, Due.RING) else None

    def ask(self, conn: Any, request: TakeRequest) -> bool:
        """Send a take, or a look at all lists if armed; return False if there is nothing to send after all.

        Raises:
            Exception: The connection has ended. The caller must disconnect.
        """
        commands: list[tuple[Any, ...]] = []
        if conn._sock is not self._known:  # noqa: SLF001  # each new socket is a new client to Redis
            commands = self._prepare(conn)
        elif self.tracked:
            self._listen(conn)  # a message of higher priority may have come long ago
        if self.idle:
            return False
        if self.armed:
            self._all_at = monotonic()
            self._asked = _Asked("", request.lists)
            self._send(conn, Due.LOOK, [("EXISTS", *request.lists)])
            return True
        self._preparing = len(commands)
        due = Due.TAKE
        if self._hungry and not self.tracked:
            due = Due.RING
            first = request.lists[0]
            wait = BLIND_LONGEST if len(request.lists) == 1 else BLIND_WAIT
            commands.append(("BLMOVE", first, first, "RIGHT", "RIGHT", wait))
        lists, queues = self._chosen(request)
        arguments = (request.tag, *request.names, *queues)
        commands.append(("EVALSHA", TAKE.sha, len(lists), *lists, *arguments))
        self._asked = _Asked(request.tag, lists)
        self._send(conn, due, commands)
        return True

    def _prepare(self, conn: Any) -> list[tuple[Any, ...]]:
        """Return the commands that must come first on a new socket."""
        self._hungry = False
        self.forget()
        commands: list[tuple[Any, ...]] = [("SCRIPT", "LOAD", TAKE.text)]
        self.tracked = not self._deaf and str(conn.get_protocol()) == "3"
        if self.tracked:
            # Only so is a push heard wherever it is read, such as before another command's reply.
            conn._parser.set_invalidation_push_handler(self._told_of)  # noqa: SLF001  # redis-py's own caches set it so
            commands.append(("CLIENT", "TRACKING", "ON", "NOLOOP"))
        elif not self._deaf:
            tell_once("no pushes without RESP3: an idle worker waits by BLMOVE, which costs more")
        return commands

    def _chosen(self, request: TakeRequest) -> tuple[Sequence[str], Sequence[str]]:
        """Return the lists to ask for now, and their queues, as the take wants them."""
        lists, queues = request.lists, request.queues
        if not self.tracked:
            return lists, queues
        now = monotonic()
        # A push with a name that is not ours shows that names can't be relied on.
        if self._hot is None or now - self._all_at >= NET or not self._hot.issubset(lists):
            self._hot, self._all_at = set(lists), now
        places = [place for place, name in enumerate(lists) if name in self._hot]
        if self._flows:
            places = places[:FEW]
        if len(places) == len(lists):
            return lists, queues
        return (
            [lists[place] for place in places],
            [queues[place % len(queues)] for place in places],
        )

    def _send(self, conn: Any, due: Due, commands: list[tuple[Any, ...]]) -> None:
        self.due = due
        self.asked_at = monotonic()
        # redis-py's own check blocks, and may replace this socket by another one.
        conn.send_packed_command(conn.pack_commands(commands), check_health=False)

    # --- hearing ---

    def hear(self, conn: Any) -> FetchedMessage | None:
        """Read what has come: all replies that are due, else a push. Return what a take found, or None.

        Raises:
            Exception: An error of Redis or the connection that is not an answer to a take. The caller must
                disconnect, since a reply that is still to come would be taken for another command's.
        """
        due, self.due = self.due, None
        if due is None:  # a push, or the end of the connection
            conn.read_response(push_request=True)
            self._unread = True  # there may be more
            return None
        if due is Due.LOOK:
            if _raised(_reply(conn)):
                self.forget()
            else:
                self._cool(conn, self._asked.lists)
            return None
        prepared = [_reply(conn) for _ in range(self._preparing)]
        rung = _reply(conn) if due is Due.RING else None
        answer = _reply(conn)
        if prepared:
            self._prepared(conn, *prepared)
        if isinstance(answer, NoScriptError):  # SCRIPT FLUSH; a restart ends the connection as well
            self._known = None
            return None
        if isinstance(answer, ResponseError) and self._is_for_now(answer):
            return None
        found = _raised(answer)
        self._answered()
        self._flows = bool(found) and len(found) < 3  # see TAKE
        self._hungry = not found
        lists = self._asked.lists
        if found:
            place, item = int(found[0]), found[1]
            self._cool(conn, lists[:place] if self._flows else lists)
            return FetchedMessage(item, self._asked.tag, lists[place])
        if isinstance(rung, ResponseError):  # it did not wait, for example at the memory limit
            self._hold_until = monotonic() + BLIND_WAIT
        self._cool(conn, lists)
        return None

    def _told_of(self, push: Sequence[Any]) -> None:
        """Note which lists were written to: ``[b"invalidate", their names]``, without names after FLUSHALL."""
        names = push[1]
        if names is None:
            self.forget()
        elif self._hot is not None:
            self._hot.update(
                name.decode(errors="replace") if isinstance(name, bytes) else name for name in names
            )

    def _cool(self, conn: Any, lists: Sequence[str]) -> None:
        """Note that lists were empty and are watched, by an answer that was just read."""
        # If not, the queues have changed since they were asked for, or nothing is watched.
        if self.tracked and self._hot is not None:
            self._hot.difference_update(lists)
            self._unread = not self._hot and _may_hold(conn)

    def _listen(self, conn: Any) -> None:
        """Read all pushes that have come."""
        while conn.can_read(0):
            conn.read_response(push_request=True)
        self._unread = False

    def _prepared(self, conn: Any, script: Any, tracking: Any = None) -> None:
        _raised(script)
        self._known = conn._sock  # noqa: SLF001  # see ask
        if isinstance(tracking, ResponseError):
            self.tracked, self._deaf = False, True
            why = redact(one_line(tracking))
            tell_once(
                f"Redis refuses client tracking ({why}): an idle worker waits by BLMOVE, which costs more"
            )

    def _is_for_now(self, answer: ResponseError) -> bool:
        if not isinstance(answer, OutOfMemoryError) and not _FOR_NOW.search(str(answer)):
            return False
        self._hold_until = monotonic() + REFUSED_WAIT
        if self._refusal is None:
            self._refusal = redact(one_line(answer))
            logger.warning("Redis lets no message be taken for now: %s", self._refusal)
        return True

    def _answered(self) -> None:
        if self._refusal is not None:
            self._refusal = None
            logger.warning("Redis lets messages be taken again")


def _reply(conn: Any) -> Any:
    """Return the next reply; an error of Redis is one, too."""
    try:
        return conn.read_response()
    except ResponseError as exc:
        return exc


def _may_hold(conn: Any) -> bool:
    """Return whether the parser, or TLS, has already read something, which would not wake the loop."""
    try:
        return bool(conn.can_read(0))
    except Exception:  # noqa: BLE001  # the end of the connection: the next read meets it, and loses no answer
        return True


def _raised(answer: Any) -> Any:
    """Return an answer, or raise it if it is an error."""
    if isinstance(answer, Exception):
        raise answer
    return answer
