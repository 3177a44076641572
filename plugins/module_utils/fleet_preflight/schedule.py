"""Entries of beat's schedule."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from . import crontab
from .model import UNKNOWN, Model, Problem, Severity, as_mapping, as_number, dotted
from .values import kind_of, no_mapping, suggestion, unknown_keys

Path = tuple[object, ...]

# How like a zone's name another has to be to be taken for it.
_LIKE_A_ZONE: Final = 0.75
_KINDS: Final = ("crontab", "interval", "solar")
_KEYS: Final = (*_KINDS, "task", "args", "kwargs", "queue", "options", "enabled")
_SOLAR_EVENTS: Final = (
    "dawn_astronomical",
    "dawn_nautical",
    "dawn_civil",
    "sunrise",
    "solar_noon",
    "sunset",
    "dusk_civil",
    "dusk_nautical",
    "dusk_astronomical",
)


# What django_celery_beat's tables hold: characters of a column, and the largest number of one.
_WIDTHS: Final = {
    "minute": 240,
    "hour": 96,
    "day_of_month": 124,
    "month_of_year": 64,
    "day_of_week": 64,
}
_WIDTH: Final = 200
_LARGEST: Final = 2**31 - 1
# Seconds: a thousand years.
_LONGEST: Final = 1000 * 366 * 86_400
_PERIODS: Final = (86_400_000_000, 3_600_000_000, 60_000_000, 1_000_000, 1)
_OPTIONS: Final = ("exchange", "expires", "headers", "priority", "queue", "routing_key")
# Options of apply_async (celery.app.task and celery.app.amqp, read at 5.7.0) that an inventory can write.
_TAKEN: Final = (
    *_OPTIONS,
    *(
        "compression",
        "countdown",
        "delivery_mode",
        "eta",
        "exchange_type",
        "ignore_result",
        "retry",
        "retry_policy",
    ),
    *(
        "reply_to",
        "serializer",
        "shadow",
        "soft_time_limit",
        "stamped_headers",
        "task_id",
        "time_limit",
        "argsrepr",
    ),
    *(
        "kwargsrepr",
        "mandatory",
        "immediate",
        "content_type",
        "content_encoding",
        "expiration",
        "correlation_id",
    ),
    *(
        "link",
        "link_error",
        "add_to_parent",
        "group_id",
        "root_id",
        "parent_id",
        "replaced_task_nesting",
    ),
)
# Celery's settings that a schedule in a database leaves no meaning.
_FOREIGN: Final = ("beat_scheduler", "beat_schedule_filename")


def check_scheduler(model: Model) -> Iterator[Problem]:
    """The scheduler itself: of two kinds."""
    for value, hosts in model.distinct("celery_beat_scheduler"):
        if isinstance(value, str) and value not in ("persistent", "database"):
            yield Problem(
                "celery_beat_scheduler",
                "is not supported yet",
                "write persistent or database, or remove it",
                value=model.show(("celery_beat_scheduler",), value),
                hosts=hosts,
            )


def check_database(model: Model) -> Iterator[Problem]:
    """What goes with a schedule in a database alone, and what such a one has no place for."""
    for host in model.members("celery_beat"):
        scheduler = model.value(host, "celery_beat_scheduler")
        if scheduler != "database" and model.value(host, "celery_beat_schedule_edited") == "reset":
            yield Problem(
                "celery_beat_schedule_edited",
                "is reset, while celery_beat_scheduler is persistent, whose schedule nobody can edit",
                "remove it, or set celery_beat_scheduler: database",
                hosts=(host,),
            )
        if scheduler != "database":
            continue
        seconds = as_number(model.value(host, "celery_beat_schedule_timeout"))
        if seconds is not None and seconds < 1:
            yield Problem(
                "celery_beat_schedule_timeout",
                "is no time in which a database could answer",
                "write 1 or more, in seconds; 60 is the default",
                value=model.show(("celery_beat_schedule_timeout",), seconds),
                hosts=(host,),
            )
        for name in as_mapping(model.value(host, "celery_app_settings")):
            if name in _FOREIGN:
                yield Problem(
                    dotted(("celery_app_settings", name)),
                    "has no meaning where celery_beat_scheduler is database",
                    "remove it; entries are declared in celery_beat_schedule",
                    hosts=(host,),
                )
        for name, entry in as_mapping(model.value(host, "celery_beat_schedule")).items():
            if isinstance(entry, Mapping):
                for problem in _held(("celery_beat_schedule", name), as_mapping(entry)):
                    yield replace(problem, hosts=(host,))


def _held(path: Path, entry: Mapping[str, object]) -> Iterator[Problem]:
    """What the database has no place for; what is no entry at all is another check's."""
    texts: list[tuple[Path, object, int]] = [
        (path, path[-1], _WIDTH),
        *(((*path, key), entry.get(key), _WIDTH) for key in ("task", "queue")),
        *(
            ((*path, "crontab", field), text, _WIDTHS[field])
            for field, text in as_mapping(entry.get("crontab")).items()
            if field in _WIDTHS
        ),
    ]
    for where, text, width in texts:
        if isinstance(text, (str, int)) and len(str(text)) > width:
            yield Problem(
                dotted(where),
                f"has {len(str(text))} characters, and the database takes {width}",
                "make it shorter, or set celery_beat_scheduler: persistent",
            )
    interval = as_number(entry.get("interval"))
    if interval is not None and interval > 0:
        microseconds = round(interval * 1e6)
        size = next(size for size in _PERIODS if microseconds % size == 0)
        if microseconds == 0 or microseconds // size > _LARGEST:
            yield Problem(
                dotted((*path, "interval")),
                "is an interval that the database has no place for",
                "round it to seconds, minutes, hours or days",
            )
    options = as_mapping(entry.get("options"))
    for key in options:
        if key not in _OPTIONS:
            yield Problem(
                dotted((*path, "options", key)),
                "is an option that the database has no place for",
                f"remove it (there are {', '.join(_OPTIONS)}), or set it on the task",
            )
    expires = options.get("expires")
    if expires not in (None, UNKNOWN) and (
        isinstance(expires, bool) or not isinstance(expires, int)
    ):
        yield Problem(
            dotted((*path, "options", "expires")),
            "is no whole number of seconds, which the database wants",
            "write the seconds as a number",
        )


def check_policy(model: Model) -> Iterator[Problem]:
    """An inventory whose policy leaves the schedule to the code has none of its own."""
    for host in model.members("celery_beat") or tuple(model.hosts):
        entries = as_mapping(model.value(host, "celery_beat_schedule"))
        if model.value(host, "celery_beat_schedule_policy") == "refuse" and entries:
            yield Problem(
                "celery_beat_schedule",
                f"has {', '.join(entries)}, while celery_beat_schedule_policy is refuse, by which the schedule in"
                " the application's code is the whole",
                "remove the entries, or set celery_beat_schedule_policy: add",
                hosts=(host,),
            )


def check_zone(model: Model) -> Iterator[Problem]:
    """The zone of the schedule, where the inventory sets it, is one that exists."""
    for value, hosts in model.distinct("celery_app_settings"):
        settings = as_mapping(value)
        if settings.get("task_always_eager") is True:
            yield Problem(
                "celery_app_settings.task_always_eager",
                "is on, so that tasks would run within whoever calls them and no worker would ever get one",
                "remove it; it is for a developer's machine",
                hosts=hosts,
            )
        if settings.get("beat_enable_remote_control") is True:
            yield Problem(
                "celery_app_settings.beat_enable_remote_control",
                "is on, while beat's user in Redis may not have a mailbox, so that beat would log an error every 5 s",
                "remove it; systemd's watchdog and `celery-fleet status` tell whether beat is alive",
                hosts=hosts,
            )
        zone = settings.get("timezone")
        known = zoneinfo.available_timezones() if isinstance(zone, str) else set()
        # Without a database of zones nothing can be told here; the release's check tells it then.
        if isinstance(zone, str) and known and zone not in known:
            yield Problem(
                "celery_app_settings.timezone",
                "is no time zone",
                # Abbreviations and offsets look like one another, and mean something else.
                suggestion(zone, tuple(name for name in known if "/" in name), _LIKE_A_ZONE)
                or "write UTC or a city's zone, such as Europe/Berlin; offsets and abbreviations are none",
                value=model.show(("celery_app_settings", "timezone"), zone),
                hosts=hosts,
            )


def check_schedule(model: Model) -> Iterator[Problem]:
    """Each entry has a task and exactly one kind of time, well-formed."""
    for value, hosts in model.distinct("celery_beat_schedule"):
        for name, entry in as_mapping(value).items():
            if entry is UNKNOWN:
                continue
            path = ("celery_beat_schedule", name)
            for problem in _entry(model, path, entry):
                yield replace(problem, hosts=hosts)


def _entry(model: Model, path: Path, entry: object) -> Iterator[Problem]:
    name = str(path[-1])
    if not name.strip() or not name.isprintable():
        yield Problem(
            dotted(path),
            "has a name that can't be shown in logs",
            "give the entry a printable name",
        )
    if not isinstance(entry, Mapping):
        example = "{task: app.tasks.clean, crontab: {minute: 0, hour: 2}}"
        yield no_mapping(model, path, entry, f"write it as in {example}")
        return
    body = as_mapping(entry)
    if dict(body) == {"enabled": False}:
        return  # switches off an entry of the code, which has the rest
    yield from unknown_keys(path, body, _KEYS)
    yield from _task(model, path, body)
    times = [key for key in _KINDS if key in body]
    if len(times) != 1:
        yield Problem(
            dotted(path),
            "has no time at which it is due"
            if not times
            else f"has more than one time ({', '.join(times)})",
            "give it exactly one of crontab, interval and solar",
        )
    for key, check in (("crontab", _crontab), ("interval", _interval), ("solar", _solar)):
        if key in body and body[key] is not UNKNOWN:
            yield from check(model, (*path, key), body[key])
    for key, kind in (("args", list), ("kwargs", dict), ("options", dict), ("enabled", bool)):
        value = body.get(key, UNKNOWN)
        if value is not UNKNOWN and not isinstance(value, kind):
            yield Problem(
                dotted((*path, key)),
                f"is {kind_of(value)} where {kind_of(kind())} is wanted",
                "write it as such, or remove it",
                value=model.show((*path, key), value),
            )
    for key in as_mapping(body.get("options")):
        near = "" if key in _TAKEN else suggestion(key, _TAKEN, cutoff=0.75)
        # Any other one travels as a property of the message, as its author may want.
        if near:
            yield Problem(
                dotted((*path, "options", key)),
                "is no option that Celery knows",
                near,
            )
    queue = body.get("queue", UNKNOWN)
    if queue is not UNKNOWN and (not isinstance(queue, str) or not queue):
        yield Problem(
            dotted((*path, "queue")),
            f"is {'empty' if queue == '' else kind_of(queue)} where the name of a queue is wanted",
            "write the queue's name, or remove it to let the routes decide",
            value=model.show((*path, "queue"), queue),
        )


def _task(model: Model, path: Path, body: Mapping[str, object]) -> Iterator[Problem]:
    task = body.get("task")
    if "task" not in body:
        yield Problem(dotted((*path, "task")), "is not set", "name the task, as in app.tasks.clean")
    elif task is not UNKNOWN and (
        not isinstance(task, str)
        or not task
        or not task.isprintable()
        or any(c.isspace() for c in task)
    ):
        yield Problem(
            dotted((*path, "task")),
            "is no task's name",
            "name the task as Celery registers it, as in app.tasks.clean",
            value=model.show((*path, "task"), task),
        )


def _crontab(model: Model, path: Path, value: object) -> Iterator[Problem]:
    if not isinstance(value, Mapping):
        yield Problem(
            dotted(path),
            f"is {kind_of(value)} where a mapping of fields is wanted",
            f"write {_as_mapping_of_fields(value)}",
            value=model.show(path, value),
        )
        return
    fields = as_mapping(value)
    parsed: dict[str, frozenset[int]] = {}
    for name, text in fields.items():
        if name not in crontab.FIELDS:
            known = tuple(crontab.FIELDS)
            yield Problem(
                dotted((*path, name)),
                "is no field of a crontab",
                suggestion(name, known) or f"fields are {', '.join(known)}",
                value=model.show((*path, name), text),
            )
            continue
        if text is UNKNOWN:
            continue
        if isinstance(text, bool) or not isinstance(text, (int, str)):
            yield Problem(
                dotted((*path, name)),
                f"is {kind_of(text)} where a number or a string is wanted",
                "write a number, or a string such as '*/15', '1,15' or '9-17'",
                value=model.show((*path, name), text),
            )
            continue
        try:
            parsed[name] = crontab.parse(name, str(text))
        except ValueError as reason:
            yield Problem(
                dotted((*path, name)),
                str(reason),
                _field_remedy(name),
                value=model.show((*path, name), text),
            )
            continue
        if isinstance(text, str) and text.startswith("*/") and len(parsed[name]) == 1:
            yield Problem(
                dotted((*path, name)),
                f"has a step beyond the field, so it is the same as {min(parsed[name])}",
                f"write {min(parsed[name])} if that is meant; for other times, use interval",
                value=model.show((*path, name), text),
                severity=Severity.WARNING,
            )
    if (
        "day_of_month" in parsed
        and "month_of_year" in parsed
        and crontab.never_due(parsed["day_of_month"], parsed["month_of_year"])
    ):
        yield Problem(
            dotted(path),
            "is never due: none of its months has such a day",
            "change day_of_month or month_of_year",
            value=model.show(path, value),
        )
    if "minute" not in fields and len(parsed) == len(fields):
        yield Problem(
            dotted((*path, "minute")),
            "is not set, so the entry is due in every minute of each of its hours",
            "write minute: 0 if once an hour is meant, or minute: '*' if every minute is",
            severity=Severity.WARNING,
        )


def _as_mapping_of_fields(value: object) -> str:
    """Return the mapping that five fields of a crontab's line stand for, or else an example."""
    words = str(value).split() if isinstance(value, str) else ()
    # A crontab's line has them in this order, and has `*` where nothing has to be said.
    line = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
    if len(words) != len(line):
        return 'it as in {minute: 0, hour: "*/6"}'
    try:
        for name, word in zip(line, words, strict=True):
            crontab.parse(name, word)
    except ValueError:
        return 'it as in {minute: 0, hour: "*/6"}'
    fields = [
        f"{name}: {word}" if word.isdigit() else f'{name}: "{word}"'
        for name, word in zip(line, words, strict=True)
        if word != "*" or name == "minute"
    ]
    return f"{{{', '.join(fields)}}}"


def _field_remedy(name: str) -> str:
    limits = crontab.FIELDS[name]
    names = f" or names such as {limits.names[1]}" if limits.names else ""
    sunday = "; Sunday is 0" if name == "day_of_week" else ""
    return (
        f"use numbers from {limits.low} to {limits.high}{names}, '*', ranges (1-5), "
        f"lists (1,15) and steps (*/15){sunday}"
    )


def _interval(model: Model, path: Path, value: object) -> Iterator[Problem]:
    number = None if isinstance(value, str) else as_number(value)
    if number is None or number <= 0:
        yield Problem(
            dotted(path),
            "is no number of seconds above 0",
            "write the seconds as a number, without quotes or a unit",
            value=model.show(path, value),
        )
    elif number > _LONGEST:
        yield Problem(
            dotted(path),
            "is longer than Python can add to a date",
            "write fewer seconds; a year has 31536000",
            value=model.show(path, value),
        )


def _solar(model: Model, path: Path, value: object) -> Iterator[Problem]:
    if not isinstance(value, Mapping):
        example = "{event: sunset, latitude: 48.2, longitude: 16.37}"
        yield no_mapping(model, path, value, f"write it as in {example}")
        return
    fields = as_mapping(value)
    for key in fields:
        if key not in ("event", "latitude", "longitude"):
            yield Problem(
                dotted((*path, key)),
                "is no key of a solar time",
                suggestion(key, ("event", "latitude", "longitude"))
                or "keys are event, latitude and longitude",
            )
    event = fields.get("event")
    if event is not UNKNOWN and event not in _SOLAR_EVENTS:
        near = suggestion(event, _SOLAR_EVENTS) if isinstance(event, str) else ""
        yield Problem(
            dotted((*path, "event")),
            "is no event of the sun that Celery knows",
            " ".join(part for part in (near, f"events are {', '.join(_SOLAR_EVENTS)}") if part),
            value=model.show((*path, "event"), event),
        )
    for key, limit in (("latitude", 90), ("longitude", 180)):
        angle = fields.get(key)
        number = None if isinstance(angle, str) else as_number(angle)
        if angle is not UNKNOWN and (number is None or abs(number) > limit):
            yield Problem(
                dotted((*path, key)),
                f"is no number from -{limit} to {limit}",
                "write degrees as a number, without quotes",
                value=model.show((*path, key), angle),
            )
