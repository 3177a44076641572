"""The schedule in the application's database: django_celery_beat's entries, and our marks in a table of our own.

Django has to be set up, and django_celery_beat to be installed; :mod:`celery_fleet.database_schedule` sees to both.
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
from kombu.utils import json as kombu_json

from celery_fleet import _celery57 as adapter
from celery_fleet import database_schedule_plan as planning
from celery_fleet import described
from celery_fleet.database_schedule_plan import DEFAULTS, Mark, Row, Step
from celery_fleet.errors import FleetError, one_line
from celery_fleet.redact import redact
from celery_fleet.schedule import CRONTAB_FIELDS

TABLE = "celery_fleet_schedule"

#: The row that whoever writes has to update first: by that it has the table for itself until its transaction ends, on
#: PostgreSQL and MySQL by the row's lock, on SQLite by that of the database. No entry can have an empty name.
_LOCK = ""

#: Celery's options of an entry that django_celery_beat has a column for.
OPTIONS = frozenset(
    {"queue", "exchange", "routing_key", "priority", "headers", "expires", "expire_seconds"}
)

#: Microseconds of django_celery_beat's periods, the longest first.
_PERIODS = (
    (IntervalSchedule.DAYS, 86_400_000_000),
    (IntervalSchedule.HOURS, 3_600_000_000),
    (IntervalSchedule.MINUTES, 60_000_000),
    (IntervalSchedule.SECONDS, 1_000_000),
    (IntervalSchedule.MICROSECONDS, 1),
)

#: The largest number in an IntegerField, on every database.
_LARGEST = 2**31 - 1


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


def in_periods(microseconds: int) -> tuple[int, str]:
    """An interval in the longest of django_celery_beat's periods that it is a multiple of."""
    period, size = next(one for one in _PERIODS if microseconds % one[1] == 0)
    return microseconds // size, period


# --- contents ---


def content_of(row: Any) -> dict[str, Any]:
    """What an entry of the database says."""
    return {
        "name": row.name,
        "enabled": row.enabled,
        "task": row.task,
        "schedule": _time_of(row),
        "queue": row.queue or None,
        "args": _json(row.args, []),
        "kwargs": _json(row.kwargs, {}),
        "exchange": row.exchange or None,
        "routing_key": row.routing_key or None,
        "priority": row.priority,
        "headers": _json(row.headers, {}),
        "expire_seconds": row.expire_seconds,
        "expires": _moment(row.expires),
        "start_time": _moment(row.start_time),
        "one_off": row.one_off,
    }


def _json(text: str | None, empty: Any) -> Any:
    try:
        return json.loads(text or "null") or empty
    except ValueError:
        return text  # beat would log it and go on; it differs from all that is declared


def _moment(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()


def _time_of(row: Any) -> dict[str, Any]:
    if row.crontab is not None:
        fields = {name: str(getattr(row.crontab, name)).replace(" ", "") for name in CRONTAB_FIELDS}
        return {"crontab": {**fields, "timezone": str(row.crontab.timezone)}}
    if row.interval is not None:
        every = timedelta(**{row.interval.period: row.interval.every})
        return {"interval": every // timedelta(microseconds=1)}
    if row.solar is not None:
        sun = row.solar
        return {
            "solar": {
                "event": sun.event,
                "latitude": float(sun.latitude),
                "longitude": float(sun.longitude),
            }
        }
    if row.clocked is not None:
        return {"clocked": _moment(row.clocked.clocked_time)}
    return {}


def content_for(app: Any, name: str, raw: Any, *, enabled: bool = True) -> dict[str, Any]:
    """The same of a declared entry.

    Args:
        app: The application.
        name: Of the entry.
        raw: The entry as Celery's ``beat_schedule`` has it.
        enabled: Whether it is to be on.

    Raises:
        FleetError: The database can't hold it.
    """
    try:
        made = adapter.beat_entry(app, name, raw)
    except Exception as error:
        raise FleetError(f"beat can't use it: {one_line(error)}") from error
    content = {
        **DEFAULTS,
        "name": _short(name, PeriodicTask, "name"),
        "task": _short(str(made.task), PeriodicTask, "task"),
        "enabled": enabled,
        "schedule": _time_for(app, made.schedule),
        "args": _plain("args", list(made.args or ())),
        "kwargs": _plain("kwargs", dict(made.kwargs or {})),
    }
    options = dict(made.options or {})
    unknown = sorted(set(options) - OPTIONS)
    if unknown:
        raise FleetError(
            f"the database has no place for its option {', '.join(unknown)}: it takes {', '.join(sorted(OPTIONS))}"
        )
    for field in ("queue", "exchange", "routing_key"):
        if options.get(field) is not None:
            value = options[field]
            content[field] = _short(str(getattr(value, "name", value)), PeriodicTask, field)
    if options.get("priority") is not None:
        content["priority"] = int(options["priority"])
    content["headers"] = _plain("headers", dict(options.get("headers") or {}))
    content["expire_seconds"] = _seconds(options)
    return content


def _seconds(options: Mapping[str, Any]) -> int | None:
    given = options.get("expires", options.get("expire_seconds"))
    if given is None:
        return None
    if isinstance(given, timedelta):
        given = given.total_seconds()
    if isinstance(given, bool) or not isinstance(given, (int, float)) or given != int(given):
        raise FleetError("its expires has to be a whole number of seconds in the database")
    return int(given)


def _plain(field: str, value: Any) -> Any:
    """As it will stand in the database: Celery's own JSON."""
    try:
        return json.loads(kombu_json.dumps(value))  # type: ignore[no-untyped-call]  # typed in part only
    except Exception as error:
        raise FleetError(f"its {field} can't be written as JSON ({one_line(error)})") from error


def _short(text: str, model: Any, field: str) -> str:
    longest = model._meta.get_field(field).max_length  # noqa: SLF001  # documented by Django
    if longest is not None and len(text) > longest:
        raise FleetError(f"its {field} has {len(text)} characters, the database takes {longest}")
    return text


def _time_for(app: Any, schedule: Any) -> dict[str, Any]:
    spec = described.spec(schedule)
    if "crontab" in spec:
        fields = {
            name: _short(text.replace(" ", ""), CrontabSchedule, name)
            for name, text in spec["crontab"].items()
        }
        return {"crontab": {**fields, "timezone": str(app.timezone)}}
    if "interval" in spec and not spec.get("relative"):
        microseconds = round(spec["interval"] * 1e6)
        if microseconds < 1 or in_periods(microseconds)[0] > _LARGEST:
            raise FleetError(f"the database can't hold an interval of {spec['interval']:g} s")
        return {"interval": microseconds}
    if "solar" in spec:
        sun = spec["solar"]
        place = {name: round(sun[name], 6) for name in ("latitude", "longitude")}
        return {"solar": {"event": sun["event"], **place}}
    raise FleetError(
        f"the database can't hold its time ({spec.get('custom') or 'a relative interval'}): it holds crontab,"
        " interval and solar"
    )


# --- due times ---


def due(app: Any, row: Any, count: int, start: datetime) -> list[datetime]:
    """The next due times of an entry in UTC, by the schedule that django_celery_beat makes of it.

    Args:
        app: The application.
        row: The entry.
        count: How many.
        start: From when on; with a zone.
    """
    from celery.utils.time import maybe_make_aware

    from celery_fleet.due import times

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
