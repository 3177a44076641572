"""Settings, schedule and retries are those of the document of Flash Promos."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

Read = Callable[..., dict[str, Any]]

CELERY = """
from marketplace import celery_app as app
app.loader.import_default_modules()
conf = app.conf
names = ("broker_url", "result_backend", "worker_prefetch_multiplier", "task_acks_late",
         "worker_max_tasks_per_child", "worker_pool_restarts", "worker_log_format", "worker_task_log_format",
         "task_always_eager", "task_default_queue", "timezone", "enable_utc", "task_time_limit",
         "task_soft_time_limit")
found = {name: conf[name] for name in names}
found["main"] = app.main
found["schedule"] = conf.beat_schedule
found["tasks"] = sorted(name for name in app.tasks if not name.startswith("celery."))
task = app.tasks["promotions.tasks.robust_task"]
found["retry"] = {"for": [each.__name__ for each in task.autoretry_for], **task.retry_kwargs}
found["late"] = sorted(name for name in found["tasks"] if app.tasks[name].acks_late)
"""
DJANGO = """
from django.conf import settings
found = {name: getattr(settings, name) for name in ("DEBUG", "SECRET_KEY", "ALLOWED_HOSTS", "MIDDLEWARE")}
found["static"] = str(settings.STATIC_ROOT)
found["cookies"] = [settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME]
database = settings.DATABASES["default"]
found["database"] = {k.lower(): database.get(k) for k in ("ENGINE", "HOST", "PORT", "USER", "PASSWORD", "OPTIONS")}
found["name"] = str(database["NAME"])
"""
SETTINGS = {"DJANGO_SETTINGS_MODULE": "marketplace.settings"}
TASKS = [
    "promotions.tasks.check_active_promos",
    "promotions.tasks.cleanup_expired_promos",
    "promotions.tasks.process_notification_queue",
    "promotions.tasks.robust_task",
]


@pytest.fixture(scope="module")
def celery(read: Read) -> dict[str, Any]:
    return read(CELERY)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("main", "marketplace"),
        ("worker_prefetch_multiplier", 1),
        ("task_acks_late", True),
        ("worker_max_tasks_per_child", 1000),
        ("worker_log_format", "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"),
        (
            "worker_task_log_format",
            "[%(asctime)s: %(levelname)s/%(processName)s][%(task_name)s(%(task_id)s)] %(message)s",
        ),
        # pool_restart is refused without it.
        ("worker_pool_restarts", True),
        ("task_always_eager", False),
        ("task_default_queue", "celery"),
    ],
)
def test_settings_are_the_documented_ones(celery: dict[str, Any], name: str, value: Any) -> None:
    assert celery[name] == value


def test_the_schedule_is_the_documented_one(celery: dict[str, Any]) -> None:
    assert celery["schedule"] == {
        "check-flash-promos-every-minute": {
            "task": "promotions.tasks.check_active_promos",
            "schedule": 60.0,
        },
        "cleanup-expired-promos-every-hour": {
            "task": "promotions.tasks.cleanup_expired_promos",
            "schedule": 3600.0,
        },
        "process-notification-queue-every-30s": {
            "task": "promotions.tasks.process_notification_queue",
            "schedule": 30.0,
        },
    }


def test_all_tasks_are_found_and_acknowledged_late(celery: dict[str, Any]) -> None:
    assert celery["tasks"] == TASKS
    assert celery["late"] == TASKS


def test_retries_are_the_documented_ones(celery: dict[str, Any]) -> None:
    assert celery["retry"] == {"for": ["Exception"], "max_retries": 3, "countdown": 60}


def test_a_hanging_task_is_ended(celery: dict[str, Any]) -> None:
    assert celery["task_soft_time_limit"] < celery["task_time_limit"] <= 300


def test_broker_and_results_come_from_the_environment(celery: dict[str, Any], read: Read) -> None:
    assert celery["broker_url"] == celery["result_backend"] == "redis://localhost:6379/0"
    documented = "redis://redis:6379/0"
    given = read(CELERY, CELERY_BROKER_URL=documented, CELERY_RESULT_BACKEND=documented)
    assert given["broker_url"] == given["result_backend"] == documented


@pytest.mark.parametrize("setting", ["worker_log_format", "worker_task_log_format"])
def test_a_log_line_has_the_documented_parts(celery: dict[str, Any], setting: str) -> None:
    record = logging.LogRecord("promotions", logging.INFO, "", 1, "sent %d messages", (3,), None)
    record.processName = "ForkPoolWorker-1"
    # Celery's TaskFormatter sets these.
    record.task_name, record.task_id = TASKS[2], "an-id"
    line = logging.Formatter(celery[setting]).format(record)
    task = rf"\[{re.escape(TASKS[2])}\(an-id\)\]" if "task" in setting else ""
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
    assert re.fullmatch(rf"\[{time}: INFO/ForkPoolWorker-1\]{task} sent 3 messages", line), line


def test_a_developer_has_sqlite(read: Read) -> None:
    found = read(DJANGO, **SETTINGS)
    assert found["database"]["engine"] == "django.db.backends.sqlite3"
    assert found["name"].endswith("examples/flash_promos/db.sqlite3")
    assert found["DEBUG"] is True


def test_with_a_database_url_there_are_no_developer_defaults(
    read: Read, served: dict[str, str]
) -> None:
    found = read(DJANGO, **SETTINGS, **served)
    assert found["DEBUG"] is False
    assert found["SECRET_KEY"] == served["DJANGO_SECRET_KEY"]
    assert found["ALLOWED_HOSTS"] == ["control1", "192.0.2.4"]
    assert found["static"] == "/var/lib/flash_promos/static"
    assert "whitenoise.middleware.WhiteNoiseMiddleware" in found["MIDDLEWARE"]
    assert (found["name"], found["database"]) == (
        "flash_promos",
        {
            "engine": "django.db.backends.postgresql",
            "host": "db.example.com",
            "port": 5433,
            "user": "flash_promos",
            "password": "p@ss",
            "options": {
                "connect_timeout": 5,
                "sslmode": "require",
                "channel_binding": "require",
            },
        },
    )


def test_each_release_has_its_own_static_files(read: Read, served: dict[str, str]) -> None:
    found = read(DJANGO, **SETTINGS, **served, CELERY_FLEET_RELEASE="r1")
    assert found["static"] == "/var/lib/flash_promos/static/r1"


def test_its_cookies_differ_from_those_of_other_sites(read: Read) -> None:
    cookies = read(DJANGO, **SETTINGS)["cookies"]
    assert cookies == ["flash_promos_sessionid", "flash_promos_csrftoken"]


def test_a_given_timeout_is_left_alone(read: Read, served: dict[str, str]) -> None:
    url = served["DATABASE_URL"] + "&connect_timeout=9"
    found = read(DJANGO, **{**SETTINGS, **served, "DATABASE_URL": url})
    assert str(found["database"]["options"]["connect_timeout"]) == "9"
