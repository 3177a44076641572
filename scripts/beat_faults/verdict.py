"""Compare what was sent with what was due."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from celery_fleet.beat.slots import GRACE
from celery_fleet.config import entries

#: Seconds by which a host's clock is wrong at most.
SKEW = 1.0

#: Seconds for which a host is up without a pause, after which what was due must have been sent.
ABLE = 45.0

#: When a message arrived: by the clock of the host that sent it, and the true time.
Arrival = tuple[datetime, datetime]

#: A begin and an end.
Period = tuple[datetime, datetime]


@dataclass
class RunCount:
    """How an entry was sent.

    Attributes:
        sent: The number of its messages.
        doubled: Messages without a slot of their own.
        missed: Slots without a message in time although a host was up.
        excused: Slots without a message in time while no host was up.
    """

    sent: int
    doubled: int = 0
    missed: int = 0
    excused: int = 0


class Judge:
    """Compares when an entry was sent with its slots.

    Args:
        up: When a host's beat ran; true times.
    """

    def __init__(self, up: Sequence[Period]) -> None:
        least = timedelta(seconds=ABLE)
        self._able = sorted((begin, end) for begin, end in up if end - begin >= least)
        # A period that ends late may begin before others that end early.
        self._longest = max((end - begin for begin, end in self._able), default=timedelta())

    def was_able(self, begin: datetime, end: datetime) -> bool:
        """Return whether a beat ran for `ABLE` seconds without a pause within a period."""
        first = bisect.bisect_left(self._able, (begin - self._longest, begin - self._longest))
        for one, other in itertools.islice(self._able, first, None):
            if one >= end:
                break
            if (min(end, other) - max(begin, one)).total_seconds() >= ABLE:
                return True
        return False

    def crontab(
        self, sent: Sequence[Arrival], due: Sequence[datetime], policy: str, end: datetime
    ) -> RunCount:
        """Judge an entry with slots.

        Args:
            sent: Its messages in the order of their arrival.
            due: Its slots.
            policy: What happens to missed runs.
            end: The end of the simulation.
        """
        found, taken = RunCount(len(sent)), 0
        for shown, true in sent:
            reached = bisect.bisect_right(due, shown)
            if reached <= taken:
                found.doubled += 1
                continue
            own = taken if policy == entries.EACH else reached - 1
            for number in range(taken, own):
                self._count(found, due[number], self._limit(due, number, policy, end))
            self._count(found, due[own], true, sent=True)
            taken = own + 1
        for number in range(taken, len(due)):
            self._count(found, due[number], self._limit(due, number, policy, end))
        return found

    def interval(self, sent: Sequence[Arrival], seconds: float) -> RunCount:
        """Judge an entry that counts from its last run."""
        found = RunCount(len(sent))
        every, wrong = timedelta(seconds=seconds), timedelta(seconds=2 * SKEW)
        for (_, before), (_, after) in itertools.pairwise(sent):
            found.doubled += after - before < every - wrong
            self._count(found, before + every, after, sent=True)
        return found

    def _count(
        self, found: RunCount, slot: datetime, limit: datetime, *, sent: bool = False
    ) -> None:
        """Count a slot whose message came at a time, or could have come until then."""
        if self.was_able(slot, limit):
            found.missed += 1
        elif not sent:
            found.excused += 1

    @staticmethod
    def _limit(due: Sequence[datetime], number: int, policy: str, end: datetime) -> datetime:
        """Return until when a slot can be sent."""
        if policy == entries.EACH:
            return end
        if policy == entries.SKIP:
            return due[number] + timedelta(seconds=GRACE)
        return due[number + 1] if number + 1 < len(due) else end
