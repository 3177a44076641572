"""The settings are those of the document; they are read in a separate process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.processing.conftest import LOCAL, Run

# Each test starts Django; their results only change with the example.
pytestmark = pytest.mark.slow

Read = Callable[..., dict[str, Any]]

CELERY = """
from celery.app.utils import find_app
app = find_app("config.celery_app")  # as `celery -A config.celery_app` does
app.loader.import_default_modules()
conf = app.conf
names = ("broker_url", "result_backend", "accept_content", "result_accept_content", "task_serializer",
         "result_serializer", "task_time_limit", "task_soft_time_limit", "beat_scheduler", "task_default_queue",
         "task_always_eager", "task_acks_late", "timezone", "beat_schedule")
found = {name: conf[name] for name in names}
found["main"] = app.main
found["tasks"] = sorted(name for name in app.tasks if not name.startswith("celery."))
"""
DJANGO = """
import config
from django.conf import settings
names = ("DEBUG", "ENVIRONMENT", "ALLOWED_HOSTS", "MIDDLEWARE", "FRONTEND_VALUES", "SESSION_COOKIE_NAME")
found = {name: getattr(settings, name) for name in names}
found["static"] = str(settings.STATIC_ROOT)
database = settings.DATABASES["default"]
found["database"] = {k: database.get(k) for k in ("ENGINE", "HOST", "PORT", "USER", "PASSWORD", "OPTIONS")}
"""


@pytest.fixture(scope="module")
def celery(read: Read) -> dict[str, Any]:
    return read(CELERY, DJANGO_SETTINGS_MODULE=LOCAL)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("main", "processing"),
        ("accept_content", ["json"]),
        ("result_accept_content", ["json"]),
        ("task_serializer", "json"),
        ("result_serializer", "json"),
        ("task_time_limit", 3600),
        ("beat_scheduler", "django_celery_beat.schedulers:DatabaseScheduler"),
        ("task_default_queue", "celery"),
        ("task_always_eager", False),
        ("tasks", ["backend_django.tasks.cleanup_old_requests", "backend_django.tasks.process_data_task"]),
        # The schedule is in the inventory, and from there in the database.
        ("beat_schedule", {}),
    ],
)  # fmt: skip
def test_settings_are_the_documented_ones(celery: dict[str, Any], name: str, value: Any) -> None:
    assert celery[name] == value


def test_a_task_has_time_to_record_that_it_failed(celery: dict[str, Any]) -> None:
    assert 30 <= celery["task_time_limit"] - celery["task_soft_time_limit"] <= 300


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "redis://localhost:6379/0"),
        ({"REDIS_URL": "redis://redis:6379/0"}, "redis://redis:6379/0"),
        ({"REDIS_URL": "redis://a/0", "CELERY_BROKER_URL": "redis://b/1"}, "redis://b/1"),
    ],
)
def test_the_broker_is_composed_of_the_given_variables(
    read: Read, given: dict[str, str], expected: str
) -> None:
    found = read(CELERY, DJANGO_SETTINGS_MODULE=LOCAL, **given)
    assert found["broker_url"] == found["result_backend"] == expected


def test_both_documented_ways_to_import_work(run: Run, example: Path) -> None:
    """`config` within backend_django and `backend_django.site_config` from outside are the same modules."""
    code = (
        "import config, sys, django; django.setup();"
        "from backend_django.site_config.models import SetupFlag;"
        "from backend_django.tasks import process_data_task as task;"
        "print(SetupFlag.__module__, task.name, task.app.main)"
    )
    done = run("-c", code, DJANGO_SETTINGS_MODULE=LOCAL)
    assert done.stdout.split() == [
        *("backend_django.site_config.models", "backend_django.tasks.process_data_task"),
        "processing",
    ], done.stderr


def test_production_reads_everything_from_the_environment(
    read: Read, served: dict[str, str]
) -> None:
    found = read(DJANGO, **served, CELERY_FLEET_RELEASE="r1")
    assert (found["DEBUG"], found["ENVIRONMENT"]) == (False, "production")
    assert found["ALLOWED_HOSTS"] == ["control1", "192.0.2.4"]
    assert found["FRONTEND_VALUES"] == {
        "VITE_APP_STATIC_ROOT": "/static/frontend",
        "VITE_APP_API_ROOT": "/api/v1",
    }
    assert found["static"].startswith("/var/lib/processing/static/r1/")
    assert "whitenoise.middleware.WhiteNoiseMiddleware" in found["MIDDLEWARE"]
    # Cookies ignore the port, and the host has other sites.
    assert found["SESSION_COOKIE_NAME"] == "processing_sessionid"
    database = found["database"]
    assert database["ENGINE"] == "django.db.backends.postgresql"
    assert (database["HOST"], database["PORT"]) == ("db.example.com", 5433)
    assert (database["USER"], database["PASSWORD"]) == ("me", "p@ss")
    assert database["OPTIONS"]["sslmode"] == "require"
    assert database["OPTIONS"]["channel_binding"] == "require"
    assert database["OPTIONS"]["connect_timeout"] == 5


@pytest.mark.parametrize(
    "missing",
    [
        "DJANGO_SECRET_KEY",
        "DJANGO_ALLOWED_HOSTS",
        "DATABASE_URL",
        "REDIS_URL",
        "STATIC_ROOT",
        "VITE_APP_STATIC_ROOT",
        "VITE_APP_API_ROOT",
    ],
)
def test_a_missing_variable_is_named_in_production(
    run: Run, served: dict[str, str], missing: str
) -> None:
    given = {name: value for name, value in served.items() if name != missing}
    # Without the variable for the environment, it is still production.
    del given["DJANGO_SETTINGS_MODULE"]
    done = run("manage.py", "migrate", **given)
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert missing in last
    assert "is not set" in last or "nor is" in last


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ENVIRONMENT": "dev"}, "ENVIRONMENT is 'dev': write one of development, staging"),
        ({"PROCESSING_RETENTION_DAYS": "0"}, "PROCESSING_RETENTION_DAYS is '0'"),
        ({"PROCESSING_LOST_AFTER_HOURS": "²"}, "PROCESSING_LOST_AFTER_HOURS is '²'"),
    ],
)
def test_a_mistake_is_named(run: Run, wrong: dict[str, str], said: str) -> None:
    done = run("manage.py", "migrate", DJANGO_SETTINGS_MODULE=LOCAL, **wrong)
    assert done.returncode != 0
    assert said in done.stderr.splitlines()[-1]
