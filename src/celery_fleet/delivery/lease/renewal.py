"""The lease: a process renews the times in ``unacked_index`` of all messages that it holds.

If a message's time is older than the visibility timeout, the message counts as abandoned and is put back
(:mod:`celery_fleet.delivery.lease.sweep`). Stock kombu writes the time once, so the timeout must be longer than the
longest task and the farthest ETA. With a renewal every few seconds, by Redis's clock, 300 seconds are enough.

A process that is stuck must not renew: :meth:`Lease.end` lets other workers have its messages.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from celery_fleet.delivery.messages import number_of
from celery_fleet.delivery.scripts import Script

logger = logging.getLogger("celery_fleet.delivery.lease")

#: Number of rounds in a lease: one may fail, and one may be late.
ROUNDS = 3

#: Longest time in seconds between two rounds: a third of the shortest lease that preflight accepts. Each worker sweeps
#: by its own timeout, and some still have the shorter one while a longer one is rolled out.
LONGEST_ROUND = 5.0

#: Number of tags in one call: about 60 kB, which take Redis much less than a millisecond.
BATCH = 1000

#: Seconds until the next attempt after a failure, unless a round is shorter.
RETRY = 2.0

#: Renews the times of tags that are in the index. ZREM comes first because it writes: after a write, Redis lets the
#: script run ZADD even at its memory limit. No message has the tag "". Without tags, the script only finds out whether
#: Redis accepts writes.
#: KEYS: unacked_index. ARGV: tags.
RENEW = Script("""
local now = redis.call('TIME')
local score = now[1] .. '.' .. string.format('%06d', now[2])
redis.call('ZREM', KEYS[1], '')
if #ARGV == 0 then return end
local places = {}
for i = 1, #ARGV do
  places[2 * i - 1] = score
  places[2 * i] = ARGV[i]
end
redis.call('ZADD', KEYS[1], 'XX', unpack(places))
""")


#: Runs a script, with its keys and arguments, in the Redis from which this process fetches, and returns its result. It
#: raises a RedisError or an OSError if the script failed, or Redis did not answer.
Run = Callable[[Script, Sequence[str], Sequence[Any]], Any]


class Lease:
    """Renews the messages of a process when that is due. Use it in one thread only, except where noted.

    Args:
        held: Returns the tags of the messages for which this process is responsible; called in the renewing thread.
        seconds: The application's visibility timeout.
        awaited: Returns the tags of fetches for which no reply was read yet. If the prefetch is full, or a solo pool
            runs a task, a reply with a message may wait for hours. A fetch may also have found no message.
    """

    def __init__(
        self,
        held: Callable[[], Iterable[str]],
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        awaited: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self.seconds = seconds
        self._held = held
        self._awaited = awaited
        self._clock = clock
        self._ended = threading.Event()
        self._confirmed = clock()
        self._next = self._confirmed
        self._lapse_told = False

    # --- for any thread ---

    def end(self, why: str) -> None:
        """Stop renewing, so that other workers get this process's messages. Calling it again has no effect."""
        if not self._ended.is_set():
            self._ended.set()
            logger.error(
                "the lease has ended (%s): other workers get this one's messages after %.0f s",
                why,
                self.seconds,
            )

    def resume(self) -> None:
        """Resume renewing at once, because a process that was given up recovered before its manager ended it."""
        if self._ended.is_set():
            self._next = self._clock()
            self._ended.clear()
            logger.warning("the lease is renewed again, because the worker has recovered")

    @property
    def ended(self) -> bool:
        """Return whether the lease is no longer renewed."""
        return self._ended.is_set()

    @property
    def age(self) -> float:
        """Return the seconds since Redis confirmed a renewal, or since there was nothing to renew."""
        return self._clock() - self._confirmed

    @property
    def lapsed(self) -> bool:
        """Return whether the lease has expired, so that other workers may have the same messages."""
        return self.age > self.seconds

    # --- for the renewing thread ---

    @property
    def due_in(self) -> float:
        """Return the seconds until the next round; infinity after `end`."""
        return float("inf") if self.ended else max(0.0, self._next - self._clock())

    def renew(self, run: Run, index: str, ask: bool = False) -> int:
        """Renew all held messages; return their number.

        Args:
            run: Runs the script.
            index: Key of kombu's ``unacked_index``.
            ask: Whether to ask Redis even if there are none, to find out whether it accepts writes.

        Raises:
            redis.exceptions.RedisError, OSError: Redis did not confirm the renewal; the next attempt follows soon.
        """
        if self.ended:
            return 0
        began = self._clock()
        pause = min(self.seconds / ROUNDS, LONGEST_ROUND)
        self._next = began + min(RETRY, pause)
        # Sort by number, so that the scores keep the order in which messages were fetched. Read the awaited tags first:
        # a message that is noted as held in between is then in both sets. In the other order it would be in neither.
        awaited = set(self._awaited())
        tags = sorted(awaited.union(self._held()), key=number_of)
        if tags and self.lapsed and not self._lapse_told:
            self._lapse_told = True
            logger.warning(
                "the lease of %d messages was not renewed for %.0f s, longer than its %.0f s: other workers may run"
                " them, too; an acknowledgement of this worker does not affect theirs",
                len(tags),
                self.age,
                self.seconds,
            )
        for start in range(0, max(int(ask), len(tags)), BATCH):
            if self._ended.is_set():
                return start
            run(RENEW, [index], tags[start : start + BATCH])
        self._confirmed = began
        self._lapse_told = False
        self._next = began + pause
        return len(tags)
