"""Fixtures: the example application. `tests.unit.django_example` has what all examples with Django share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.django_example import EXAMPLES, Run, found_by, python_in

EXAMPLE = EXAMPLES / "flash_promos"
# What the application needs except on a developer's machine; it connects to nothing.
SERVED = {
    "DATABASE_URL": "postgresql://flash:p%40ss@db.example.com:5433/flash?sslmode=require&channel_binding=require",
    "DJANGO_SECRET_KEY": "not-a-real-key" * 5,
    "DJANGO_ALLOWED_HOSTS": "control1,192.0.2.4",
    "DJANGO_STATIC_ROOT": "/var/lib/flash_promos/static",
}


@pytest.fixture(scope="session")
def example() -> Path:
    return EXAMPLE


@pytest.fixture(scope="session")
def run() -> Run:
    return python_in(EXAMPLE)


@pytest.fixture(scope="session")
def read(run: Run) -> Callable[..., dict[str, Any]]:
    return found_by(run)


@pytest.fixture(scope="session")
def served() -> dict[str, str]:
    return SERVED
