"""Preflight's checks of what happens to missed runs of an entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.preflight.inventory import problems, valid

ENTRY = "celery_beat_schedule.hourly"


def found(directory: Path, **options: Any) -> list[tuple[str, str, str]]:
    entry = {"task": "app.tasks.clean", "interval": 3600, "queue": "discounts", **options}
    more = {**valid(directory), "celery_beat_schedule": {"hourly": entry}}
    return [(one.variable, one.message, one.remedy) for one in problems(more)]


@pytest.mark.parametrize(
    "options",
    [
        {"missed": "once"},
        {"missed": "skip"},
        {"missed": "each"},
        {"missed": "each", "missed_limit": 1},
        {"missed": "each", "missed_limit": 1000},
        {"missed": "skip", "override": True},
    ],
)
def test_each_way_passes(tmp_path: Path, options: dict[str, Any]) -> None:
    assert found(tmp_path, **options) == []


@pytest.mark.parametrize(
    ("options", "key", "message", "remedy"),
    [
        ({"missed": "never"}, "missed", "none of the allowed", "once, each, skip"),
        ({"missed": 5}, "missed", "is a number, but must be a string", "write it as such"),
        ({"missed": "each", "missed_limit": 0}, "missed_limit", "below 1", "1 to 1000"),
        ({"missed": "each", "missed_limit": 1001}, "missed_limit", "above 1000", "1 to 1000"),
        ({"missed": "each", "missed_limit": True}, "missed_limit", "a boolean", "1 to 1000"),
        ({"missed": "each", "missed_limit": "5"}, "missed_limit", "a string", "write it as such"),
        ({"missed": "skip", "missed_limit": 5}, "missed_limit", "no effect", "missed: each"),
        ({"missed_limit": 5}, "missed_limit", "no effect", "add missed: each"),
        ({"missd": "skip"}, "missd", "", "missed"),
    ],
)
def test_mistakes_are_refused(
    tmp_path: Path, options: dict[str, Any], key: str, message: str, remedy: str
) -> None:
    ((variable, said, advice),) = found(tmp_path, **options)
    assert variable == f"{ENTRY}.{key}"
    assert message in said
    assert remedy in advice
