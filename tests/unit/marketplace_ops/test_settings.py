"""Tasks, queues and settings are those of the document of Marketplace Ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.django_example import Run
from tests.unit.marketplace_ops import documented

# Each test starts Django; their results only change with the example.
pytestmark = pytest.mark.slow

Read = Callable[..., dict[str, Any]]

CELERY = """
from config import celery_app as app
app.loader.import_default_modules()
conf = app.conf
names = ("broker_url", "result_backend", "task_always_eager", "timezone", "enable_utc", "task_time_limit",
         "task_soft_time_limit", "beat_schedule", "task_routes")
found = {name: conf[name] for name in names}
found["main"] = app.main
tasks = {name: task for name, task in app.tasks.items() if not name.startswith("celery.")}
found["tasks"] = sorted(tasks)
found["limits"] = {name: [t.soft_time_limit, t.time_limit] for name, t in tasks.items() if t.time_limit}
found["rates"] = {name: t.rate_limit for name, t in tasks.items() if t.rate_limit}
found["retried"] = sorted(name for name, t in tasks.items() if getattr(t, "autoretry_for", ()))
"""
DJANGO = """
from django.conf import settings
found = {name: getattr(settings, name) for name in ("DEBUG", "ALLOWED_HOSTS", "MIDDLEWARE", "INSTALLED_APPS",
         "TIME_ZONE", "HEALTH_FILE", "BACKUP_KEEP", "DJANGO_CELERY_BEAT_TZ_AWARE")}
found["static"] = str(settings.STATIC_ROOT)
found["logs"], found["backups"] = str(settings.LOG_DIRECTORY), str(settings.BACKUP_DIRECTORY)
found["cookies"] = [settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME]
database = settings.DATABASES["default"]
found["database"] = {k.lower(): database.get(k) for k in ("ENGINE", "HOST", "PORT", "USER", "PASSWORD", "OPTIONS")}
"""
SETTINGS = {"DJANGO_SETTINGS_MODULE": "config.settings"}
# These tasks call a supplier or a marketplace.
ASKING = {
    "marketplaces.tasks.fulfill_marketplace_order",
    "marketplaces.tasks.sync_marketplace_listings",
    "marketplaces.tasks.sync_marketplace_orders",
    "suppliers.tasks.sync_supplier_products",
    "suppliers.tasks.test_supplier_connection",
    "suppliers.tasks.update_supplier_inventory",
}


@pytest.fixture(scope="module")
def celery(read: Read) -> dict[str, Any]:
    return read(CELERY)


def test_the_26_documented_tasks_and_one_more(celery: dict[str, Any]) -> None:
    assert len(documented.TASKS) == 27
    assert celery["tasks"] == sorted(documented.TASKS)
    # The health task must also run while the database is away.
    assert set(documented.TASKS) - set(celery["retried"]) == {"core.tasks.system_health_check"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("main", "marketplace_ops"),
        ("timezone", "UTC"),
        ("enable_utc", True),
        ("task_always_eager", False),
        # Both are the inventory's.
        ("beat_schedule", {}),
        ("task_routes", None),
        ("broker_url", "redis://localhost:6379/0"),
        ("result_backend", "redis://localhost:6379/0"),
    ],
)
def test_settings_are_the_documented_ones(celery: dict[str, Any], name: str, value: Any) -> None:
    assert celery[name] == value


def test_broker_and_results_come_from_the_environment(read: Read) -> None:
    given = read(CELERY, CELERY_BROKER_URL="redis://a:1/0", CELERY_RESULT_BACKEND="redis://b:2/0")
    assert (given["broker_url"], given["result_backend"]) == ("redis://a:1/0", "redis://b:2/0")


def test_tasks_that_call_other_services_have_rate_limits(celery: dict[str, Any]) -> None:
    assert set(celery["rates"]) == ASKING
    assert set(celery["rates"].values()) == {"120/m"}


def test_a_developer_has_sqlite(read: Read) -> None:
    found = read(DJANGO, **SETTINGS)
    assert found["database"]["engine"] == "django.db.backends.sqlite3"
    assert (found["DEBUG"], found["HEALTH_FILE"], found["TIME_ZONE"]) == (True, "", "UTC")
    assert found["backups"].endswith("examples/marketplace_ops/backups")
    assert found["cookies"] == ["marketplace_ops_sessionid", "marketplace_ops_csrftoken"]


def test_variables_of_a_fleet_are_used(read: Read, served: dict[str, str]) -> None:
    found = read(
        DJANGO,
        **SETTINGS,
        **served,
        CELERY_FLEET_RELEASE="r1",
        CELERY_FLEET_HEALTH="/var/lib/celery-fleet/health/marketplace_ops.json",
        LOG_DIRECTORY="/var/log/marketplace_ops",
        BACKUP_DIRECTORY="/srv/backups",
        BACKUP_KEEP="3",
    )
    assert found["DEBUG"] is False
    assert "django_celery_beat" in found["INSTALLED_APPS"]
    assert found["DJANGO_CELERY_BEAT_TZ_AWARE"] is True
    assert "whitenoise.middleware.WhiteNoiseMiddleware" in found["MIDDLEWARE"]
    assert found["static"] == "/var/lib/marketplace_ops/static/r1"
    assert found["HEALTH_FILE"] == "/var/lib/celery-fleet/health/marketplace_ops.json"
    assert (found["logs"], found["backups"], found["BACKUP_KEEP"]) == (
        "/var/log/marketplace_ops",
        "/srv/backups",
        3,
    )
    assert found["database"] == {
        "engine": "django.db.backends.postgresql",
        "host": "db.example.com",
        "port": 5433,
        "user": "marketplace_ops",
        "password": "p@ss",
        "options": {"connect_timeout": 5, "sslmode": "require", "channel_binding": "require"},
    }


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "²"])
def test_an_invalid_number_of_backups_is_refused(run: Run, value: str) -> None:
    done = run("-c", "import config.settings", BACKUP_KEEP=value)
    assert done.returncode != 0
    assert f"BACKUP_KEEP is {value!r}" in done.stderr.splitlines()[-1]
