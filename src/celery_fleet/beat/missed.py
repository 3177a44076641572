"""Skip or repeat runs that entries missed while no beat ran, as the inventory says.

Celery sends an entry that is overdue once, however often it was due. That is `once`, which needs nothing here. A run
that is late by up to a minute counts as late and not as missed, so that a restart of beat skips nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from celery_fleet.beat.slots import GRACE, slots
from celery_fleet.compat import beat, last_runs
from celery_fleet.config.entries import EACH, MOST_MISSED, ONCE, SKIP, Missed

log = logging.getLogger("celery_fleet.beat")


class MissedRuns:
    """What to do with missed runs of the entries of one beat; used in beat's own thread.

    Attributes:
        left: By entry, the times of missed runs that are to be sent, the oldest first.
        skipped: By entry, how many missed runs were skipped.
    """

    def __init__(self) -> None:
        self.left: dict[str, list[datetime]] = {}
        self.skipped: dict[str, int] = {}
        self._sending: dict[str, datetime] = {}

    def take(self, name: str) -> datetime | None:
        """Take the next time off an entry that is about to be sent; None if it has missed nothing."""
        left = self.left.get(name)
        if not left:
            return None
        self._sending[name] = left.pop(0)
        return self._sending[name]

    def sent(self, name: str) -> datetime | None:
        """Return the time of the missed run that was just sent; None if it was another run."""
        return self._sending.pop(name, None)


def install(app: Any, service: Any, wanted: Mapping[str, Missed]) -> MissedRuns:
    """Look at what a beat has missed before its first tick, and have it do what the inventory says.

    Args:
        app: The application.
        service: Beat's service, with its schedule loaded.
        wanted: What happens to missed runs, by entry.
    """
    found = MissedRuns()
    now = app.now().astimezone(UTC)
    for name, missed in wanted.items():
        if missed.policy == ONCE:
            continue
        try:
            _look(app, service, name, missed, now, found)
        except Exception:
            # An error of a database or of a schedule class must not stop beat.
            log.exception("the runs that %s has missed can't be determined, so it runs once", name)
    if found.left:
        beat.send_for_each(service, found.left, found.take)
    return found


def _look(
    app: Any, service: Any, name: str, missed: Missed, now: datetime, found: MissedRuns
) -> None:
    entry = beat.find(service, name)
    last = None if entry is None else last_runs.counted_from(app, entry)
    if last is None:
        return
    deadline = app.conf.beat_cron_starting_deadline
    if missed.policy == EACH and deadline is not None:
        last = max(last, now - timedelta(seconds=deadline))
    most = missed.limit if missed.policy == EACH else MOST_MISSED
    times_missed = slots(entry.schedule, last, now, most)
    if not times_missed:
        return
    first, newest = times_missed[0], times_missed[-1]
    if missed.policy == EACH and len(times_missed) > 1:
        log.info(
            "%s is sent for %d runs that it missed since %s", name, len(times_missed), _shown(first)
        )
        found.left[name] = times_missed
    if missed.policy == SKIP and (now - newest).total_seconds() > GRACE:
        log.info("%s skips %d runs that it missed since %s", name, len(times_missed), _shown(first))
        last_runs.ran_at(service, entry, newest)
        found.skipped[name] = len(times_missed)


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
