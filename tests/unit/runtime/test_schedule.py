from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from celery.beat import ScheduleEntry
from celery.schedules import crontab, schedule

from celery_fleet.errors import FleetError
from celery_fleet.schedule import (
    celery_entry,
    describe,
    next_due,
    parse_entries,
    parse_entry,
    upcoming,
)

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "must be a mapping"),
        ({}, "needs a task"),
        ({"task": "t"}, "it has none"),
        ({"task": "t", "interval": 1, "crontab": {"minute": 0}}, "it has crontab, interval"),
        ({"task": "t", "interval": 0}, "above 0"),
        ({"task": "t", "interval": True}, "above 0"),
        ({"task": "t", "crontab": {}}, "crontab must be"),
        ({"task": "t", "crontab": {"minutes": 0}}, "no field minutes"),
        ({"task": "t", "crontab": {"minute": 1.5}}, "crontab.minute"),
        ({"task": "t", "solar": {"event": "sunset"}}, "solar must be"),
        ({"task": "t", "interval": 1, "args": "x"}, "args must be a list"),
        ({"task": "t", "interval": 1, "kwargs": []}, None),
        ({"task": "t", "interval": 1, "kwargs": [1]}, "kwargs must be"),
        ({"task": "t", "interval": 1, "queue": 5}, "queue must be"),
        ({"task": "t", "interval": 1, "enabled": "no"}, "enabled must be"),
        ({"task": "t", "interval": 1, "every": 1}, "unknown field every"),
    ],
)
def test_entries_are_checked(raw: Any, message: str | None) -> None:
    if message is None:
        assert parse_entry("e", raw).kwargs == {}
    else:
        with pytest.raises(FleetError, match=message):
            parse_entry("e", raw)


def test_every_wrong_entry_is_named() -> None:
    with pytest.raises(FleetError, match=r"beat_schedule\.a: .*; beat_schedule\.b: "):
        parse_entries({"a": {}, "b": 1, "c": {"task": "t", "interval": 5}})


def test_an_entry_becomes_celerys() -> None:
    entry = parse_entry(
        "e",
        {
            "task": "shop.sum",
            "crontab": {"minute": 0, "hour": [3, 15]},
            "args": [1],
            "kwargs": {"a": 2},
            "queue": "sums",
            "options": {"expires": 60},
        },
    )
    made = celery_entry(entry)

    assert made["schedule"] == crontab(minute="0", hour="3,15")
    assert made["options"] == {"expires": 60, "queue": "sums"}
    assert ScheduleEntry(name="e", app=Celery(set_as_current=False), **made).args == (1,)
    assert celery_entry(parse_entry("i", {"task": "t", "interval": 1.5}))["schedule"] == schedule(
        1.5
    )


def test_celerys_own_refusal_is_told() -> None:
    with pytest.raises(FleetError, match=r"crontab of e: .*99"):
        celery_entry(parse_entry("e", {"task": "t", "crontab": {"minute": 99}}))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"crontab": {"minute": 0, "day_of_week": "mon"}}, "crontab 0 * * * mon"),
        ({"interval": 1}, "every 1 second"),
        ({"interval": 90}, "every 90 seconds"),
        (
            {"solar": {"event": "sunset", "latitude": 52.5, "longitude": 13.4}},
            "sunset at 52.5, 13.4",
        ),
    ],
)
def test_an_entry_is_described(raw: dict[str, Any], text: str) -> None:
    assert describe(parse_entry("e", {"task": "t", **raw})) == text


def test_the_next_run_of_a_crontab_is_on_its_minute() -> None:
    entry = parse_entry("e", {"task": "t", "crontab": {"minute": 0}})

    assert next_due(entry, NOW) == datetime(2026, 3, 1, 13, 0, tzinfo=UTC)


def test_crontabs_are_read_in_the_applications_time_zone() -> None:
    app = Celery(set_as_current=False)
    app.conf.timezone = "Europe/Berlin"
    entry = parse_entry("e", {"task": "t", "crontab": {"minute": 0, "hour": 3}})

    assert next_due(entry, NOW, app=app) == datetime(2026, 3, 2, 2, 0, tzinfo=UTC)


def test_an_interval_counts_from_the_last_run() -> None:
    entry = parse_entry("e", {"task": "t", "interval": 60})

    assert next_due(entry, NOW, NOW - timedelta(seconds=20)) == NOW + timedelta(seconds=40)
    assert next_due(entry, NOW, NOW - timedelta(hours=1)) == NOW


def test_upcoming_entries_come_in_order_and_without_the_disabled() -> None:
    entries = parse_entries(
        {
            "late": {"task": "t", "interval": 90},
            "soon": {"task": "t", "interval": 30},
            "off": {"task": "t", "interval": 1, "enabled": False},
        }
    )

    assert [entry.name for _, entry in upcoming(entries, NOW)] == ["soon", "late"]
