"""The sweep: any worker puts back messages with an expired lease.

It replaces kombu's ``restore_visible``. That function uses the client's clock and a mutex that a dying worker leaves
locked. It also watches all of ``unacked``, so under load it starts over again and again. Here one script finds the
expired messages by Redis's own clock. Another script puts each message back unless it was renewed in the meantime, so
only one of several workers succeeds.

The sweep puts back

* messages of atomic workers, when their lease has expired;
* messages of stock workers, when *their* visibility timeout has expired. A stock worker renews nothing, so even its
  running tasks look abandoned from then on;
* messages under this process's own name that it does not know. They appear if a hanging Redis or a slow network ran the
  script after its caller had given up.

It also repairs messages that are only in ``unacked``, and removes tags that are only in ``unacked_index``.
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

import redis

from celery_fleet.delivery.lease.renewal import LONGEST_ROUND, RENEW, RETRY, ROUNDS, Run
from celery_fleet.delivery.lease.sweep_scripts import LOOK, MEND, READ
from celery_fleet.delivery.messages import Owner, number_of, owner_of, redelivered
from celery_fleet.delivery.scripts import HEAD, PUT_BACK, Script

logger = logging.getLogger("celery_fleet.delivery.sweep")


Answer = TypeVar("Answer")

#: Limits of one answer: number of messages, and their size in bytes. A larger message is returned by itself.
BATCH = 100

BATCH_BYTES = 2_000_000

#: Number of answers handled in one round, which also ends when a renewal is due. The rest waits for the next round, so
#: that a round does not delay renewals.
BATCHES = 20

#: Bytes a second at which a larger message has to reach Redis: the client's timeout is for the whole of it.
SLOWEST = 500_000

#: Number of tags that one call examines to find their owners, which takes Redis about 3 ms.
LOOKS = 10_000

#: The same in each round, for tags that were not renewed recently; few of these are ours.
ROUTINE_LOOKS = 1000

#: Seconds that a fetch's reply may take, before an unknown message under this process's name counts as forgotten.
UNKNOWN_AGE = 10.0

#: Seconds within which every running worker has renewed its messages, even if that takes two attempts.
RENEWED = LONGEST_ROUND + 2 * RETRY

#: Seconds by which Redis's clock may gain on ours between two rounds without counting as set forward.
CLOCK_SLACK = 2.0

#: Number of fields of ``unacked`` that one call examines when it repairs the index.
MEND_COUNT = 200

#: The entry of an item that is not JSON, because the fetch script only concatenates strings.
_UNREADABLE = re.compile(r'\[(?P<item>.*),\s*"",\s*(?P<queue>"(?:[^"\\]|\\.)*")\]\s*\Z', re.DOTALL)


@dataclass(frozen=True)
class UnackedEntry:
    """A message's place in ``unacked_index`` and its entry in ``unacked``, as Redis has them."""

    tag: str
    #: The score in Redis's own format.
    score: bytes
    value: str = ""

    @property
    def time(self) -> float:
        """Return the score as seconds since 1970."""
        return float(self.score)


@dataclass(frozen=True)
class Broker:
    """The Redis from which this process fetches, with the keys of kombu's records and lists."""

    run: Run
    #: Runs a script once for each pair of keys and arguments (`celery_fleet.delivery.scripts.run_each`), with a timeout
    #: in seconds, or the usual one.
    run_each: Callable[
        [Script, Iterable[tuple[Sequence[str], Sequence[Any]]], float | None], list[Any]
    ]
    index: str
    unacked: str
    #: Returns the lists of a message with this exchange and routing key. It raises an exception if it can't find them
    #: now.
    lists: Callable[[dict[str, Any], str, str], Sequence[str]]

    def ask(self, script: Script, args: Sequence[Any]) -> Any:
        """Run a script on ``unacked_index`` and ``unacked``."""
        return self.run(script, [self.index, self.unacked], args)


class RedisClock:
    """Detects when Redis's clock is set forward, because all messages then look older than they are.

    Args:
        memory: Seconds for which a step is remembered.
        clock: A monotonic clock of this process.
    """

    def __init__(self, memory: float, clock: Callable[[], float] = time.monotonic) -> None:
        #: When Redis's clock was last set, by our own clock. It may have been set just before this process started.
        self.set_at = clock()
        self._memory = memory
        self._clock = clock
        self._step = 0.0
        self._before: tuple[float, float] | None = None

    @property
    def step(self) -> float:
        """Return by how many seconds messages look too old; 0 when none can be from before the step any more."""
        return self._step if self._clock() - self.set_at < self._memory else 0.0

    def ask(self, look: Callable[[], tuple[Answer, float]]) -> Answer:
        """Return the answer of a call, and compare its Redis time with that of the previous call."""
        began = self._clock()
        answer, now = look()
        if self._before is not None:
            asked, then = self._before
            ahead = (now - then) - (self._clock() - asked)
            if ahead > CLOCK_SLACK:
                logger.warning("Redis's clock was set forward by %.0f s", ahead)
                self._step = self.step + ahead
                self.set_at = self._clock()
        self._before = (began, now)
        return answer


class Sweep:
    """A worker's rounds of sweeping.

    Args:
        owner: This process.
        known: Returns the tags of all messages that this process has, awaits, or still has to acknowledge.
        seconds: The length of the lease.
        stock_seconds: The visibility timeout of workers with the stock fetch.
        clock: A clock of this process, in seconds.
    """

    def __init__(
        self,
        owner: Owner,
        known: Callable[[], Iterable[str]],
        seconds: float,
        stock_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
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
        """Put back expired messages; return True if there are more than one round can put back.

        Args:
            broker: The Redis from which this process fetches.
            suspicious: Whether a connection was lost recently, so there may be unknown messages under this process's
                name. Then the round also examines recently renewed messages. Otherwise it only finds an unknown message
                that has missed a renewal.

        Raises:
            redis.exceptions.RedisError, OSError: Redis failed or did not answer, so messages may remain.
        """
        more = True
        batches = 0
        began = self._clock()
        while more and batches < BATCHES and self._clock() - began < LONGEST_ROUND:
            batches += 1
            counts, expired, owned = self.redis_clock.ask(lambda: self._look(broker, suspicious))
            if self._clock() - self.redis_clock.set_at < RENEWED:
                # Messages of other workers look expired until these have renewed them.
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
        # A stock worker renews nothing: messages that it fetched before the clock was set are newer than they look.
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
        # Only put back messages that were unknown in two rounds. In the first one, the reply to their fetch may just
        # have been read, before they were noted as held.
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
        self._put_back(broker, found, "the replies with them came too late")

    def _put_back(self, broker: Broker, entries: Sequence[UnackedEntry], why: str) -> int:
        calls = []
        # Start with the newest: the last message put at the head is the first to be fetched.
        sent = list(reversed(in_order(entries)))
        for entry in sent:
            try:
                payload, lists = self._destination(entry, broker)
            except Exception as exc:  # noqa: BLE001  # one invalid message must not hold up the others
                self._keep(entry, exc)
                payload, lists = b"", ()
            arguments = [_bytes(entry.tag), payload, HEAD, entry.score]
            calls.append(([broker.unacked, broker.index, *lists], arguments))
        if not sent:
            return 0
        size = sum(len(arguments[1]) for _, arguments in calls)
        seconds = self._time_for(size)
        try:
            answers = broker.run_each(PUT_BACK, calls, seconds)
        except redis.TimeoutError:
            if seconds is None:
                raise
            # Renew it, like a refused one. Otherwise it would come first in each round, and hold up all older ones.
            broker.run(RENEW, [broker.index], [_bytes(entry.tag) for entry in sent])
            logger.error(
                "%d messages of %d bytes could not be put back within %.0f s and are tried again later: %s",
                *(len(sent), size, seconds, holders(sent)),
            )
            return 0
        done, refused = [], []
        for entry, answer in zip(sent, answers, strict=True):
            if isinstance(answer, Exception):
                self._keep(entry, answer)
                refused.append(_bytes(entry.tag))
            else:
                done += [entry] * answer
        if refused:
            # Renew refused messages, so that they are tried again after a timeout and not in each round.
            broker.run(RENEW, [broker.index], refused)
        if done:
            logger.warning("put back %d messages, since %s: %s", len(done), why, holders(done))
        return len(done)

    def _time_for(self, size: int) -> float | None:
        """Return the timeout for messages of this size; None for the usual one.

        Sending and the answer, which may take as long, must leave time to renew this process's own messages.
        """
        return None if size <= BATCH_BYTES else min(size / SLOWEST, self._seconds / ROUNDS / 2)

    def _destination(self, entry: UnackedEntry, broker: Broker) -> tuple[bytes, Sequence[str]]:
        try:
            raw, exchange, routing_key = json.loads(entry.value)
        except ValueError:
            # Put it back unchanged; the next worker that fetches it parks it.
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
                "message %s stays in kombu's unacked, because it can't be put back (%s); is its queue one of the"
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
                "%d messages in kombu's unacked were missing in unacked_index, so they would never have been put back;"
                " they were added to it",
                mended,
            )


def in_order(entries: Iterable[UnackedEntry]) -> list[UnackedEntry]:
    """Sort messages by the order in which they were fetched.

    Messages of one owner are sorted by number, because a renewal gives them the same score. Owners are merged by score.
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
