"""Run beat with a schedule in the application's database: don't write it, and survive outages of the database.

django_celery_beat's scheduler reads the whole schedule when it starts and every 5 minutes, and dies if the database
does not answer just then; systemd would start it again and again, only to die. So beat waits before its start. Later, a
failed look at the schedule stops neither beat nor the schedule that it has already loaded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from inspect import unwrap
from typing import Any

from celery.utils.time import maybe_make_aware

from celery_fleet.beat import waiting
from celery_fleet.common.errors import FleetError, error_text, refuse
from celery_fleet.compat import last_runs
from celery_fleet.compat.schedule import differs, log_dropped
from celery_fleet.config.pins import PinnedSchedule
from celery_fleet.supervision import broker
from celery_fleet.supervision.notify import Notifier

logger = logging.getLogger("celery_fleet.beat")

#: Seconds until the next attempt to read the whole schedule after a failure.
AGAIN = 30.0

#: For at most this time a row is new: beat looks for changes every few seconds.
_MOMENT = timedelta(minutes=1)

#: The name of the database in statuses and logs.
NAME = "the schedule's database"


def prepare(app: Any, notifier: Notifier, pause: float = waiting.PAUSE) -> None:
    """Hide the declared entries from the scheduler and wait for the database; call it before the scheduler is created.

    Raises:
        SystemExit: The application has no schedule in a database.
    """
    from celery_fleet.beat.database import available

    trouble = available.missing()
    if trouble:
        refuse(FleetError(f"celery_beat_scheduler is database, but {trouble}"), os.environ)
    schedule = app.conf.beat_schedule
    if isinstance(schedule, PinnedSchedule):
        # The scheduler would write them at each start, over users' changes.
        schedule.withhold()
    skip_broken()
    hold_all()
    wait_for_first_slots()
    waiting.wait(question().ask, notifier, pause)


def skip_broken() -> None:
    """Let beat drop rows that can't be used, so that they don't stop all others; repeatable. Each is logged once."""
    from django.db.utils import DatabaseError, InterfaceError
    from django_celery_beat.schedulers import ModelEntry

    from celery_fleet.beat.database import content

    content.accept_unknown_zones()
    stock = unwrap(ModelEntry.__init__)
    told: dict[Any, str] = {}

    @wraps(stock)
    def make(entry: Any, model: Any, app: Any = None) -> None:
        try:
            content.check(model)
            stock(entry, model, app=app)
        except (DatabaseError, InterfaceError):
            raise
        except Exception as error:
            if told.get(model.pk) != str(error):
                told[model.pk] = str(error)
                log_dropped(model.name, error)
            # This is the only error after which the scheduler goes on with the next row.
            raise ValueError(str(error)) from error
        told.pop(model.pk, None)

    ModelEntry.__init__ = make


def hold_all() -> None:
    """Have the scheduler load every enabled entry.

    Since 2.8 django_celery_beat skips entries that are not due within about two hours. Beat's status, the table at
    the end of a run and `celery-fleet status` would then show only a part of the schedule.
    """
    from django_celery_beat.schedulers import DatabaseScheduler

    DatabaseScheduler.enabled_models = _enabled_rows


def _enabled_rows(scheduler: Any) -> list[Any]:
    found = list(scheduler.Model.objects.enabled())
    for row in found:
        # Switching a row off takes its last run from it.
        row.was_switched_off = not row.last_run_at and row.total_run_count > 0
        _count_from_last_change(row)
    return found


def _count_from_last_change(row: Any) -> None:
    """Let a row with a `start_time` that has not run yet count from its last change, as rows without one do.

    django_celery_beat dates its last run back by 30 years, so that an interval begins at that time. If it reads a row
    with a crontab between that time and its slot, it would send it at once.
    """
    if not row.last_run_at and _starts_between_slots(row):
        row.last_run_at = row.date_changed


def _starts_between_slots(row: Any) -> bool:
    """Return whether a row has a `start_time` that is not its first slot, as it is an interval's."""
    return row.start_time is not None and not (row.interval_id or row.clocked_id)


def _begins_at_start_time(row: Any) -> bool:
    """Return whether a row has an interval whose first run, or the next one, is at its `start_time`."""
    if not row.interval_id or row.start_time is None:
        return False
    return not row.total_run_count or maybe_make_aware(row.start_time) > datetime.now(UTC)


def wait_for_first_slots() -> None:
    """Have entries with a `start_time` wait for their first slot after it, whether they have run before or not.

    Otherwise a slot between their last run and that time would be due as soon as that time comes.
    """
    from django_celery_beat.schedulers import ModelEntry

    stock = unwrap(ModelEntry.is_due)

    @wraps(stock)
    def is_due(entry: Any) -> Any:
        ran = entry.last_run_at
        if _starts_between_slots(entry.model):
            entry.last_run_at = max(ran, entry.model.start_time, key=maybe_make_aware)
        try:
            return stock(entry)
        finally:
            entry.last_run_at = ran

    ModelEntry.is_due = is_due


def question() -> broker.Question:
    """Return the question whether the database answers; a thread asks it on its own connection, in bounded time."""
    return broker.Question(_ask, NAME)


def _ask() -> str | None:
    from django.db import connections, router
    from django.db.utils import DatabaseError, InterfaceError
    from django_celery_beat.models import PeriodicTask, PeriodicTasks

    alias = router.db_for_read(PeriodicTask)
    try:
        PeriodicTasks.last_change()
    except (DatabaseError, InterfaceError) as error:
        return described(error)
    finally:
        # The connection belongs to this thread, which ends.
        connections[alias].close()
    return None


def described(error: BaseException) -> str:
    """Return an error of the database in one line, without the password."""
    from django.db import connections

    secrets = [str(one.settings_dict.get("PASSWORD") or "") for one in connections.all()]
    return f"{NAME}: {error_text(error, secrets)}"


def guard(service: Any, tell: Callable[[str | None], None], *, standby: bool = False) -> None:
    """Keep a scheduler running with the schedule that it knows while its database returns errors.

    Args:
        service: Beat's service.
        tell: Called at each tick with a description of the trouble; None if there is none.
        standby: Whether it is one of several beats, of which one sends.
    """
    from django.db import connections, router
    from django.db.utils import DatabaseError, InterfaceError
    from django_celery_beat import schedulers

    scheduler = service.scheduler
    tick = scheduler.tick
    alias = router.db_for_write(scheduler.Model)

    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            result = tick(*args, **kwargs)
        except (DatabaseError, InterfaceError) as error:
            why = described(error)
            logger.error("waiting for %s", why)
            tell(why)
            # Repeat the failed full read after AGAIN seconds; until then it sends the due tasks that it knows.
            late = schedulers.SCHEDULE_SYNC_MAX_INTERVAL - AGAIN
            scheduler._last_full_sync = datetime.now() - timedelta(seconds=late)  # noqa: SLF001  # no public way
            return 1.0
        # If the query that failed only asked for changes, the scheduler logs the error itself and continues.
        tell(f"{NAME}, which gives errors" if connections[alias].errors_occurred else None)
        return result

    scheduler.tick = guarded
    _count_from_new_times(scheduler)
    scheduler.Entry.save = _save_newer if standby else _save_own
    _keep_unsaved(scheduler, alias)


def _count_from_new_times(scheduler: Any) -> None:
    """Let an entry with a user's new time, or one that was switched on again, count from now, as a new one does.

    Otherwise a time between its last run and now, at which it was not due, would be due at once. django_celery_beat
    counts one that was switched on from its row's last change, but its admin pages do not note that as one. An interval
    that begins at its `start_time` still does.
    """
    read = scheduler.all_as_schedule

    def read_again() -> Any:
        knows = scheduler._schedule  # noqa: SLF001  # what it knows; None before the first time
        before = {entry.model.pk: entry for entry in (knows or {}).values()}
        found = read()
        for entry in found.values():
            known = before.get(entry.model.pk)
            if known is None:
                # A new row counts from its creation, which is now.
                old = maybe_make_aware(entry.last_run_at) < datetime.now(UTC) - _MOMENT
                new = knows is not None and old
            else:
                new = differs(known.schedule, entry.schedule) or entry.model.was_switched_off
            if new and not _begins_at_start_time(entry.model):
                last_runs.count_from_now(scheduler.app, entry)
                entry.save()
        return found

    scheduler.all_as_schedule = read_again


def _save_own(entry: Any) -> None:
    """Save only the columns that beat itself maintains.

    django_celery_beat reads the row and later saves all of it. This would undo what a user or the synchronisation has
    written in between, and would restore an entry that was deleted.
    """
    _save(entry, _row(entry))


def _save_newer(entry: Any) -> None:
    """Save an entry as `_save_own` does, unless another beat has sent it since.

    A beat that was frozen or cut off saves before it hears that another one sends. It would put back an older run, and
    the other one would send the entry again.
    """
    _save(entry, _row(entry).exclude(last_run_at__gt=entry.model.last_run_at))


def _row(entry: Any) -> Any:
    return type(entry.model)._default_manager.filter(pk=entry.model.pk)  # noqa: SLF001  # documented by Django


def _save(entry: Any, rows: Any) -> None:
    own = {field: getattr(entry.model, field) for field in ("last_run_at", "total_run_count")}
    if not rows.filter(enabled=True).update(**own):
        # As the model does for a disabled entry: it must not be overdue when it is enabled again.
        rows.update(**{**own, "last_run_at": None})


def _keep_unsaved(scheduler: Any, alias: str) -> None:
    """Save later what could not be saved.

    django_celery_beat forgets an entry that it failed to save. The next full read would then find the previous run's
    time, and tasks that were sent during the outage would be sent again.
    """
    from django.db import connections

    sync = scheduler.sync

    def sync_all() -> None:
        names = set(scheduler._dirty)  # noqa: SLF001  # names of unsaved entries, which nothing else tells
        sync()
        if names and connections[alias].errors_occurred:
            scheduler._dirty |= names  # noqa: SLF001  # as above

    scheduler.sync = sync_all
