"""Run the example application in a separate process, because Django and Celery are global state."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.django_example import Run, example, process_in, python_in, read

__all__ = ["example", "read"]

ROOT = Path(__file__).resolve().parents[3]
# The directory of the document's commands.
BACKEND = ROOT / "examples/processing/backend_django"
VARIABLES = ROOT / "inventories/processing/group_vars/all"
# What it needs outside a developer's machine; no server is contacted.
SERVED = {
    "DJANGO_SETTINGS_MODULE": "config.settings.production",
    "DJANGO_SECRET_KEY": "not-a-real-key" * 5,
    "DJANGO_ALLOWED_HOSTS": "control1, 192.0.2.4",
    "DATABASE_URL": "postgresql://me:p%40ss@db.example.com:5433/it?sslmode=require&channel_binding=require",
    "REDIS_URL": "rediss://redis1:6387/0",
    "STATIC_ROOT": "/var/lib/processing/static",
    "VITE_APP_STATIC_ROOT": "/static/frontend",
    "VITE_APP_API_ROOT": "/api/v1",
}
LOCAL = "config.settings.local"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def served() -> dict[str, str]:
    return dict(SERVED)


@pytest.fixture(scope="session")
def inventory() -> dict[str, Any]:
    content: dict[str, Any] = {}
    for path in sorted(VARIABLES.glob("*.yml")):
        content |= yaml.safe_load(path.read_text())
    return content


@pytest.fixture(scope="session")
def run() -> Run:
    return python_in(BACKEND)


@pytest.fixture(scope="session")
def start() -> Start:
    """Return the same as `run` without waiting for the end."""

    def python(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            **process_in(BACKEND, arguments, environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    return python


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    """Return the settings of a separate directory, with a database that supports its kind of locks."""
    return {
        "DJANGO_SETTINGS_MODULE": LOCAL,
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
        "STATIC_ROOT": f"{tmp_path}/static",
        "DJANGO_SUPERUSER_USERNAME": "admin",
        "DJANGO_SUPERUSER_EMAIL": "admin@example.com",
        "DJANGO_SUPERUSER_PASSWORD": "not a real one",
    }
