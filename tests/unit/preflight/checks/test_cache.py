"""Preflight's checks of the Redis for the application's cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.preflight.inventory import problems, secret, valid


def with_cache(directory: Path, **more: Any) -> dict[str, Any]:
    made = {**valid(directory), "celery_app_cache": True, **more}
    made["redis_passwords"]["cache"] = secret(30)
    return made


def test_a_cache_passes(tmp_path: Path) -> None:
    assert problems(with_cache(tmp_path)) == []


def test_a_cache_needs_a_password(tmp_path: Path) -> None:
    (one,) = problems({**valid(tmp_path), "celery_app_cache": True})
    assert (one.variable, "is not set" in one.message) == ("redis_passwords.cache", True)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("celery_app_cache_port", 6380, "is the port of redis_results_port"),
        ("redis_cache_maxmemory", "1mb", "hardly more"),
        ("redis_cache_maxmemory_policy", "noeviction", "allkeys-lru"),
        ("celery_app_secret_env", {"CELERY_FLEET_CACHE_URL": "x"}, "Celery Fleet"),
    ],
)
def test_a_mistake_is_refused(tmp_path: Path, variable: str, value: Any, message: str) -> None:
    (one,) = problems(with_cache(tmp_path, **{variable: value}))
    assert one.variable.startswith(variable)
    assert message in f"{one.message} {one.remedy}"


def test_without_a_cache_its_port_is_free(tmp_path: Path) -> None:
    assert problems({**valid(tmp_path), "celery_app_cache_port": 6380}) == []
