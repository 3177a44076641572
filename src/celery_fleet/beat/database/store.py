"""The schedule in the application's database: django_celery_beat's entries, and our marks in a table of our own.

Django has to be set up, and django_celery_beat to be installed; :mod:`celery_fleet.beat.database.program` sees to both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from django.apps.registry import Apps
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connections, models, router, transaction
from django.db.utils import DatabaseError
from django_celery_beat.models import (
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    PeriodicTasks,
    SolarSchedule,
)

from celery_fleet.beat.database import plan as planning
from celery_fleet.beat.database.content import in_periods
from celery_fleet.beat.database.plan import Mark, Row, Step
from celery_fleet.common.errors import FleetError, one_line
from celery_fleet.common.redact import redact

TABLE = "celery_fleet_schedule"

#: The row that whoever writes has to update first: by that it has the table for itself until its transaction ends, on
#: PostgreSQL and MySQL by the row's lock, on SQLite by that of the database. No entry can have an empty name.
_LOCK = ""


class ScheduleMark(models.Model):  # type: ignore[misc]  # Django ships no types
    """What we wrote of one entry. In no application's migrations: we make the table ourselves."""

    name = models.CharField(max_length=200, primary_key=True)
    #: The entry's key, also of one that a user has deleted.
    entry = models.BigIntegerField()
    written = models.TextField()

    class Meta:
        """A registry of its own, so that the application's does not know it."""

        apps = Apps()
        app_label = "celery_fleet"
        db_table = TABLE

    def __str__(self) -> str:
        return str(self.name)


class Store:
    """Entries and marks of one database."""

    def __init__(self) -> None:
        self.alias = router.db_for_write(PeriodicTask)
        self.connection = connections[self.alias]

    # --- looking ---

    def tables(self) -> set[str]:
        """Names of the tables that are there.

        Raises:
            FleetError: The database can't be asked, or django_celery_beat's tables are not there.
        """
        with self.errors("asked"):
            found = set(self.connection.introspection.table_names())
        entries = PeriodicTask._meta.db_table  # noqa: SLF001  # documented by Django
        if entries not in found:
            raise FleetError(
                f"the database has no table {entries}: migrate it, for example by"
                " {name: migrate, argv: [python, manage.py, migrate, --noinput]} in celery_release_commands"
            )
        return found

    def marks(self) -> list[Mark]:
        """All marks; none where nothing was written yet."""
        if TABLE not in self.tables():
            return []
        with self.errors("asked"):
            return [
                Mark(found.name, found.entry, json.loads(found.written))
                for found in self._marks().exclude(name=_LOCK)
            ]

    def rows(self) -> dict[int, Any]:
        """All entries by their keys, as django_celery_beat has them."""
        with self.errors("asked"):
            schedules = ("interval", "crontab", "solar", "clocked")
            found = PeriodicTask.objects.using(self.alias).select_related(*schedules)
            return {row.pk: row for row in found.order_by("name")}

    def _marks(self) -> Any:
        return ScheduleMark.objects.using(self.alias)

    @contextmanager
    def errors(self, done: str) -> Iterator[None]:
        """Tell the database's errors in a line.

        Raises:
            FleetError: In place of Django's.
        """
        try:
            yield
        except IntegrityError as error:
            raise FleetError(
                f"the schedule can't be {done}: {self._words(error)}; somebody changed it at this moment: run"
                " the same command again"
            ) from error
        except DatabaseError as error:
            raise FleetError(
                f"the database can't be {done} ({self._words(error)}); check that it runs, and the application's"
                " settings of it"
            ) from error

    def _words(self, error: BaseException) -> str:
        secret = str(self.connection.settings_dict.get("PASSWORD") or "")
        return redact(one_line(error) or type(error).__name__, [secret])

    # --- writing ---

    def make_table(self) -> None:
        """Make our table where it is missing; by two at once as well.

        Raises:
            FleetError: It can't be made; with what a database administrator has to type.
        """
        if TABLE not in self.tables():
            try:
                with self.connection.schema_editor() as editor:
                    editor.create_model(ScheduleMark)
            except DatabaseError as error:
                # Another run may have been quicker.
                if TABLE not in self.tables():
                    with self.connection.schema_editor(collect_sql=True) as editor:
                        editor.create_model(ScheduleMark)
                    raise FleetError(
                        f"the table {TABLE} can't be made ({self._words(error)}); let the application's user of the"
                        f" database make it, or make it yourself: {' '.join(editor.collected_sql)}"
                    ) from error
        with self.errors("written"):
            self._marks().get_or_create(name=_LOCK, defaults={"entry": 0, "written": "{}"})

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One transaction, which no other run's meets; entries of ours stay as they are meanwhile."""
        self.make_table()
        with self.errors("written"), transaction.atomic(using=self.alias):
            self._marks().filter(name=_LOCK).update(entry=models.F("entry") + 1)
            ours = PeriodicTask.objects.using(self.alias).filter(
                pk__in=list(self._marks().exclude(name=_LOCK).values_list("entry", flat=True))
            )
            # Evaluated for the lock alone, and without joins, which not every database can lock a part of.
            list(ours.select_for_update().values_list("pk"))
            yield

    def take(self, steps: list[Step], rows: Mapping[int, Any]) -> None:
        """Do what the steps say; within :meth:`alone`.

        Raises:
            FleetError: django_celery_beat refuses an entry.
        """
        # Names first become free, where one entry takes that of another.
        order = {planning.REMOVE: 0, planning.CHANGE: 1, planning.ADD: 2}
        for step in sorted(steps, key=lambda step: order.get(step.action, 3)):
            try:
                self._take(step, rows)
            except ValidationError as error:
                words = one_line("; ".join(error.messages))
                raise FleetError(
                    f"schedule entry {step.name}: the database's model refuses it: {words}"
                ) from error
        if any(step.touches for step in steps):
            # A running beat looks at this alone, at each of its looks at the schedule.
            PeriodicTasks.update_changed()

    def _take(self, step: Step, rows: Mapping[int, Any]) -> None:
        marks = self._marks().filter(name=step.name)
        if step.action == planning.REMOVE and step.row is not None:
            rows[step.row.key].delete(using=self.alias)
        if step.action in (planning.REMOVE, planning.FORGET):
            marks.delete()
        if step.wanted is None or step.action not in (
            planning.ADD,
            planning.CHANGE,
            planning.MARK,
        ):
            return
        row = PeriodicTask() if step.row is None else rows[step.row.key]
        if step.action == planning.ADD:
            row.description = "Declared in the fleet's inventory or in the application's code."
        if step.action != planning.MARK:
            self._write(row, step.wanted, before=step.row)
        self._marks().update_or_create(
            name=step.name,
            defaults={"entry": row.pk, "written": json.dumps(dict(step.wanted), sort_keys=True)},
        )

    def _write(self, row: Any, wanted: Mapping[str, Any], before: Row | None) -> None:
        for field in planning.FIELDS:
            if field in ("args", "kwargs", "headers"):
                setattr(row, field, json.dumps(wanted[field]))
            elif field != "schedule":
                setattr(row, field, wanted[field])
        if before is None or before.content["schedule"] != wanted["schedule"]:
            for field in ("interval", "crontab", "solar", "clocked"):
                setattr(row, field, None)
            setattr(row, *self._schedule(wanted["schedule"]))
            # Else a time between the last run and now, which was none then, would be due at once.
            row.last_run_at = None
        row.save(using=self.alias)

    def _schedule(self, wanted: Mapping[str, Any]) -> tuple[str, Any]:
        """The column and the row of a time; one that is there is used again, and none is ever changed."""
        if "crontab" in wanted:
            return "crontab", self._reused(CrontabSchedule, **wanted["crontab"])
        if "interval" in wanted:
            every, period = in_periods(wanted["interval"])
            return "interval", self._reused(IntervalSchedule, every=every, period=period)
        return "solar", self._reused(SolarSchedule, **wanted["solar"])

    def _reused(self, model: Any, **fields: Any) -> Any:
        """Not get_or_create: users may have made the same row twice."""
        found = model.objects.using(self.alias).filter(**fields).order_by("pk").first()
        return found or model.objects.using(self.alias).create(**fields)

    def switch(self, steps: list[Step], rows: Mapping[int, Any], *, on: bool) -> list[str]:
        """Enable or disable entries of ours; the names of those that were otherwise."""
        done = []
        for step in steps:
            if step.row is None or step.row.content["enabled"] == on:
                continue
            row = rows[step.row.key]
            row.enabled = on
            row.save(using=self.alias)
            done.append(step.name)
        if done:
            PeriodicTasks.update_changed()
        return done


def due(app: Any, row: Any, count: int, start: datetime) -> list[datetime]:
    """The next due times of an entry in UTC, by the schedule that django_celery_beat makes of it.

    Args:
        app: The application.
        row: The entry.
        count: How many.
        start: From when on; with a zone.
    """
    from celery.utils.time import maybe_make_aware

    from celery_fleet.beat.due import times

    if not row.enabled or (row.one_off and row.total_run_count > 0):
        return []
    begin = start
    if row.start_time is not None:
        begin = max(start, maybe_make_aware(row.start_time))
    if row.clocked is not None:
        moment = maybe_make_aware(row.clocked.clocked_time).astimezone(UTC)
        return [max(moment, start.astimezone(UTC))]
    schedule = row.schedule
    zone = getattr(schedule, "tz", None) or app.timezone
    first = None
    if row.interval is not None:
        last = maybe_make_aware(row.last_run_at or row.date_changed)
        # One that is overdue is due now.
        first = max(last + schedule.run_every, begin + timedelta(microseconds=1))
    ends = None if row.expires is None else maybe_make_aware(row.expires)
    found: list[datetime] = []
    for moment in times(schedule, begin.astimezone(zone), first):
        if ends is not None and moment >= ends:
            break
        found.append(moment)
        if len(found) >= count or row.one_off:
            break
    return found
