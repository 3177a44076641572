"""When the entries of beat's schedule ran last (celery/beat.py, django_celery_beat/schedulers.py)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from celery import beat
from celery.utils.time import maybe_make_aware

from celery_fleet.compat import redbeat
from celery_fleet.compat.schedule import differs

_stock_update = beat.ScheduleEntry.update


def count_from_new_times() -> None:
    """Let an entry with a new time count from beat's start, as a new one does; repeatable.

    Otherwise a time between the last run and now, which did not exist then, would be due at once.
    """
    beat.ScheduleEntry.update = _update


def _update(entry: Any, declared: Any) -> None:
    """Update an entry from beat's file; Celery has just made the declared one."""
    if differs(entry.schedule, declared.schedule):
        entry.last_run_at = declared.last_run_at
        # So that of several beats, one that takes over does not take the entry for one that is new on its host.
        entry.total_run_count = max(1, entry.total_run_count)
    _stock_update(entry, declared)


def count_from_now(app: Any, entry: Any) -> None:
    """Let an entry of a database count from now, although it has not run."""
    _set(app, entry, datetime.now(UTC))


def last_run(app: Any, entry: Any) -> datetime | None:
    """Return when an entry ran last, in the schedule's zone; None if that is not known."""
    if entry.last_run_at is None:
        return None
    last: datetime = maybe_make_aware(entry.last_run_at)
    return last.astimezone(app.timezone)


def counted_from(app: Any, entry: Any) -> datetime | None:
    """Return since when an entry's slots count: its last run, or its `start_time` if that is later; None if unknown."""
    last = last_run(app, entry)
    if last is None or not is_shared(entry) or entry.model.start_time is None:
        return last
    begin: datetime = maybe_make_aware(entry.model.start_time)
    return max(last, begin.astimezone(app.timezone))


def is_shared(entry: Any) -> bool:
    """Return whether an entry is a row of a database, which all beats read."""
    return hasattr(entry, "model")


def ran_at(service: Any, entry: Any, moment: datetime) -> None:
    """Set and save when an entry ran last, before the first tick."""
    if redbeat.holds(service):
        redbeat.ran_at(entry, moment.astimezone(service.app.timezone))
        return
    to_be_saved(service, entry, moment)
    service.scheduler.sync()


def to_be_saved(service: Any, entry: Any, moment: datetime) -> None:
    """Set when an entry of a file or a database ran last; the scheduler's next ``sync`` saves it."""
    set_last_run(service.app, entry, moment)
    _unsaved(service).add(entry.name)


def was_not_sent(service: Any, entry: Any) -> None:
    """Don't save the run for which an entry could not be sent: the next beat, here or elsewhere, makes up for it.

    Args:
        service: Beat's service.
        entry: The entry as it was before that run.
    """
    if is_shared(entry):
        _unsaved(service).discard(entry.name)
        # Otherwise the scheduler switches off an entry that runs once, because it has run.
        entry.model.total_run_count = entry.total_run_count
    else:
        service.scheduler.schedule[entry.name] = entry


def forget_unsaved(service: Any) -> None:
    """Don't save what is not saved yet: a run that was not sent. Call it in beat's own thread."""
    service.scheduler.sync = lambda: None
    _unsaved(service).clear()


def _unsaved(service: Any) -> set[str]:
    """Return the names of the entries that are to be saved. Only django_celery_beat saves single entries."""
    names: set[str] = getattr(service.scheduler, "_dirty", set())
    return names


def set_last_run(app: Any, entry: Any, moment: datetime) -> None:
    """Set when an entry ran last, without saving it."""
    _set(app, entry, moment)
    if is_shared(entry) and entry.model.one_off:
        # It has run, so it must not run again, whenever it is due.
        entry.total_run_count = entry.model.total_run_count = max(1, entry.total_run_count)


def _set(app: Any, entry: Any, moment: datetime) -> None:
    entry.last_run_at = moment.astimezone(app.timezone)
    if is_shared(entry):
        if entry._default_now().tzinfo is None:  # noqa: SLF001  # what the entry itself saves
            # A project without time zones can't save a time with one. Its times are in UTC.
            entry.last_run_at = moment.astimezone(UTC).replace(tzinfo=None)
        entry.model.last_run_at = entry.last_run_at
        # Otherwise the scheduler takes it for a user's change and reads everything again.
        entry.model.no_changes = True
