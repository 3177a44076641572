"""Due times on days when a zone's clock changes (celery/schedules.py, celery/utils/time.py).

Celery has four faults there, which a beat of the fleet does not have:

* In the hour that occurs twice in autumn, a crontab's next time is always that of the first pass. If the last run was
  in the second pass, because beat was late or the entry is new, that time has passed: beat sends the task thousands
  of times, until the hour is over.
* A crontab of every hour is not sent in the second pass at all (celery/celery#10107).
* A slot that the clock skips in spring is sent as much later as the clock skips. If that is after the next slot, which
  is possible where half an hour is skipped, the next one is not sent.
* Before 5.7, intervals add up wall clock time. In autumn they pause for an hour, or are sent without end, as above. In
  5.4, crontabs do too.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from celery import schedules
from celery.utils.time import ffwd as forward

_HOURS = 24

_MINUTE = timedelta(minutes=1)

_stock = schedules.schedule.remaining_estimate


def install() -> None:
    """Compute due times correctly in this process; repeatable. Schedule classes of the application keep their own."""
    schedules.crontab.remaining_estimate = _remaining_of_crontab
    schedules.schedule.remaining_estimate = _remaining_of_interval


def _remaining_of_crontab(self: Any, last_run_at: datetime, ffwd: Any = forward) -> timedelta:
    last = self.maybe_make_aware(last_run_at).astimezone(self.tz)
    due = _next(self, last, ffwd)
    # The first pass of an hour that occurs twice may be over. Each slot in it has one run.
    while due.astimezone(UTC) <= last.astimezone(UTC):
        due = _next(self, due, ffwd)
    found = due.astimezone(UTC)
    while _is_skipped(due):
        due = _next(self, due, ffwd)
        found = min(found, due.astimezone(UTC))
    if len(self.hour) == _HOURS:
        found = min(found, _in_second_pass(self, last) or found)
    now: datetime = self.maybe_make_aware(self.now())
    return found - now.astimezone(UTC)


def _next(schedule: Any, moment: datetime, ffwd: Any) -> datetime:
    """Return Celery's next due time after a moment; its clock shows a later time, but it may be an earlier moment."""
    start, delta, _ = schedule.remaining_delta(moment, ffwd=ffwd)
    due: datetime = start + delta
    return due


def _is_skipped(local: datetime) -> bool:
    """Return whether no clock of the zone ever shows this time."""
    there = local.astimezone(UTC).astimezone(local.tzinfo)
    return there.replace(tzinfo=None) != local.replace(tzinfo=None)


def _in_second_pass(schedule: Any, last: datetime) -> datetime | None:
    """Return the first slot after a moment that is in the second pass of the same repeated time; None if none is."""
    moment = last.astimezone(UTC).replace(second=0, microsecond=0)
    while True:
        moment += _MINUTE
        local = moment.astimezone(last.tzinfo)
        if local.replace(fold=0).utcoffset() == local.replace(fold=1).utcoffset():
            return None
        if local.fold and _matches(schedule, local):
            return moment


def _matches(schedule: Any, local: datetime) -> bool:
    return (
        local.minute in schedule.minute
        and local.day in schedule.day_of_month
        and local.month in schedule.month_of_year
        and local.isoweekday() % 7 in schedule.day_of_week
    )


def _remaining_of_interval(self: Any, last_run_at: datetime) -> timedelta:
    if self.relative:
        # It is rounded to the wall clock.
        left: timedelta = _stock(self, last_run_at)
        return left
    last: datetime = self.maybe_make_aware(last_run_at)
    now: datetime = self.maybe_make_aware(self.now())
    every: timedelta = self.run_every
    return last.astimezone(UTC) + every - now.astimezone(UTC)
