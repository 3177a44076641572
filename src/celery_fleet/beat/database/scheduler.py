"""A beat whose schedule is in the application's database: it writes none of it, and outlives the database's absence.

django_celery_beat's scheduler reads the whole schedule when it starts and every 5 minutes, and dies where the database
does not answer just then; systemd would start it again and again, each time to die. So beat waits before its start, and
a look at the schedule that fails ends neither beat nor the schedule that it knows.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from celery_fleet.common.errors import FleetError, one_line, refuse
from celery_fleet.common.redact import redact
from celery_fleet.config.pins import PinnedSchedule
from celery_fleet.supervision import broker
from celery_fleet.supervision.notify import Notifier

logger = logging.getLogger("celery_fleet.beat")

#: Seconds between two questions before the start.
PAUSE = 2.0

#: Seconds until the whole schedule is read again where that failed.
AGAIN = 30.0

#: How such an outage is called in statuses and logs.
NAME = "the schedule's database"


def prepare(app: Any, notifier: Notifier, pause: float = PAUSE) -> None:
    """Before the scheduler is made: take the declared entries out of its sight, and wait for the database.

    Raises:
        SystemExit: The application has no schedule in a database.
    """
    from celery_fleet.beat.database import available

    trouble = available.missing()
    if trouble:
        refuse(FleetError(f"celery_beat_scheduler is database, but {trouble}"), os.environ)
    schedule = app.conf.beat_schedule
    if isinstance(schedule, PinnedSchedule):
        # The scheduler would write them at each start, over what users have edited.
        schedule.withhold()
    hold_all()
    asked = question()
    said = False
    while (why := asked.ask()) is not None:
        notifier.status(f"waiting for {why}")
        if not said:
            # Logging is not set up yet.
            print(f"celery_fleet: waiting for {why}", file=sys.stderr, flush=True)
            said = True
        time.sleep(pause)


def hold_all() -> None:
    """Have the scheduler hold every entry that is on.

    Since 2.8 django_celery_beat's leaves out what is not due within two hours or so: beat's status, the table at the
    end of a run and `celery-fleet status` would show a part of the schedule for the whole.
    """
    from django_celery_beat.schedulers import DatabaseScheduler

    DatabaseScheduler.enabled_models = lambda self: list(self.Model.objects.enabled())


def question() -> broker.Question:
    """The question whether the database answers, put by a thread with a connection of its own, in bounded time."""
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
        # Of this thread, which ends.
        connections[alias].close()
    return None


def described(error: BaseException) -> str:
    """What an error of the database says, in one line without its password."""
    from django.db import connections

    secrets = [str(one.settings_dict.get("PASSWORD") or "") for one in connections.all()]
    return f"{NAME}: {redact(one_line(error) or type(error).__name__, secrets)}"


def guard(service: Any, tell: Callable[[str | None], None]) -> None:
    """Have a scheduler go on with what it knows while its database gives errors.

    Args:
        service: Beat's.
        tell: Takes what the trouble is at each tick, and None where there is none.
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
            # It has had its 5 minutes' read for now; until the next try it sends what it knows to be due.
            late = schedulers.SCHEDULE_SYNC_MAX_INTERVAL - AGAIN
            scheduler._last_full_sync = datetime.now() - timedelta(seconds=late)  # noqa: SLF001  # no other word for it
            return 1.0
        # Where it only asks whether something has changed, the scheduler logs the error itself and goes on.
        tell(f"{NAME}, which gives errors" if connections[alias].errors_occurred else None)
        return result

    scheduler.tick = guarded
    scheduler.Entry.save = _save_own
    _keep_unsaved(scheduler, alias)


def _save_own(entry: Any) -> None:
    """Save what beat itself says of an entry, and nothing else of its row.

    django_celery_beat reads the row and saves the whole of it: what somebody has written between the two, a user or the
    synchronisation, would be undone, and an entry that was deleted would be there again.
    """
    own = {field: getattr(entry.model, field) for field in ("last_run_at", "total_run_count")}
    rows = type(entry.model)._default_manager.filter(pk=entry.model.pk)  # noqa: SLF001  # documented by Django
    if not rows.filter(enabled=True).update(**own):
        # As its model has it of one that is switched off: it must not be overdue when it is switched on again.
        rows.update(**{**own, "last_run_at": None})


def _keep_unsaved(scheduler: Any, alias: str) -> None:
    """Have what could not be saved be saved later.

    django_celery_beat forgets the entry whose saving failed: its next full read would find the run of before, and what
    was sent while the database was away would be sent again.
    """
    from django.db import connections

    sync = scheduler.sync

    def sync_all() -> None:
        names = set(scheduler._dirty)  # noqa: SLF001  # those to be saved, which nothing else tells
        sync()
        if names and connections[alias].errors_occurred:
            scheduler._dirty |= names  # noqa: SLF001  # as above

    scheduler.sync = sync_all
