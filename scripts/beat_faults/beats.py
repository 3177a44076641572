# ruff: noqa: SLF001  # beats that share a process need what each process has for itself
"""The beats of the simulation: their schedule, and what runs in each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celery import Celery, beat
from celery.schedules import crontab, schedule

from celery_fleet.beat import standby
from celery_fleet.beat.leadership import Leadership
from celery_fleet.beat.schedule_file import ScheduleFile
from celery_fleet.compat import beat as compat
from celery_fleet.compat import clock_changes, last_runs, redbeat
from celery_fleet.config import entries, settings
from scripts.clock_changes import DATABASE, ENTRIES, FILE, LONGEST, Clock, as_row, moved_django

ZONE = "Europe/Berlin"

# No slot is then.
BEGIN = datetime(2027, 1, 1, 0, 5, tzinfo=UTC)

#: Seconds after which the schedule is read from the database as a whole.
READS = 3600

#: What happens to missed runs of some entries; `once` to those of the others.
EACH = frozenset({"hourly at :15", "2:10 and 2:35"})
SKIP = frozenset({"every 2 hours", "2:30"})

#: A schedule on the broker, with celery-redbeat, beside those of `scripts.clock_changes`.
REDBEAT = "redbeat"


SCHEDULERS = {
    FILE: settings.SCHEDULERS[settings.PERSISTENT],
    DATABASE: settings.SCHEDULERS[settings.DATABASE],
    REDBEAT: settings.SCHEDULERS[settings.REDBEAT],
}


def policy(name: str) -> str:
    """Return what happens to missed runs of an entry."""
    return entries.EACH if name in EACH else entries.SKIP if name in SKIP else entries.ONCE


class SimulatedBeat:
    """A beat with its schedule loaded, which stands by.

    Args:
        kind: Where the schedule is: `FILE`, `DATABASE` or `REDBEAT`.
        url: The broker.
        disk: The directory of the host's files.
        now: Returns the time that the host's clock shows.
        leadership: This beat's part in the election.
    """

    def __init__(
        self,
        kind: str,
        url: str,
        disk: Path,
        now: Callable[[], datetime],
        leadership: Leadership,
    ) -> None:
        clock_changes.install()
        compat.keep_schedule_in(ScheduleFile)
        self.leadership = leadership
        app: Any = Celery("shop", set_as_current=False, fixups=[], broker=url)
        app.conf.update(timezone=ZONE, enable_utc=True, result_backend="disabled://")
        # Celery would add an entry of its own.
        app.conf.result_expires = None
        app.now = lambda: now().astimezone(app.timezone)
        app.set_current()
        if kind != DATABASE:
            app.conf.beat_schedule = _in_code()
        if kind == REDBEAT:
            app.conf.update(redbeat.settings(url))
            redbeat.connect(app)
        if kind == DATABASE:
            _hold_all()
        self._service: Any = beat.Service(
            app, LONGEST, str(disk / "schedule"), scheduler_cls=SCHEDULERS[kind]
        )
        # It counts real time.
        self._service.scheduler.sync_every = math.inf
        if kind == DATABASE:
            _guard(self._service)
        self._kind = kind
        self._put = compat.stock.Channel._put

    @contextmanager
    def _as_process(self) -> Iterator[None]:
        """Give the code that runs what a beat has in a process of its own."""
        self._service.app.set_current()
        stock, compat.stock.Channel._put = compat.stock.Channel._put, self._put
        try:
            yield
        finally:
            self._put, compat.stock.Channel._put = compat.stock.Channel._put, stock

    def lead(self) -> None:
        """Do what a beat of the fleet does when it has become the leader."""
        wanted = {name: entries.Missed(entries.EACH, entries.MOST_MISSED) for name in EACH}
        wanted |= {name: entries.Missed(entries.SKIP) for name in SKIP}
        with self._as_process():
            standby.take_over(self._service.app, self._service, self.leadership, wanted)

    def tick(self) -> float:
        """Send what is due; return the seconds until the next tick.

        Raises:
            SystemExit: Another beat has become the leader.
        """
        with self._as_process():
            pause: float = self._service.scheduler.tick()
        return max(pause, 0.0)

    def lose_unsaved(self) -> None:
        """Save nothing any more: Celery would do so while the error that stands for a kill passes through it."""
        last_runs.forget_unsaved(self._service)

    def close(self, *, saved: bool) -> None:
        """End it; a beat that was killed has saved nothing since its start."""
        if saved:
            self._service.sync()
        scheduler = self._service.scheduler
        if self._kind == DATABASE:
            # It would save when the simulation's process ends.
            scheduler._finalize.cancel()
        self._service.app.close()


def _in_code() -> dict[str, Any]:
    return {
        one.name: {
            "task": "shop.task",
            "schedule": crontab(**one.fields) if one.fields else schedule(one.interval),
        }
        for one in ENTRIES
    }


def _hold_all() -> None:
    """Have beat load every entry, also those that are not due at the hour that this machine's clock shows."""
    from django_celery_beat import schedulers

    from celery_fleet.beat.database import scheduler

    # Reading is most of the work.
    schedulers.SCHEDULE_SYNC_MAX_INTERVAL = READS
    scheduler.hold_all()


def _guard(service: Any) -> None:
    """Do what the fleet does with a schedule in a database."""
    from celery_fleet.beat.database import scheduler

    scheduler.guard(service, lambda trouble: None, standby=True)


@contextmanager
def database(clock: Clock) -> Iterator[None]:
    """Give django_celery_beat a new database with the entries, and a clock."""
    with moved_django(clock):
        from django.core.management import call_command
        from django_celery_beat import models

        call_command("migrate", verbosity=0)
        models.PeriodicTask.objects.all().delete()
        for entry in ENTRIES:
            kind, row = as_row(entry, ZONE)
            row.save()
            made = {kind: row, "last_run_at": BEGIN}
            models.PeriodicTask.objects.create(name=entry.name, task="shop.task", **made)
        yield
