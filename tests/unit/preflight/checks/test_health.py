"""Preflight's checks of the health check's variables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.preflight.inventory import problems, valid

T = "celery_health_thresholds"


Found = Callable[..., list[tuple[str, str, str]]]


@pytest.fixture
def found(tmp_path: Path) -> Found:
    """Return a function for the variable, message and remedy of each problem about health."""

    def look(**more: Any) -> list[tuple[str, str, str]]:
        return [
            (problem.variable, problem.message, problem.remedy)
            for problem in problems({**valid(tmp_path), **more})
            if problem.variable.startswith("celery_health")
        ]

    return look


def test_valid_settings_are_accepted(found: Found) -> None:
    given = {
        "disk_free_percent": {"warning": 20, "bad": 10},
        "queue_length": {"warning": None, "bad": 50.5},
        "swap_used_percent": {"bad": None},
        "queues": {"maintenance": {"warning": 5}},
    }
    more: dict[str, Any] = {"celery_health_on_change": ["mail", "-s", "x", "me"]}
    assert found(**{T: given}, celery_health_interval=60, **more) == []


@pytest.mark.parametrize(
    ("given", "where", "message"),
    [
        ({"disk_fre_percent": {"bad": 1}}, f"{T}.disk_fre_percent", "is not a known key"),
        ({"queue_length": 10}, f"{T}.queue_length", "is a number, but must be a mapping"),
        ({"queue_length": {"worse": 1}}, f"{T}.queue_length.worse", "is not a known key"),
        ({"logs_mb": {"bad": "10"}}, f"{T}.logs_mb.bad", "is a string, but must be a number"),
        ({"logs_mb": {"bad": True}}, f"{T}.logs_mb.bad", "is a boolean, but must be a number"),
        ({"logs_mb": {"bad": -1}}, f"{T}.logs_mb.bad", "is below 0"),
        (
            {"queue_length": {"bad": 10}},
            f"{T}.queue_length",
            "is bad (10) before it is a warning (1000)",
        ),
        (
            {"disk_free_percent": {"warning": 5, "bad": 10}},
            f"{T}.disk_free_percent",
            "is bad (10) before it is a warning (5)",
        ),
        ({"queues": ["a"]}, f"{T}.queues", "is a list, but must be a mapping"),
        (
            {"queues": {"maintenanc": {}}},
            f"{T}.queues.maintenanc",
            "is a queue that no worker consumes",
        ),
        (
            {"queues": {"maintenance": {"warning": 20000}}},
            f"{T}.queues.maintenance",
            "is bad (10000) before it is a warning (20000)",
        ),
    ],
)
def test_a_meaningless_threshold_is_refused(
    found: Found, given: dict[str, Any], where: str, message: str
) -> None:
    ((variable, said, remedy),) = found(**{T: given})
    assert (variable, said) == (where, message)
    assert remedy


def test_the_nearest_name_is_suggested(found: Found) -> None:
    ((_, _, remedy),) = found(**{T: {"disk_fre_percent": {"bad": 1}}})
    assert remedy == "did you mean disk_free_percent?"


def test_a_checks_time_limit_must_fit_into_the_interval(found: Found) -> None:
    ((variable, message, _),) = found(celery_health_interval=30)
    assert (variable, message) == (
        "celery_health_interval",
        "is below 60 s, but a check may take that long",
    )


@pytest.mark.parametrize("argv", ["tell us", [""]])
def test_a_command_is_a_list_of_words(found: Found, argv: Any) -> None:
    assert found(celery_health_on_change=argv)


def test_an_unknown_check_is_refused(found: Found) -> None:
    assert found(celery_health_checks=["disk", "moon"])
