"""The sweep: any worker puts back messages whose lease has run out.

It replaces kombu's ``restore_visible``, which reads the client's clock, locks a mutex that a dying worker leaves
locked, and watches all of ``unacked``, so that it starts over again and again under load. Here one script finds what
has expired, by Redis's own clock. Another one puts each message back if its place has not been renewed since, so only
one of several workers succeeds.

The sweep puts back

* what an atomic worker held, once its lease has run out;
* what a stock worker held, once *its* visibility timeout has run out: it renews nothing, so its running tasks look
  abandoned from then on;
* messages under this process's own name that it does not know: a hanging Redis or a slow network ran the script after
  its caller had given up.

It also repairs a message without a place, and a place without a message.
"""

from __future__ import annotations

import heapq
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

from celery_fleet.delivery.lease.renewal import LONGEST_ROUND, RENEW, RETRY, ROUNDS, Run
from celery_fleet.delivery.lease.sweep_scripts import LOOK, MEND, READ
from celery_fleet.delivery.messages import Owner, number_of, owner_of, redelivered
from celery_fleet.delivery.scripts import HEAD, PUT_BACK, Script

logger = logging.getLogger("celery_fleet.delivery.sweep")


Answer = TypeVar("Answer")

#: Messages, and bytes of them, in one answer; a single larger message comes by itself.
BATCH = 100

BATCH_BYTES = 2_000_000

#: Answers handled in one round; the rest waits for the next round, so that a renewal is not kept waiting.
BATCHES = 20

#: Places that one call looks at if it has to tell whose they are: some 3 ms of Redis's time.
LOOKS = 10_000

#: The same for places that were not renewed lately, of which few are ours; each round looks at them.
ROUTINE_LOOKS = 1000

#: Seconds for which a take's answer may be on its way, before an unknown message of ours counts as forgotten.
UNKNOWN_AGE = 10.0

#: Seconds in which every living worker has renewed what it holds, even at the second attempt.
RENEWED = LONGEST_ROUND + 2 * RETRY

#: Seconds by which Redis's clock may get ahead of ours between two looks without counting as set.
CLOCK_SLACK = 2.0

#: Fields of ``unacked`` that one call looks at when repairing it.
MEND_COUNT = 200

#: The entry that the take's script makes of an item that is not JSON: it joins texts.
_UNREADABLE = re.compile(r'\[(?P<item>.*),\s*"",\s*(?P<queue>"(?:[^"\\]|\\.)*")\]\s*\Z', re.DOTALL)


@dataclass(frozen=True)
class UnackedEntry:
    """A message's place in ``unacked_index`` and its entry in ``unacked``, as Redis has them."""

    tag: str
    #: The score as Redis spells it.
    score: bytes
    value: str = ""

    @property
    def time(self) -> float:
        """Return the score as seconds since 1970."""
        return float(self.score)


@dataclass(frozen=True)
class Broker:
    """The Redis that this process takes from, and where kombu's records and lists are in it."""

    run: Run
    #: Runs a script once for each of some calls (`celery_fleet.delivery.scripts.run_each`).
    run_each: Callable[[Script, Iterable[tuple[Sequence[str], Sequence[Any]]]], list[Any]]
    index: str
    unacked: str
    #: Returns the lists of a message with this exchange and routing key. It raises an exception if they can't be
    #: found out now.
    lists: Callable[[dict[str, Any], str, str], Sequence[str]]

    def ask(self, script: Script, args: Sequence[Any]) -> Any:
        """Run a script over the records."""
        return self.run(script, [self.index, self.unacked], args)


class RedisClock:
    """Notices when Redis's clock is set forward: then every place looks older than it is.

    Args:
        memory: Seconds for which a step is remembered.
        clock: Our own clock, which is never set.
    """

    def __init__(self, memory: float, clock: Callable[[], float] = time.monotonic) -> None:
        #: When the clock was last set, by our own clock. It may have been set just before we began.
        self.set_at = clock()
        self._memory = memory
        self._clock = clock
        self._step = 0.0
        self._before: tuple[float, float] | None = None

    @property
    def step(self) -> float:
        """Return by how many seconds places from before the step look too old; 0 once there can be none of them."""
        return self._step if self._clock() - self.set_at < self._memory else 0.0

    def ask(self, look: Callable[[], tuple[Answer, float]]) -> Answer:
        """Return the answer of a look, and compare the Redis time in it with that of the look before."""
        began = self._clock()
        answer, now = look()
        if self._before is not None:
            asked, then = self._before
            ahead = (now - then) - (self._clock() - asked)
            if ahead > CLOCK_SLACK:
                logger.warning("Redis' clock was set forward by %.0f s", ahead)
                self._step = self.step + ahead
                self.set_at = self._clock()
        self._before = (began, now)
        return answer


class Sweep:
    """A worker's rounds of sweeping.

    Args:
        owner: This process.
        known: Returns the tags of all that this process has, awaits, or still has to acknowledge.
        seconds: The lease.
        stock_seconds: The visibility timeout of workers with the stock take.
        clock: Our own clock, in seconds.
    """

    def __init__(
        self,
        owner: Owner,
        known: Callable[[], Iterable[str]],
        seconds: float,
        stock_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        #: Messages put back since the process began.
        self.swept = 0
        self._owner = owner
        self._known = known
        self._seconds = seconds
        self._stock_seconds = max(seconds, stock_seconds)
        self._clock = clock
        self.redis_clock = RedisClock(self._stock_seconds, clock)
        self._unknown: dict[str, bytes] = {}
        self._uneven = False
        self._kept: set[str] = set()

    def round(self, broker: Broker, suspicious: bool = False) -> bool:
        """Put back what has expired; return True if there is more than one round puts back.

        Args:
            broker: The Redis that this process takes from.
            suspicious: A connection was lost lately, so there may be messages under this process's name that it does
                not know. Then places are looked at even if they were renewed lately; else an unknown message only
                shows once it was not renewed with the others.

        Raises:
            redis.exceptions.RedisError, OSError: Redis did not do it, or not all of it.
        """
        more = True
        batches = 0
        while more and batches < BATCHES:
            batches += 1
            counts, expired, owned = self.redis_clock.ask(lambda: self._look(broker, suspicious))
            if self._clock() - self.redis_clock.set_at < RENEWED:
                # What others hold looks expired until they have renewed it.
                return False
            known = set(self._known())
            if batches == 1:
                self._put_back_unknown(broker, owned, known)
                self._mend_if_uneven(broker, *counts)
            wanted = [entry for entry in expired if entry.tag not in known]
            more = bool(self._put_back(broker, wanted, "no lease covers them any more"))
        return more

    def _look(
        self, broker: Broker, suspicious: bool
    ) -> tuple[tuple[tuple[int, int], list[UnackedEntry], list[UnackedEntry]], float]:
        # A stock worker renews nothing: what it took before the clock was set is younger than it looks.
        stock_seconds = self._stock_seconds + self.redis_clock.step
        unacked, index, expired, owned, now = broker.ask(
            LOOK,
            [
                *(self._seconds, stock_seconds, BATCH, BATCH_BYTES, LOOKS),
                self._owner.prefix,
                UNKNOWN_AGE + (0 if suspicious else self._seconds / ROUNDS),
                LOOKS if suspicious else ROUTINE_LOOKS,
            ],
        )
        found = (
            (int(unacked), int(index)),
            [
                UnackedEntry(_text(tag), score, _text(entry))
                for tag, score, entry in zip(*[iter(expired)] * 3, strict=True)
            ],
            [
                UnackedEntry(_text(tag), score)
                for tag, score in zip(*[iter(owned)] * 2, strict=True)
            ],
        )
        return found, float(now)

    def _put_back_unknown(
        self, broker: Broker, owned: Sequence[UnackedEntry], known: set[str]
    ) -> None:
        # Two looks are needed: the answer of a take may have been read a moment ago and not be noted as held yet.
        unknown = {entry.tag: entry.score for entry in owned if entry.tag not in known}
        before, self._unknown = self._unknown, unknown
        tags = [tag for tag, score in unknown.items() if before.get(tag) == score]
        if not tags:
            return
        entries = broker.ask(READ, tags)
        found = [
            UnackedEntry(tag, unknown[tag], _text(entry))
            for tag, entry in zip(tags, entries, strict=True)
            if entry is not None
        ]
        self._put_back(broker, found, "their answers had come too late")

    def _put_back(self, broker: Broker, entries: Sequence[UnackedEntry], why: str) -> int:
        calls = []
        # The newest first: the last one put at a head is the first to be taken.
        sent = list(reversed(in_order(entries)))
        for entry in sent:
            try:
                payload, lists = self._destination(entry, broker)
            except Exception as exc:  # noqa: BLE001  # one strange message must not keep the others
                self._keep(entry, exc)
                payload, lists = b"", ()
            arguments = [_bytes(entry.tag), payload, HEAD, entry.score]
            calls.append(([broker.unacked, broker.index, *lists], arguments))
        if not sent:
            return 0
        done, refused = [], []
        for entry, answer in zip(sent, broker.run_each(PUT_BACK, calls), strict=True):
            if isinstance(answer, Exception):
                self._keep(entry, answer)
                refused.append(_bytes(entry.tag))
            else:
                done += [entry] * answer
        if refused:
            # They are tried again after a timeout, not in each round.
            broker.run(RENEW, [broker.index], refused)
        if done:
            self.swept += len(done)
            logger.warning("put back %d messages, since %s: %s", len(done), why, holders(done))
        return len(done)

    def _destination(self, entry: UnackedEntry, broker: Broker) -> tuple[bytes, Sequence[str]]:
        try:
            raw, exchange, routing_key = json.loads(entry.value)
        except ValueError:
            # It goes back as it is, and the next worker that takes it parks it.
            unreadable = _UNREADABLE.match(entry.value)
            if unreadable is None:
                raise
            queue = json.loads(unreadable["queue"])
            return _bytes(unreadable["item"]), [queue]
        if not isinstance(raw, dict):
            return json.dumps(raw).encode(), [routing_key]
        lists = broker.lists(raw, exchange, routing_key)
        if not lists:
            raise LookupError(f"no queue for exchange {exchange!r}, routing key {routing_key!r}")
        return json.dumps(redelivered(raw)).encode(), lists

    def _keep(self, entry: UnackedEntry, why: object) -> None:
        if entry.tag not in self._kept:
            self._kept.add(entry.tag)
            logger.error(
                "message %s stays in kombu's unacked, since it can't be put back (%s); is its queue one of the"
                " application's?",
                entry.tag,
                why,
            )

    def _mend_if_uneven(self, broker: Broker, unacked: int, index: int) -> None:
        uneven = unacked > index
        again, self._uneven = uneven and self._uneven, uneven
        if not again:
            return
        cursor, mended = "0", 0
        while True:
            answer, number = broker.ask(MEND, [cursor, MEND_COUNT])
            cursor, mended = _text(answer), mended + int(number)
            if cursor == "0":
                break
        self._uneven = False
        if mended:
            logger.warning(
                "%d messages in kombu's unacked had no place in unacked_index, so that nothing would ever have put them"
                " back; they have one now",
                mended,
            )


def in_order(entries: Iterable[UnackedEntry]) -> list[UnackedEntry]:
    """Sort messages by the order in which they were taken.

    Within an owner the numbers tell the order, since a renewal makes the scores alike; between owners the scores do.
    """

    def owner(entry: UnackedEntry) -> str:
        found = owner_of(entry.tag)
        return "" if found is None else found.prefix

    groups = groupby(
        sorted(entries, key=lambda entry: (owner(entry), number_of(entry.tag), entry.time)), owner
    )
    return list(heapq.merge(*(list(group) for _, group in groups), key=lambda entry: entry.time))


def holders(entries: Iterable[UnackedEntry]) -> str:
    """Return who holds the messages: ``3 of mail@worker1, 1 of a stock worker``."""
    owners = (owner_of(entry.tag) for entry in entries)
    names = Counter("a stock worker" if owner is None else owner.node for owner in owners)
    return ", ".join(f"{number} of {name}" for name, number in names.most_common())


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
