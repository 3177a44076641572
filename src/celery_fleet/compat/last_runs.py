# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""When the entries of beat's schedule ran last (celery/beat.py, django_celery_beat/schedulers.py)."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import beat
from celery.utils.time import maybe_make_aware

from celery_fleet.compat import redbeat
from celery_fleet.compat.schedule import differs

logger = logging.getLogger("celery_fleet.beat")

#: How much later than now a last run may be: the clocks of hosts differ a little.
AHEAD = timedelta(minutes=1)

_stock_update = beat.ScheduleEntry.update


def count_from_new_times() -> None:
    """Let an entry whose time has changed count from beat's start, as a new one does; repeatable.

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


def last_run(app: Any, entry: Any) -> datetime | None:
    """Return when an entry ran last, in the schedule's zone; None if that is not known."""
    # An application's own scheduler may have other entries.
    last = getattr(entry, "last_run_at", None)
    if last is None:
        return None
    aware: datetime = maybe_make_aware(last)
    return aware.astimezone(app.timezone)


def is_shared(entry: Any) -> bool:
    """Return whether an entry is a row of a database, which all beats read."""
    return hasattr(entry, "model")


def ran_at(service: Any, entry: Any, moment: datetime) -> None:
    """Set and save when an entry ran last, before the first tick."""
    if redbeat.holds(service):
        redbeat.ran_at(entry, moment.astimezone(service.app.timezone))
        return
    set_last_run(service.app, entry, moment)
    if is_shared(entry) and entry.model.one_off:
        # It has run, so it must not run again, whenever it is due.
        entry.total_run_count = entry.model.total_run_count = max(1, entry.total_run_count)
    _save(service, entry)


def _save(service: Any, entry: Any) -> None:
    # Only django_celery_beat saves single entries.
    dirty = getattr(service.scheduler, "_dirty", None)
    if dirty is not None:
        dirty.add(entry.name)
    service.scheduler.sync()


def forget_unsaved(service: Any) -> None:
    """Don't save what is not saved yet: a run that was not sent. Call it in beat's own thread."""
    service.scheduler.sync = lambda: None
    # Only django_celery_beat saves single entries.
    dirty = getattr(service.scheduler, "_dirty", None)
    if dirty is not None:
        dirty.clear()


def set_last_run(app: Any, entry: Any, moment: datetime) -> None:
    """Set when an entry ran last, without saving it."""
    entry.last_run_at = moment.astimezone(app.timezone)
    if is_shared(entry):
        entry.model.last_run_at = entry.last_run_at
        # Otherwise the scheduler takes it for a user's change and reads everything again.
        entry.model.no_changes = True


def count_from_now(service: Any, held: Iterable[tuple[float, Any]]) -> bool:
    """Let entries whose last run is still to come count from now; return whether there were any.

    A clock that was ahead has been set back. Without this they would be due only when that time has come again.

    Args:
        service: Beat's service, after a tick.
        held: All entries, as `compat.beat.events` returns them.
    """
    now = service.app.now().astimezone(UTC)
    ahead = {}
    for _, entry in held:
        last = last_run(service.app, entry)
        if last is not None and last.astimezone(UTC) > now + AHEAD:
            ahead[str(entry.name)] = entry
            logger.warning(
                "the last run of %s, %s, is still to come; it counts from now", entry.name, last
            )
    for entry in ahead.values():
        if redbeat.holds(service):
            redbeat.ran_at(entry, now)
        else:
            set_last_run(service.app, entry, now)
            _save(service, entry)
    if ahead and not redbeat.holds(service):
        _plan_again(service.scheduler, ahead)
    return bool(ahead)


def _plan_again(scheduler: Any, entries: Mapping[str, Any]) -> None:
    """Compute again when entries are due; beat looks only at the first one in its heap."""
    heap = scheduler._heap
    for at, event in enumerate(heap):
        if str(event.entry.name) in entries:
            _, pause = scheduler.is_due(event.entry)
            heap[at] = event._replace(time=scheduler._when(event.entry, pause))
    heapq.heapify(heap)
