"""Checks the ranges of numbers; the argument specs only give their type."""

from __future__ import annotations

from collections.abc import Iterator

from ...desired.option import Option, as_number
from ...desired.producer_options import PRODUCER
from ...desired.ranges import RANGES, Range
from ...desired.worker_options import WORKER_VARIABLES
from ..model.inventory import Model, Problem


def check_ranges(model: Model) -> Iterator[Problem]:
    """Check that each number is in its range."""
    wanted: list[tuple[str, Range | Option, str, str]] = [
        (name, bounds, bounds.remedy, bounds.group) for name, bounds in RANGES.items()
    ]
    wanted += [
        (option.name, option, f"write {option.bounds}", group)
        for group, table in (("celery_workers", WORKER_VARIABLES), ("celery_producers", PRODUCER))
        for option in table
        if option.bounds
    ]
    for name, bounds, remedy, group in wanted:
        for value, hosts in model.distinct(name, model.members(group)):
            number = as_number(value)
            what = "" if number is None else bounds.violation(number)
            if what:
                yield Problem(
                    name,
                    f"is {what}",
                    remedy,
                    value=model.show((name,), value),
                    hosts=hosts,
                )
