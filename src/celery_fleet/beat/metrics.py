"""Count what becomes of each entry of the schedule, in a file for the fleet's monitoring.

    {"format": 1, "written": 1767225600.0, "entries": {"nightly": {"sent": 4, "failed": 0, "late": 0, "collapsed": 1,
     "skipped": 0}}, "other": {"sent": 0, "failed": 0, "late": 0, "collapsed": 0, "skipped": 0}}

The counters outlive the process; those of an entry that is no longer in the schedule are dropped. Monitoring shows only
the first :data:`SHOWN` entries by name. ``other`` has what was counted for the rest. It is not their sum, which would
also change when an entry is added or removed.

* ``sent``: beat has sent its task, and ``late``: more than :data:`LATE` seconds after it was due.
* ``failed``: beat could not send it (SchedulingError). Celery tries again at the next due time.
* ``collapsed``: it was due at least twice while beat did not run. Celery sends it once, so runs were missed.
* ``skipped``: runs that were missed while beat did not run, of an entry with ``missed: skip``.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celery_fleet.common import json_file
from celery_fleet.common.errors import error_text
from celery_fleet.common.small_file import DAMAGED, LARGEST_OF_BEAT, content

log = logging.getLogger(__name__)

FORMAT = 1

COUNTERS = ("sent", "failed", "late", "collapsed", "skipped")

#: The number of entries that monitoring shows one by one; a database may have thousands.
SHOWN = 100

#: Seconds after its due time from which on a run counts as late.
LATE = 60.0

#: Seconds between two writes of the file.
INTERVAL = 10.0

#: Seconds after a due time from which the next one is sought: the clock is read twice.
_AFTER = 0.5


def shown(names: Iterable[str]) -> list[str]:
    """Return the names of the entries that monitoring shows one by one."""
    return sorted(names)[:SHOWN]


class BeatMetrics:
    """Counts in beat's own thread, and writes the file.

    Args:
        path: The file.
        skipped: How many runs each entry has skipped at this start.
    """

    def __init__(self, path: Path, skipped: Mapping[str, int] | None = None) -> None:
        self._path = path
        self._started = time.time()
        #: When the previous beat was last alive; None if that is not known.
        self._alive: float | None = None
        self._entries: dict[str, dict[str, int]] = {}
        self._other = dict.fromkeys(COUNTERS, 0)
        #: Entries that this process has tried to send.
        self._tried: set[str] = set()
        self._written = float("-inf")
        self._told = False
        self._read()
        for name, number in (skipped or {}).items():
            self._add(name, skipped=number)

    def _add(self, name: str, **more: int) -> None:
        counts = [self._entries.setdefault(name, dict.fromkeys(COUNTERS, 0))]
        if name not in shown(self._entries):
            counts.append(self._other)
        for one in counts:
            for counter, number in more.items():
                one[counter] += number

    def _read(self) -> None:
        try:
            found = json.loads(content(self._path, LARGEST_OF_BEAT))
            entries = {str(name): _counters(counts) for name, counts in found["entries"].items()}
            other = _counters(found.get("other", {}))
            self._alive, self._entries, self._other = float(found["written"]), entries, other
        except FileNotFoundError:
            pass
        except (OSError, *DAMAGED) as error:
            log.warning(
                "%s can't be read, counters begin at zero: %s", self._path, error_text(error)
            )

    def count(self, entry: Any, sent: bool, planned: float | None) -> None:
        """Count an attempt to send.

        Args:
            entry: The entry as it was before, with the time of its last run.
            sent: Whether beat could send it.
            planned: When this process wanted to send it, in Unix time; None if that is not known.
        """
        name = str(entry.name)
        due, again = planned, False
        if name not in self._tried:
            self._tried.add(name)
            # When beat starts, it plans what is overdue for now.
            due, again = self._missed(entry) or (planned, False)
        late = sent and due is not None and time.time() - due > LATE
        self._add(name, sent=sent, failed=not sent, late=late, collapsed=again)

    def count_missed(self, name: str, sent: bool) -> None:
        """Count an attempt to send one of the runs that an entry missed while beat did not run."""
        self._tried.add(name)
        self._add(name, sent=sent, failed=not sent, late=sent)

    def _missed(self, entry: Any) -> tuple[float, bool] | None:
        """Return when an entry became due while beat did not run, and whether it did again; None if it did not.

        A time at which the previous beat was still alive comes from a schedule that has been changed since.
        """
        if self._alive is None:
            return None
        try:
            first = _next_due(entry.schedule, entry.last_run_at)
            if not self._alive - LATE <= first < self._started:
                return None
            after = first + _AFTER
            second = _next_due(entry.schedule, datetime.fromtimestamp(after, UTC))
        except Exception:
            # An error in the application's schedule classes must not stop beat.
            log.exception("the runs that %s has missed can't be counted", entry.name)
            return None
        # A one-off entry has only one due time.
        return first, after < second <= self._started

    def note(self, names: Iterable[str]) -> None:
        """Take over the names of all entries after a tick, and write the file if it is time to."""
        zero = dict.fromkeys(COUNTERS, 0)
        self._entries = {name: self._entries.get(name) or dict(zero) for name in sorted(names)}
        self._tried.intersection_update(self._entries)
        if time.monotonic() - self._written >= INTERVAL:
            self.write()

    def write(self) -> None:
        """Write the file; a full disk must not stop beat, so an error is only logged, once."""
        self._written = time.monotonic()
        document = {
            "format": FORMAT,
            "written": round(time.time(), 3),
            "entries": self._entries,
            "other": self._other,
        }
        try:
            json_file.replace(self._path, document, 0o640)
        except OSError as error:
            if not self._told:
                self._told = True
                log.warning("%s can't be written: %s", self._path, error)


def _counters(found: Mapping[str, Any]) -> dict[str, int]:
    """Return counters from a file; those that an older beat did not have begin at zero."""
    return {counter: int(found.get(counter, 0)) for counter in COUNTERS}


def _next_due(schedule: Any, last: datetime) -> float:
    """Return the Unix time at which a schedule is due after a run; it may have passed."""
    remaining: float = schedule.remaining_estimate(last).total_seconds()
    return time.time() + remaining
