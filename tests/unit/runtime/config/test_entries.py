from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery.beat import ScheduleEntry
from celery.schedules import crontab, schedule

from celery_fleet.common.errors import FleetError
from celery_fleet.config.entries import celery_entry, parse_entries, parse_entry


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


def test_an_entry_becomes_an_entry_of_celery() -> None:
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


def test_a_refusal_of_celery_is_reported() -> None:
    with pytest.raises(FleetError, match=r"crontab of e: .*99"):
        celery_entry(parse_entry("e", {"task": "t", "crontab": {"minute": 99}}))


def test_an_entry_of_the_code_can_be_switched_off_by_its_name() -> None:
    entry = parse_entry("e", {"enabled": False})

    assert (entry.name, entry.enabled) == ("e", False)
    with pytest.raises(FleetError, match="needs a task"):
        parse_entry("e", {"enabled": True})
    with pytest.raises(FleetError, match="needs a task"):
        parse_entry("e", {"enabled": False, "queue": "q"})
