"""Convert schedule entries to and from the columns of django_celery_beat."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django_celery_beat.models import (
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
)
from kombu.utils import json as kombu_json

from celery_fleet.beat import described
from celery_fleet.beat.database.plan import DEFAULTS
from celery_fleet.common.errors import FleetError, one_line
from celery_fleet.compat import beat
from celery_fleet.config.entries import CRONTAB_FIELDS

#: Celery's options of an entry for which django_celery_beat has a column.
OPTIONS = frozenset(
    {"queue", "exchange", "routing_key", "priority", "headers", "expires", "expire_seconds"}
)

#: The periods of django_celery_beat and their microseconds, longest first.
_PERIODS = (
    (IntervalSchedule.DAYS, 86_400_000_000),
    (IntervalSchedule.HOURS, 3_600_000_000),
    (IntervalSchedule.MINUTES, 60_000_000),
    (IntervalSchedule.SECONDS, 1_000_000),
    (IntervalSchedule.MICROSECONDS, 1),
)

#: The largest number in an IntegerField, on every database.
_LARGEST = 2**31 - 1


def in_periods(microseconds: int) -> tuple[int, str]:
    """Return an interval as a multiple of the longest of django_celery_beat's periods that divides it."""
    period, size = next(one for one in _PERIODS if microseconds % one[1] == 0)
    return microseconds // size, period


def accept_unknown_zones() -> None:
    """Read a zone that this host does not know as its name; otherwise no row could be read. Repeatable."""
    field = CrontabSchedule._meta.get_field("timezone")  # noqa: SLF001  # documented by Django
    stock = type(field).to_python

    def read(value: Any, *_: Any) -> Any:
        try:
            return stock(field, value)
        except ValidationError:
            return value

    field.from_db_value = field.to_python = read


def check(row: Any) -> None:
    """Check what `accept_unknown_zones` and the forms of Django's admin accept, although beat can't use it.

    Raises:
        ValueError: The row has such a zone, or such headers.
    """
    if row.crontab is not None and isinstance(row.crontab.timezone, str):
        raise ValueError(f"this host does not know the time zone {row.crontab.timezone}")
    headers: Any = None
    with suppress(ValueError):
        headers = json.loads(row.headers or "{}")
    if not isinstance(headers, dict):
        raise ValueError("its headers are not a JSON object")


def content_of(row: Any) -> dict[str, Any]:
    """Return the content of an entry in the database."""
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
        return text  # beat would log the error and continue; no declared entry has this value


def _moment(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()


def _time_of(row: Any) -> dict[str, Any]:
    if row.crontab is not None:
        fields = {name: str(getattr(row.crontab, name)).replace(" ", "") for name in CRONTAB_FIELDS}
        return {"crontab": {**fields, "timezone": str(row.crontab.timezone)}}
    if row.interval is not None:
        # A timedelta can't hold every interval that a user may enter.
        period = timedelta(**{row.interval.period: 1}) // timedelta(microseconds=1)
        return {"interval": row.interval.every * period}
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
    """Return the content of a declared entry.

    Args:
        app: The application.
        name: The entry's name.
        raw: The entry as in Celery's ``beat_schedule``.
        enabled: Whether it should run.

    Raises:
        FleetError: The database can't hold it.
    """
    try:
        made = beat.beat_entry(app, name, raw)
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
            f"the database has no column for its option {', '.join(unknown)}: it has {', '.join(sorted(OPTIONS))}"
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
        raise FleetError("its expires must be a whole number of seconds in the database")
    return int(given)


def _plain(field: str, value: Any) -> Any:
    """Return the value as the database will have it, through Celery's own JSON."""
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
