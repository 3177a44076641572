"""Poll the lists of queues on a channel's own connection. This file uses redis-py and Redis, but not kombu.

A poller is in one of these states:

* A reply is *due*: to the fetch script, or to a check of all lists.
* It is *armed*: nothing was sent. Redis will push a message when one of the lists is written to.
* Neither: it sends a fetch as soon as the prefetch has room.

A list is a *candidate* for the next fetch until a script finds it empty and has Redis watch it, in one step. A push
that names the list makes it a candidate again. Redis writes to a connection in the order in which it ran the commands.
So a push that is read before a fetch's reply is older than that fetch, and one that is read after it is newer. A list
stops being a candidate when the reply is read, so no wake-up is lost. Redis does not push changes that this connection
makes itself (NOLOOP). So a list from which a message was fetched is no longer watched, and remains a candidate until it
is found empty.

A push that comes while a fetch is under way is handled after that fetch, so a message of lower priority may come first.
All lists are checked every :data:`NET` seconds, even without a push. This also shows that Redis answers.

Without client tracking in Redis and redis-py, a BLMOVE from the head of a list to the same head waits for a message. It
notices a message in the first list at once, and in the others within :data:`BLIND_WAIT`. Polling every 0.1 s instead
would need less code. But a task would wait 50 ms instead of 0.7 ms (median, one queue), and the event loop would need a
timer.
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
from celery_fleet.delivery.scripts import FETCH

logger = logging.getLogger("celery_fleet.delivery")

#: Seconds between two checks of an armed poller, and the longest time for which a fetch leaves out lists. The goal is
#: at most two commands a second from an idle worker; the rest of Celery and the lease send a little more than one.
NET = 1.25

#: Number of candidates that a fetch asks for as long as fetches find messages: usually one of the first lists has one.
#: With 24 queues (96 lists) a fetch costs the worker 35 µs instead of 98 µs, and Redis 21 µs instead of 30 µs.
FEW = 4

#: Longest time in seconds until a worker without client tracking sees a message in a list other than the first.
BLIND_WAIT = 0.1

#: Longest wait of such a worker for the first list, if there is no other.
BLIND_LONGEST = 1.0

#: Seconds until the next fetch after a temporary refusal of Redis.
REFUSED_WAIT = 1.0

#: The oldest Redis with BLMOVE, and with client tracking as it is used here.
OLDEST_REDIS = (6, 2)

#: Temporary errors: Redis is out of memory, can't save, has too few replicas, or runs another client's script.
#: Reconnecting would not help.
_FOR_NOW = re.compile(r"\b(OOM|MISCONF|NOREPLICAS|BUSY)\b")

_told: set[str] = set()


def tell_once(text: str) -> None:
    """Log a warning once per process, because each new connection creates new channels."""
    if text not in _told:
        _told.add(text)
        logger.warning("%s", text)


def require_redis(connection: Any) -> None:
    """Refuse a Redis that is too old, according to its reply to HELLO, which does not change the protocol.

    Args:
        connection: A connection of redis-py on which no reply is due.

    Raises:
        FleetError: Redis is too old; the message has its version and the remedy.
        redis.exceptions.RedisError, OSError: Redis does not answer.
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
            f"Redis {text} is too old for the atomic fetch: use {wanted} or later, or celery_worker_fetch: stock"
        )


class Due(Enum):
    """The replies that a poller waits for."""

    FETCH = "fetch"
    #: BLMOVE's reply, and then the reply to the fetch.
    BLMOVE = "blmove"
    LOOK = "look"


@dataclass(frozen=True)
class FetchRequest:
    """The arguments of a fetch.

    ``names`` are ``unacked`` and ``unacked_index``. ``lists`` has all queues with their first priority, then all with
    their second, and so on. ``queues`` are JSON strings.
    """

    tag: str
    names: tuple[str, str]
    lists: Sequence[str]
    queues: Sequence[str]


@dataclass(frozen=True)
class _Asked:
    """A fetch that was sent: its tag, and the lists that it asks for, in order."""

    tag: str
    lists: Sequence[str]


class QueuePoller:
    """Polls on one connection after another. The caller passes the current connection to each method."""

    def __init__(self) -> None:
        self.due: Due | None = None
        #: Whether pushes may come on the current socket.
        self.tracked = False
        #: When the last command was sent, by the clock ``monotonic``.
        self.asked_at = float("-inf")
        self._asked = _Asked("", ())
        self._preparing = 0
        #: Lists that may have a message; None for all lists.
        self._candidates: set[str] | None = None
        #: Whether the parser may hold a push, for which the loop would not wake.
        self._unread = False
        #: When all lists were last candidates, or were last checked.
        self._all_at = float("-inf")
        #: Whether the last fetch found a message and there may be more.
        self._may_have_more = False
        #: The socket on which the script was loaded and tracking was requested.
        self._known: Any = None
        #: Whether Redis refuses client tracking.
        self._untracked = False
        #: Whether the last fetch found no message.
        self._found_nothing = False
        self._hold_until = float("-inf")
        self._refusal: str | None = None

    # --- requests ---

    def lost(self) -> None:
        """Forget the due replies, because the connection is lost."""
        self.due = None
        self.tracked = self._found_nothing = False
        self._known = None
        self.forget()

    def forget(self) -> None:
        """Forget which lists are empty, for example because the queues have changed."""
        self._candidates = None

    @property
    def armed(self) -> bool:
        """Return whether no reply is due, and Redis watches all lists, which were empty and have not changed since."""
        is_watching = self._candidates is not None and not self._candidates
        return self.due is None and is_watching and not self._unread

    @property
    def idle(self) -> bool:
        """Return whether there is nothing to send now: all lists were checked recently, or Redis refused a fetch."""
        now = monotonic()
        return now < self._hold_until or (self.armed and now - self.asked_at < NET)

    @property
    def awaited(self) -> str | None:
        """Return the tag of the fetch for which a reply is due; None if there is none."""
        return self._asked.tag if self.due in (Due.FETCH, Due.BLMOVE) else None

    def ask(self, conn: Any, request: FetchRequest) -> bool:
        """Send a fetch, or a check of all lists if armed; return False if there is nothing to send after all.

        Raises:
            Exception: The connection is lost. The caller must disconnect.
        """
        commands: list[tuple[Any, ...]] = []
        if conn._sock is not self._known:  # noqa: SLF001  # each new socket is a new client to Redis
            commands = self._prepare(conn)
        elif self.tracked:
            self._read_pushes(conn)  # a message of higher priority may have arrived long ago
        if self.idle:
            return False
        if self.armed:
            self._all_at = monotonic()
            self._asked = _Asked("", request.lists)
            self._send(conn, Due.LOOK, [("EXISTS", *request.lists)])
            return True
        self._preparing = len(commands)
        due = Due.FETCH
        if self._found_nothing and not self.tracked:
            due = Due.BLMOVE
            first = request.lists[0]
            wait = BLIND_LONGEST if len(request.lists) == 1 else BLIND_WAIT
            commands.append(("BLMOVE", first, first, "RIGHT", "RIGHT", wait))
        lists, queues = self._chosen(request)
        arguments = (request.tag, *request.names, *queues)
        commands.append(("EVALSHA", FETCH.sha, len(lists), *lists, *arguments))
        self._asked = _Asked(request.tag, lists)
        self._send(conn, due, commands)
        return True

    def _prepare(self, conn: Any) -> list[tuple[Any, ...]]:
        """Return the commands that must come first on a new socket."""
        self._found_nothing = False
        self.forget()
        commands: list[tuple[Any, ...]] = [("SCRIPT", "LOAD", FETCH.text)]
        self.tracked = not self._untracked and str(conn.get_protocol()) == "3"
        if self.tracked:
            # The handler gets every push, even one that is read before another command's reply.
            conn._parser.set_invalidation_push_handler(self._invalidated)  # noqa: SLF001  # as redis-py's caches do
            commands.append(("CLIENT", "TRACKING", "ON", "NOLOOP"))
        elif not self._untracked:
            tell_once("no pushes without RESP3: an idle worker waits with BLMOVE, which costs more")
        return commands

    def _chosen(self, request: FetchRequest) -> tuple[Sequence[str], Sequence[str]]:
        """Return the lists to ask for now, and their queues, as arguments of the script."""
        lists, queues = request.lists, request.queues
        if not self.tracked:
            return lists, queues
        now = monotonic()
        # If a push names an unknown list, names can't be relied on, so ask for all lists.
        is_due = now - self._all_at >= NET
        if self._candidates is None or is_due or not self._candidates.issubset(lists):
            self._candidates, self._all_at = set(lists), now
        places = [place for place, name in enumerate(lists) if name in self._candidates]
        if self._may_have_more:
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
        # redis-py's own health check blocks, and may replace this socket with another one.
        conn.send_packed_command(conn.pack_commands(commands), check_health=False)

    # --- replies ---

    def hear(self, conn: Any) -> FetchedMessage | None:
        """Read all replies that are due, or else a push; return the message that a fetch found, or None.

        Raises:
            Exception: An error of Redis or the connection that is not the reply to a fetch. The caller must
                disconnect, because later replies would be mistaken for those of other commands.
        """
        due, self.due = self.due, None
        if due is None:  # a push, or the end of the connection
            conn.read_response(push_request=True)
            self._unread = True  # there may be more
            return None
        if due is Due.LOOK:
            answer = _reply(conn)
            if isinstance(answer, ResponseError) and self._is_for_now(answer):
                return None
            if _raised(answer):
                self.forget()
            else:
                self._note_empty(conn, self._asked.lists)
            self._answered()
            return None
        prepared = [_reply(conn) for _ in range(self._preparing)]
        moved = _reply(conn) if due is Due.BLMOVE else None
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
        self._may_have_more = bool(found) and len(found) < 3  # see FETCH
        self._found_nothing = not found
        lists = self._asked.lists
        if found:
            place, item = int(found[0]), found[1]
            self._note_empty(conn, lists[:place] if self._may_have_more else lists)
            return FetchedMessage(item, self._asked.tag, lists[place])
        if isinstance(moved, ResponseError):  # Redis did not wait, for example at its memory limit
            self._hold_until = monotonic() + BLIND_WAIT
        self._note_empty(conn, lists)
        return None

    def _invalidated(self, push: Sequence[Any]) -> None:
        """Note which lists were written to: ``[b"invalidate", their names]``, without names after FLUSHALL."""
        names = push[1]
        if names is None:
            self.forget()
        elif self._candidates is not None:
            self._candidates.update(
                name.decode(errors="replace") if isinstance(name, bytes) else name for name in names
            )

    def _note_empty(self, conn: Any, lists: Sequence[str]) -> None:
        """Note that lists are empty and watched, according to a reply that was just read."""
        # Ignore the reply if nothing is watched, or if the queues have changed since the request.
        if self.tracked and self._candidates is not None:
            self._candidates.difference_update(lists)
            self._unread = not self._candidates and _may_hold(conn)

    def _read_pushes(self, conn: Any) -> None:
        """Read all pushes that have arrived."""
        while conn.can_read(0):
            conn.read_response(push_request=True)
        self._unread = False

    def _prepared(self, conn: Any, script: Any, tracking: Any = None) -> None:
        for answer in (script, tracking):
            if isinstance(answer, ResponseError) and self._is_for_now(answer):
                self.tracked = False  # the next request prepares the socket again
                return
        _raised(script)
        self._known = conn._sock  # noqa: SLF001  # see ask
        if isinstance(tracking, ResponseError):
            self.tracked, self._untracked = False, True
            why = redact(one_line(tracking))
            tell_once(
                f"Redis refuses client tracking ({why}): an idle worker waits with BLMOVE, which costs more"
            )

    def _is_for_now(self, answer: ResponseError) -> bool:
        if not isinstance(answer, OutOfMemoryError) and not _FOR_NOW.search(str(answer)):
            return False
        self._hold_until = monotonic() + REFUSED_WAIT
        if self._refusal is None:
            self._refusal = redact(one_line(answer))
            logger.warning("Redis refuses to hand out messages for now: %s", self._refusal)
        return True

    def _answered(self) -> None:
        if self._refusal is not None:
            self._refusal = None
            logger.warning("Redis hands out messages again")


def _reply(conn: Any) -> Any:
    """Return the next reply, which may be an error of Redis."""
    try:
        return conn.read_response()
    except ResponseError as exc:
        return exc


def _may_hold(conn: Any) -> bool:
    """Return whether the parser or TLS has buffered input, for which the loop would not wake."""
    try:
        return bool(conn.can_read(0))
    except Exception:  # noqa: BLE001  # the connection has ended; the next read raises the error
        return True


def _raised(answer: Any) -> Any:
    """Return an answer, or raise it if it is an error."""
    if isinstance(answer, Exception):
        raise answer
    return answer
