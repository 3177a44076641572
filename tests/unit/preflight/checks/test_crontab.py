"""Preflight reads crontab fields as Celery does."""

from __future__ import annotations

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks import crontab
from celery.schedules import crontab_parser

TEXTS = [
    "*", "0", "1", "5", "12", "31", "59", "60", "7", "24", "-1", "", " ", "1,2", "1,,2", ",", "1-5", "5-1", "1-", "-",
    "*/2",
    "*/0", "*/-1", "*/x", "*/", "1-10/3", "10-1/3", "5/2", "/2", "**", "*-2", "1-2-3", "sun", "SUN", "sunday",
    "mon-fri",
    "fri-mon", "mon,wed", "mon-fri/2", "jan", "december", "jan-mar", "foo", "1.5", "0x1", "1_0", "²", "٣", "1 2", "1;2",
    "1-5x", "*/100", "0-59", "00", "007", "1,5-9,*/20", "*,1", "99999999999",
]  # fmt: skip


def celery(name: str, text: str) -> frozenset[int] | None:
    """Return what Celery makes of a field."""
    field = crontab.FIELDS[name]
    try:
        return frozenset(crontab_parser(field.high - field.low + 1, field.low).parse(text))
    # Its parser lets through exceptions of its parts: ValueError, KeyError, IndexError, and its own.
    except Exception:  # noqa: BLE001  # see above
        return None


@pytest.mark.parametrize("name", crontab.FIELDS)
@pytest.mark.parametrize("text", TEXTS)
def test_accepted_fields_mean_the_same_to_celery(name: str, text: str) -> None:
    theirs = celery(name, text)
    try:
        ours = crontab.parse(name, text)
    except ValueError:
        return
    assert ours == theirs
    assert ours


@pytest.mark.parametrize(
    ("name", "text"),
    [("minute", "*/15"), ("hour", "9-17/2"), ("day_of_week", "mon-fri"), ("month_of_year", "jan,jul"),
     ("day_of_month", "1,15"), ("hour", "22-2"), ("minute", "0")],
)  # fmt: skip
def test_common_fields_are_accepted(name: str, text: str) -> None:
    assert crontab.parse(name, text) == celery(name, text)


@pytest.mark.parametrize(
    ("days", "months", "never"),
    [({30}, {2}, True), ({29}, {2}, False), ({31}, {4, 6}, True), ({31}, {4, 5}, False)],
)
def test_days_that_never_come(days: set[int], months: set[int], never: bool) -> None:
    assert crontab.never_due(frozenset(days), frozenset(months)) is never
