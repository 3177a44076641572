"""A scheduler of the code that stores entries, which beat does not use."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.release_remarks import remarks

from tests.unit.release.notes import note

DATABASE = "django_celery_beat.schedulers:DatabaseScheduler"
FLEET = {"scheduler": "persistent", "policy": "add", "settings": {}}


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (DATABASE, "database"),
        ("<class 'django_celery_beat.schedulers.DatabaseScheduler'>", "database"),
        ("redbeat.RedBeatScheduler", "redbeat"),
    ],
)
def test_a_scheduler_that_stores_entries_is_named(given: str, value: str) -> None:
    (words,) = remarks("r1", note(scheduler=given), FLEET)
    assert words == (
        f"release r1: the code has beat_scheduler {given}, but celery_beat_scheduler is persistent, so beat sends "
        f"nothing that is stored there. Set celery_beat_scheduler: {value}, or remove beat_scheduler from the code."
    )


@pytest.mark.parametrize(
    ("told", "demands"),
    [
        ({"scheduler": DATABASE}, {"scheduler": "database"}),
        # The inventory's schedule is the whole.
        ({"scheduler": DATABASE}, {"policy": "replace"}),
        ({"scheduler": DATABASE}, {"settings": {"beat_scheduler": "shop.beat:Scheduler"}}),
        ({"scheduler": "celery.beat:PersistentScheduler"}, {}),
        # An older note does not tell.
        ({}, {}),
    ],
)
def test_others_are_not(told: dict[str, Any], demands: dict[str, Any]) -> None:
    assert remarks("r1", note(**told), {**FLEET, **demands}) == []
