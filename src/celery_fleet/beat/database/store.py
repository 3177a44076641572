"""Read and write django_celery_beat's entries in the application's database, and our marks in a separate table.

Django must be set up and django_celery_beat installed; :mod:`celery_fleet.beat.database.program` ensures both.
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
from celery_fleet.beat.database.content import accept_unknown_zones, in_periods
from celery_fleet.beat.database.plan import Mark, PlannedEntry, Row
from celery_fleet.common.errors import FleetError, error_text, one_line

TABLE = "celery_fleet_schedule"

#: The row that every writer updates first. This locks the table until the end of its transaction: PostgreSQL and MySQL
#: lock the row, SQLite locks the database. No entry can have an empty name.
_LOCK = ""


class ScheduleMark(models.Model):  # type: ignore[misc]  # Django ships no types
    """Records what we wrote of one entry. It is in no application's migrations: we create the table."""

    name = models.CharField(max_length=200, primary_key=True)
    #: The entry's primary key; it stays after a user has deleted the entry.
    entry = models.BigIntegerField()
    written = models.TextField()

    class Meta:
        """Uses a separate registry, so that the application's registry does not know this model."""

        apps = Apps()
        app_label = "celery_fleet"
        db_table = TABLE

    def __str__(self) -> str:
        return str(self.name)


class Store:
    """Entries and marks of one database."""

    def __init__(self) -> None:
        accept_unknown_zones()
        self.alias = router.db_for_write(PeriodicTask)
        self.connection = connections[self.alias]

    # --- looking ---

    def tables(self) -> set[str]:
        """Return the names of the existing tables.

        Raises:
            FleetError: The database can't be queried, or django_celery_beat's tables are missing.
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
        """Return all marks; none if nothing has been written yet."""
        if TABLE not in self.tables():
            return []
        with self.errors("asked"):
            return [
                Mark(found.name, found.entry, json.loads(found.written))
                for found in self._marks().exclude(name=_LOCK)
            ]

    def rows(self) -> dict[int, Any]:
        """Return all entries by their primary keys, as django_celery_beat's models."""
        with self.errors("asked"):
            schedules = ("interval", "crontab", "solar", "clocked")
            found = PeriodicTask.objects.using(self.alias).select_related(*schedules)
            return {row.pk: row for row in found.order_by("name")}

    def _marks(self) -> Any:
        return ScheduleMark.objects.using(self.alias)

    @contextmanager
    def errors(self, done: str) -> Iterator[None]:
        """Convert the database's errors to one line.

        Raises:
            FleetError: Replaces Django's error.
        """
        try:
            yield
        except IntegrityError as error:
            raise FleetError(
                f"the schedule can't be {done}: {self._words(error)}; another change came in between: run"
                " the same command again"
            ) from error
        except DatabaseError as error:
            raise FleetError(
                f"the database can't be {done} ({self._words(error)}); check that it runs, and that the application's"
                " database settings are right"
            ) from error

    def _words(self, error: BaseException) -> str:
        secret = str(self.connection.settings_dict.get("PASSWORD") or "")
        return error_text(error, [secret])

    # --- writing ---

    def make_table(self) -> None:
        """Create our table if it is missing; two runs may do so at once.

        Raises:
            FleetError: It can't be created; the text has the SQL for a database administrator.
        """
        if TABLE not in self.tables():
            try:
                with self.connection.schema_editor() as editor:
                    editor.create_model(ScheduleMark)
            except DatabaseError as error:
                # Another run may have created it first.
                if TABLE not in self.tables():
                    with self.connection.schema_editor(collect_sql=True) as editor:
                        editor.create_model(ScheduleMark)
                    raise FleetError(
                        f"the table {TABLE} can't be created ({self._words(error)}); let the application's database"
                        f" user create it, or create it yourself: {' '.join(editor.collected_sql)}"
                    ) from error
        with self.errors("written"):
            self._marks().get_or_create(name=_LOCK, defaults={"entry": 0, "written": "{}"})

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Open a transaction that excludes other runs; our entries can't change in the meantime."""
        self.make_table()
        with self.errors("written"), transaction.atomic(using=self.alias):
            self._marks().filter(name=_LOCK).update(entry=models.F("entry") + 1)
            ours = PeriodicTask.objects.using(self.alias).filter(
                pk__in=list(self._marks().exclude(name=_LOCK).values_list("entry", flat=True))
            )
            # Evaluated only for the lock, and without joins, because not every database can lock a part of a join.
            list(ours.select_for_update().values_list("pk"))
            yield

    def take(self, steps: list[PlannedEntry], rows: Mapping[int, Any]) -> None:
        """Carry out the steps; call this within :meth:`exclusive`.

        Raises:
            FleetError: django_celery_beat refuses an entry.
        """
        # Free names first, in case one entry takes the name of another.
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
            # A running beat checks only this to see whether the schedule has changed.
            PeriodicTasks.update_changed()

    def _take(self, step: PlannedEntry, rows: Mapping[int, Any]) -> None:
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
            # Otherwise a due time between the last run and now, which did not exist then, would be due at once.
            row.last_run_at = None
        row.save(using=self.alias)

    def _schedule(self, wanted: Mapping[str, Any]) -> tuple[str, Any]:
        """Return the column and the row of a time; an existing row is used again, and none is ever changed."""
        if "crontab" in wanted:
            return "crontab", self._reused(CrontabSchedule, **wanted["crontab"])
        if "interval" in wanted:
            every, period = in_periods(wanted["interval"])
            return "interval", self._reused(IntervalSchedule, every=every, period=period)
        return "solar", self._reused(SolarSchedule, **wanted["solar"])

    def _reused(self, model: Any, **fields: Any) -> Any:
        """Return the first matching row, or create one. get_or_create would fail if users made the same row twice."""
        found = model.objects.using(self.alias).filter(**fields).order_by("pk").first()
        return found or model.objects.using(self.alias).create(**fields)

    def switch(self, steps: list[PlannedEntry], rows: Mapping[int, Any], *, on: bool) -> list[str]:
        """Enable or disable our entries; return the names of those that changed."""
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
    """Return the next due times of an entry in UTC, from the schedule that django_celery_beat makes of it.

    Args:
        app: The application.
        row: The entry.
        count: The number of due times.
        start: The first moment, with a time zone.
    """
    from celery.utils.time import maybe_make_aware

    from celery_fleet.beat.slots import times

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
    if row.interval is not None and row.start_time is not None and row.last_run_at is None:
        # django_celery_beat lets an interval begin at that time, and at once if it is over.
        first = begin + timedelta(microseconds=1)
    elif row.interval is not None:
        last = maybe_make_aware(row.last_run_at or row.date_changed)
        # An overdue entry is due now.
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
