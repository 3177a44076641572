"""Crontab fields as Celery reads them, without Celery.

Celery's parser (`celery.schedules.crontab_parser`, read at 5.7.0) takes prefixes of what it understands
("1-5x" is its "1-5"), and a day's name in the field of months. Here the whole field must fit; what is
accepted means the same to Celery.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_NUMBER = re.compile(r"[0-9]{1,4}", re.ASCII)
# Characters.
_SHOWN: Final = 5
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS: Final = (
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
)  # fmt: skip
_LONGEST_MONTH: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True)
class Field:
    """One field: its lowest and highest number, and names that stand for numbers."""

    low: int
    high: int
    names: tuple[str, ...] = ()


FIELDS: Final[Mapping[str, Field]] = {
    "minute": Field(0, 59),
    "hour": Field(0, 23),
    "day_of_week": Field(0, 6, _DAYS),
    "day_of_month": Field(1, 31),
    "month_of_year": Field(1, 12, _MONTHS),
}


def parse(name: str, text: str) -> frozenset[int]:
    """The numbers that a field stands for.

    Raises:
        ValueError: With a reason that completes "the field …".
    """
    found: set[int] = set()
    for part in text.split(","):
        found.update(_part(FIELDS[name], part))
    return frozenset(found)


def never_due(days: frozenset[int], months: frozenset[int]) -> bool:
    """Whether none of these months has one of these days, as in February 30."""
    return all(min(days) > _LONGEST_MONTH[month - 1] for month in months)


def _part(field: Field, part: str) -> list[int]:
    numbers, slash, step = part.partition("/")
    every = 1
    if slash:
        if not _NUMBER.fullmatch(step) or int(step) < 1:
            shown = f"step {step!r}" if len(step) <= _SHOWN else "step"
            raise ValueError(f"has the {shown}, which is no number from 1 on")
        every = int(step)
    if numbers == "*":
        return list(range(field.low, field.high + 1))[::every]
    first, dash, last = numbers.partition("-")
    start = _number(field, first)
    if not dash:
        if slash:
            raise ValueError(f"has a step on the single number {start}, where * or a range is due")
        return [start]
    end = _number(field, last)
    if end < start:
        return [*range(start, field.high + 1), *range(field.low, end + 1)][::every]
    return list(range(start, end + 1))[::every]


def _number(field: Field, text: str) -> int:
    if _NUMBER.fullmatch(text):
        number = int(text)
    elif field.names and text[:3].lower() in field.names and text.isalpha():
        number = field.names.index(text[:3].lower()) + field.low
    else:
        # The whole is shown beside, without what is secret; a long part could be one of a secret's.
        part = repr(text) if len(text) <= _SHOWN else "a part"
        raise ValueError(f"has {part}, which is no number" if text else "has an empty part")
    if not field.low <= number <= field.high:
        raise ValueError(f"has {number}, which is not from {field.low} to {field.high}")
    return number
