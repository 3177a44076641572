from __future__ import annotations

import pytest

from celery_fleet.versions import installed, problems

GOOD: dict[str, str | None] = {
    "python": "3.11.2",
    "celery": "5.7.3",
    "kombu": "5.7.0",
    "redis": "8.1.0",
}


def test_what_is_installed_here_is_supported() -> None:
    assert problems(installed()) == []
    assert problems(GOOD) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"celery": "5.6.9"}, "Celery 5.6.9 is not supported, only 5.7"),
        ({"celery": "5.8.0"}, "Celery 5.8.0 is not supported"),
        ({"celery": "5.70.0"}, "Celery 5.70.0 is not supported"),
        ({"celery": None}, "celery is not installed"),
        ({"redis": None}, "redis is not installed"),
        ({"python": "3.10.14"}, "Python 3.10.14 is too old"),
    ],
)
def test_what_is_not_supported_is_named(change: dict[str, str | None], message: str) -> None:
    (problem,) = problems({**GOOD, **change})

    assert message in problem
