"""The document's crontabs mean the same in an inventory as in Celery."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks import (
    crontab as preflight,
)
from celery import Celery
from celery.schedules import crontab

from celery_fleet.config.entries import celery_entry, parse_entry

# A Tuesday.
NOW = datetime(2026, 5, 5, 13, 7, tzinfo=UTC)
DOCUMENTED = [
    ({"minute": 0}, crontab(minute=0), "2026-05-05 14:00"),
    ({"minute": 0, "hour": 0}, crontab(minute=0, hour=0), "2026-05-06 00:00"),
    ({"minute": 0, "hour": "*/6"}, crontab(minute=0, hour="*/6"), "2026-05-05 18:00"),
    (
        {"minute": 0, "hour": 0, "day_of_week": 1},
        crontab(minute=0, hour=0, day_of_week=1),
        "2026-05-11 00:00",
    ),
    ({"minute": "*/15"}, crontab(minute="*/15"), "2026-05-05 13:15"),
    # This is not one of its examples, but the schedule of its daily cleanup.
    ({"minute": 0, "hour": 2}, crontab(minute=0, hour=2), "2026-05-06 02:00"),
]


@pytest.mark.parametrize(("fields", "documented", "due"), DOCUMENTED)
def test_a_documented_crontab_is_used_unchanged(
    fields: dict[str, Any], documented: crontab, due: str
) -> None:
    app = Celery(set_as_current=False)
    entry = parse_entry("e", {"task": "app.tasks.my_custom_task", "crontab": fields})
    schedule = celery_entry(entry, app)["schedule"]
    assert schedule == documented
    schedule.nowfun = lambda: NOW
    wait = schedule.remaining_estimate(NOW)
    assert NOW + wait == datetime.fromisoformat(due).replace(tzinfo=UTC)
    # It is due again one period later, not twice.
    assert timedelta(0) < wait <= timedelta(days=7)


@pytest.mark.parametrize("fields", [fields for fields, _, _ in DOCUMENTED])
def test_preflight_accepts_a_documented_crontab(fields: dict[str, Any]) -> None:
    for name, text in fields.items():
        assert preflight.parse(name, str(text))
