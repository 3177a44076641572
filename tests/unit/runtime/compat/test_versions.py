from __future__ import annotations

import pytest

from celery_fleet.compat.versions import installed, problems

GOOD: dict[str, str | None] = {
    "python": "3.11.2",
    "celery": "5.7.3",
    "kombu": "5.7.0",
    "redis": "8.1.0",
}


def test_the_installed_versions_are_supported() -> None:
    assert problems(installed()) == []
    assert problems(GOOD) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"celery": "5.3.6"}, "Celery 5.3.6 is not supported, only 5.7, 5.6, 5.5, 5.4"),
        ({"celery": "5.8.0"}, "Celery 5.8.0 is not supported"),
        ({"celery": "5.70.0"}, "Celery 5.70.0 is not supported"),
        ({"celery": None}, "celery is not installed"),
        ({"redis": None}, "redis is not installed"),
        ({"python": "3.10.14"}, "Python 3.10.14 is too old"),
        (
            {"python": "3.13.5", "celery": "5.4.0", "kombu": "5.4.2", "redis": "5.2.1"},
            "Celery 5.4.0 supports Python up to 3.12, and this is 3.13.5",
        ),
        ({"redis": "5.3.1"}, "kombu 5.7.0 refuses redis 5.3.1, it needs 6.1 or later"),
    ],
)
def test_unsupported_versions_are_named(change: dict[str, str | None], message: str) -> None:
    (problem,) = problems({**GOOD, **change})

    assert message in problem


@pytest.mark.parametrize(
    "change",
    [
        {"celery": "5.6.9", "kombu": "5.6.2", "redis": "5.2.1"},
        {"celery": "5.5.3", "kombu": "5.5.4", "redis": "5.2.1", "python": "3.13.5"},
        {"celery": "5.4.0", "kombu": "5.3.7", "redis": "5.0.8", "python": "3.12.1"},
        {"celery": "5.4.0", "redis": "6.1.0"},
    ],
)
def test_older_minors_are_supported(change: dict[str, str | None]) -> None:
    assert problems({**GOOD, **change}) == []
