"""Reads crontab fields as Celery does, without Celery: pure functions for preflight, on the control node.

Celery's parser (`celery.schedules.crontab_parser`, read at 5.7.0) ignores text after the part that it understands: it
reads "1-5x" as "1-5". It also accepts a day's name in the field of months. Here the whole field must be valid. Celery
reads every accepted field in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_NUMBER = re.compile(r"[0-9]{1,4}", re.ASCII)
# Longest part of a field that is shown, in characters.
_SHOWN: Final = 5
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS: Final = (
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
)  # fmt: skip
_LONGEST_MONTH: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True)
class CrontabField:
    """The lowest and highest number of a field, and the names that can be written for numbers."""

    low: int
    high: int
    names: tuple[str, ...] = ()


FIELDS: Final[Mapping[str, CrontabField]] = {
    "minute": CrontabField(0, 59),
    "hour": CrontabField(0, 23),
    "day_of_week": CrontabField(0, 6, _DAYS),
    "day_of_month": CrontabField(1, 31),
    "month_of_year": CrontabField(1, 12, _MONTHS),
}


def parse(name: str, text: str) -> frozenset[int]:
    """Return the numbers that a field means.

    Raises:
        ValueError: With a reason that completes "the field …".
    """
    found: set[int] = set()
    for part in text.split(","):
        found.update(_part(FIELDS[name], part))
    return frozenset(found)


def never_due(days: frozenset[int], months: frozenset[int]) -> bool:
    """Return whether none of these months has any of these days, as in February 30."""
    return all(min(days) > _LONGEST_MONTH[month - 1] for month in months)


def _part(field: CrontabField, part: str) -> list[int]:
    numbers, slash, step = part.partition("/")
    every = 1
    if slash:
        if not _NUMBER.fullmatch(step) or int(step) < 1:
            shown = f"step {step!r}" if len(step) <= _SHOWN else "step"
            raise ValueError(f"has the {shown}, which is not a number from 1 up")
        every = int(step)
    if numbers == "*":
        return list(range(field.low, field.high + 1))[::every]
    first, dash, last = numbers.partition("-")
    start = _number(field, first)
    if not dash:
        if slash:
            raise ValueError(f"has a step after the single number {start}; steps need * or a range")
        return [start]
    end = _number(field, last)
    if end < start:
        return [*range(start, field.high + 1), *range(field.low, end + 1)][::every]
    return list(range(start, end + 1))[::every]


def _number(field: CrontabField, text: str) -> int:
    if _NUMBER.fullmatch(text):
        number = int(text)
    elif field.names and text[:3].lower() in field.names and text.isalpha():
        number = field.names.index(text[:3].lower()) + field.low
    else:
        # The problem shows the whole value redacted; a long part of it could be part of a secret.
        part = repr(text) if len(text) <= _SHOWN else "a part"
        raise ValueError(f"has {part}, which is not a number" if text else "has an empty part")
    if not field.low <= number <= field.high:
        raise ValueError(f"has {number}, which is not from {field.low} to {field.high}")
    return number
