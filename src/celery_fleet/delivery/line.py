"""How a channel asks for messages on its own connection: a protocol of redis-py and Redis, nothing of kombu.

A line is in one of these states:

* a reply is *due*: of the take script, of the net's question, or (elsewhere) of kombu's own BRPOP;
* *armed*: nothing was sent and nothing will come but a push, once any of the lists was written to;
* neither: a take is to be sent, as soon as there is credit.

The take has its lists watched in the same step in which it finds them empty, so no wake-up can be lost
between the two. The net asks all the same, once in :data:`NET` seconds, and so shows that Redis answers.
Where Redis refuses client tracking, a BLMOVE within one list, from its head to its head, is the bell: of
the first list at once, of the others within :data:`BLIND_WAIT`.
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

from celery_fleet.delivery.scripts import TAKE
from celery_fleet.errors import FleetError, one_line
from celery_fleet.redact import redact

logger = logging.getLogger("celery_fleet.delivery")

#: Seconds between two questions of an armed line.
NET = 1.0

#: Seconds that a worker without client tracking may take to see a message in other lists than the first.
BLIND_WAIT = 0.1

#: Longest wait of such a worker for the first list, if there is no other.
BLIND_LONGEST = 1.0

#: Seconds until the next take where Redis lets nothing be taken for now.
REFUSED_WAIT = 1.0

#: The oldest Redis with BLMOVE, and with client tracking as it is used here.
OLDEST_REDIS = (6, 2)

#: What Redis answers for reasons that may pass by themselves: it can't save, has too few replicas, or works
#: at another's script. Connecting anew would not help.
_FOR_NOW = re.compile(r"\b(OOM|MISCONF|NOREPLICAS|BUSY)\b")

_told: set[str] = set()


def tell_once(text: str) -> None:
    """Warn once in the process's life: channels come and go with their connections."""
    if text not in _told:
        _told.add(text)
        logger.warning("%s", text)


def require_redis(hello: Any) -> None:
    """Refuse a Redis that is too old, by its reply to HELLO; with RESP2 there is none, and it is not known.

    Raises:
        FleetError: naming its version and the remedy.
    """
    said = (hello or {}).get(b"version") or (hello or {}).get("version") or ""
    text = said.decode() if isinstance(said, bytes) else str(said)
    parts = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    if parts and parts < OLDEST_REDIS:
        wanted = ".".join(map(str, OLDEST_REDIS))
        raise FleetError(
            f"Redis {text} is too old for the atomic take: use {wanted} or later, or celery_worker_take: stock"
        )


class Due(Enum):
    """The replies that a line waits for."""

    TAKE = "take"
    #: BLMOVE's, then the take's.
    RING = "ring"
    LOOK = "look"


@dataclass(frozen=True)
class Question:
    """What a take asks for.

    ``names`` are ``unacked`` and ``unacked_index``; ``lists`` all queues with their first priority, then all
    with their second, and so on; ``queues`` are JSON strings.
    """

    tag: str
    names: tuple[str, str]
    lists: Sequence[str]
    queues: Sequence[str]


@dataclass(frozen=True)
class Found:
    """What a take has brought: an item, the tag under which it is held, and the list it came from."""

    item: bytes
    tag: str
    key: str


class Line:
    """The asking on one connection after the other; each call gets the connection of the moment."""

    def __init__(self) -> None:
        self.due: Due | None = None
        self.armed = False
        #: Pushes may come on the present socket.
        self.bell = False
        #: Unix-like time of the clock ``monotonic`` at which something was sent last.
        self.asked_at = float("-inf")
        self._asked: Question | None = None
        self._preparing = 0
        #: The socket that knows the script, and where tracking was asked for.
        self._known: Any = None
        self._deaf = False
        self._hungry = False
        self._hold_until = float("-inf")
        self._refusal: str | None = None

    # --- asking ---

    def lost(self) -> None:
        """The connection is gone, and what was due with it."""
        self.due = None
        self.armed = self.bell = self._hungry = False
        self._known = None

    @property
    def idle(self) -> bool:
        """Whether there is nothing to send now: armed with the net just cast, or told to wait."""
        now = monotonic()
        return now < self._hold_until or (self.armed and now - self.asked_at < NET)

    @property
    def awaited(self) -> str | None:
        """The tag of a take whose answer is still to come."""
        takes = self.due in (Due.TAKE, Due.RING)
        return self._asked.tag if takes and self._asked is not None else None

    def ask(self, conn: Any, question: Question) -> None:
        """Send a take, or cast the net if it is armed."""
        if self.armed:
            self._send(conn, Due.LOOK, [("EXISTS", *question.lists)])
            return
        commands: list[tuple[Any, ...]] = []
        if conn._sock is not self._known:  # noqa: SLF001  # each new socket is a new client to Redis
            self._hungry = False
            commands.append(("SCRIPT", "LOAD", TAKE.text))
            self.bell = not self._deaf and str(conn.get_protocol()) == "3"
            if self.bell:
                commands.append(("CLIENT", "TRACKING", "ON", "NOLOOP"))
            elif not self._deaf:
                tell_once(
                    "no pushes without RESP3: an idle worker waits by BLMOVE, which costs more"
                )
        self._preparing = len(commands)
        due = Due.TAKE
        if self._hungry and not self.bell:
            due = Due.RING
            first = question.lists[0]
            wait = BLIND_LONGEST if len(question.lists) == 1 else BLIND_WAIT
            commands.append(("BLMOVE", first, first, "RIGHT", "RIGHT", wait))
        watch = "1" if self.bell else "0"
        keys = (*question.names, *question.lists)
        commands.append(
            ("EVALSHA", TAKE.sha, len(keys), *keys, question.tag, watch, *question.queues)
        )
        self._asked = question
        self._send(conn, due, commands)

    def _send(self, conn: Any, due: Due, commands: list[tuple[Any, ...]]) -> None:
        self.due, self.armed = due, False
        self.asked_at = monotonic()
        # Without redis-py's own check, which blocks and may put another socket in this one's place.
        conn.send_packed_command(conn.pack_commands(commands), check_health=False)

    # --- hearing ---

    def hear(self, conn: Any) -> Found | None:
        """Read what is there: all replies that are due, whatever is in them, else a push.

        Raises:
            Exception: an error of Redis or of the connection that is no answer to a take. The caller must
                disconnect, as what is still to come would be taken for another's reply.
        """
        due, self.due = self.due, None
        if due is None:  # a push, or the connection's end
            self.armed = False
            conn.read_response(push_request=True)
            return None
        if due is Due.LOOK:
            self._arm(conn, not _raised(_reply(conn)))
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
        self._hungry = not found
        if found and self._asked is not None:
            return Found(found[1], self._asked.tag, self._asked.lists[int(found[0])])
        if isinstance(rung, ResponseError):  # it did not wait, as at the memory limit
            self._hold_until = monotonic() + BLIND_WAIT
        self._arm(conn, self.bell)
        return None

    def _arm(self, conn: Any, nothing: bool) -> None:
        # What the parser, or TLS, has already read would not wake the loop.
        self.armed = nothing and not conn.can_read(0)

    def _prepared(self, conn: Any, script: Any, tracking: Any = None) -> None:
        _raised(script)
        self._known = conn._sock  # noqa: SLF001  # see ask
        if isinstance(tracking, ResponseError):
            self.bell, self._deaf = False, True
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
