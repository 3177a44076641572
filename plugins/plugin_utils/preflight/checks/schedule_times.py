"""Checks the times of schedule entries: crontab, interval and solar event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ...desired.option import as_number
from ..model.inventory import UNKNOWN, Model, Problem, Severity, as_mapping, dotted
from . import crontab
from .values import kind_of, not_a_mapping, suggestion

Path = tuple[object, ...]

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

# Limits of django_celery_beat's tables: characters of a column, and its largest number.
CRONTAB_WIDTHS: Final = {
    "minute": 240,
    "hour": 96,
    "day_of_month": 124,
    "month_of_year": 64,
    "day_of_week": 64,
}

TEXT_WIDTH: Final = 200

LARGEST_NUMBER: Final = 2**31 - 1

# Seconds: a thousand years.
_LONGEST: Final = 1000 * 366 * 86_400

# Microseconds of a day, an hour, a minute, a second and a microsecond.
PERIODS: Final = (86_400_000_000, 3_600_000_000, 60_000_000, 1_000_000, 1)


def check_crontab(model: Model, path: Path, value: object) -> Iterator[Problem]:
    """Check that a crontab has fields, that they are known and valid, and that it is ever due."""
    if not isinstance(value, Mapping):
        yield Problem(
            dotted(path),
            f"is {kind_of(value)}, but must be a mapping of fields",
            f"write {_as_mapping_of_fields(value)}",
            value=model.show(path, value),
        )
        return
    fields = as_mapping(value)
    if not fields:
        yield Problem(
            dotted(path),
            "is empty",
            'write at least one field: {minute: 0} is once an hour, {minute: "*"} is every minute',
        )
        return
    parsed: dict[str, frozenset[int]] = {}
    for name, text in fields.items():
        if name not in crontab.FIELDS:
            known = tuple(crontab.FIELDS)
            yield Problem(
                dotted((*path, name)),
                "is not a field of a crontab",
                suggestion(name, known) or f"fields are {', '.join(known)}",
                value=model.show((*path, name), text),
            )
            continue
        if text is UNKNOWN:
            continue
        if isinstance(text, bool) or not isinstance(text, (int, str)):
            yield Problem(
                dotted((*path, name)),
                f"is {kind_of(text)}, but must be a number or a string",
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
                f"write {min(parsed[name])} if you mean that; for other times, use interval",
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
            "write minute: 0 for once an hour, or minute: '*' if you mean every minute",
            severity=Severity.WARNING,
        )


def _as_mapping_of_fields(value: object) -> str:
    """Return the mapping that means the same as a crontab's line of five fields, or else an example."""
    words = str(value).split() if isinstance(value, str) else ()
    # A crontab's line has the fields in this order, and `*` for those that may have any value.
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


def check_interval(model: Model, path: Path, value: object) -> Iterator[Problem]:
    """Check that an interval is a number of seconds that Python can add to a date."""
    number = None if isinstance(value, str) else as_number(value)
    if number is None or number <= 0:
        yield Problem(
            dotted(path),
            "is not a number of seconds above 0",
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


def check_solar(model: Model, path: Path, value: object) -> Iterator[Problem]:
    """Check that a solar time has a known event and a position on earth."""
    if not isinstance(value, Mapping):
        example = "{event: sunset, latitude: 48.2, longitude: 16.37}"
        yield not_a_mapping(model, path, value, f"write it as in {example}")
        return
    fields = as_mapping(value)
    for key in fields:
        if key not in ("event", "latitude", "longitude"):
            yield Problem(
                dotted((*path, key)),
                "is not a key of a solar time",
                suggestion(key, ("event", "latitude", "longitude"))
                or "keys are event, latitude and longitude",
            )
    event = fields.get("event")
    if event is not UNKNOWN and event not in _SOLAR_EVENTS:
        near = suggestion(event, _SOLAR_EVENTS) if isinstance(event, str) else ""
        yield Problem(
            dotted((*path, "event")),
            "is not a solar event that Celery knows",
            " ".join(part for part in (near, f"events are {', '.join(_SOLAR_EVENTS)}") if part),
            value=model.show((*path, "event"), event),
        )
    for key, limit in (("latitude", 90), ("longitude", 180)):
        angle = fields.get(key)
        number = None if isinstance(angle, str) else as_number(angle)
        if angle is not UNKNOWN and (number is None or abs(number) > limit):
            yield Problem(
                dotted((*path, key)),
                f"is not a number from -{limit} to {limit}",
                "write degrees as a number, without quotes",
                value=model.show((*path, key), angle),
            )
