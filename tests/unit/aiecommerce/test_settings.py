"""The settings are those of the document; they are read in a separate process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.aiecommerce.conftest import Run

# Each test starts Django; their results only change with the example.
pytestmark = pytest.mark.slow

READ = """
import json
from celery.app.utils import find_app
from django.conf import settings
app = find_app("aiecommerce")  # as `celery -A aiecommerce` does
names = ("broker_url", "result_backend", "timezone", "enable_utc", "task_always_eager",
         "task_default_queue", "task_routes")
print(json.dumps({
    **{name: app.conf[name] for name in names},
    "name": app.main,
    "module": type(app).__module__,
    "queue": app.amqp.router.route({}, "run_scrape_tecnomega")["queue"].name,
    "database": settings.DATABASES["default"],
    "allowed_hosts": settings.ALLOWED_HOSTS,
    "debug": settings.DEBUG,
    "whitenoise": any("whitenoise" in name for name in settings.MIDDLEWARE),
    "time_zone": settings.TIME_ZONE,
    "cookies": [settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME],
}, default=str))
"""

READ_TASKS = """
from celery.app.utils import find_app
app = find_app("aiecommerce")
app.loader.import_default_modules()  # as a worker does
print(*sorted(name for name in app.tasks if not name.startswith("celery.")))
"""
TASKS = [
    "run_enrich_products",
    "run_image_fetcher",
    "run_ml_eligibility_update",
    "run_normalize_products",
    "run_prune_scrapes",
    "run_scrape_tecnomega",
    "run_sync_price_list",
    "update_product_price",
]


def read(run: Run, **environment: str) -> dict[str, Any]:
    done = run("-c", READ, **environment)
    assert done.returncode == 0, done.stderr
    settings: dict[str, Any] = json.loads(done.stdout)
    return settings


@pytest.fixture(scope="module")
def settings(run: Run) -> dict[str, Any]:
    return read(run, SECRET_KEY="not-a-real-key")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", "aiecommerce"),
        ("broker_url", "redis://127.0.0.1:6379/0"),
        ("result_backend", "redis://127.0.0.1:6379/0"),
        ("timezone", "America/Guayaquil"),
        ("enable_utc", True),
        ("task_always_eager", False),
        ("task_routes", None),
        ("queue", "celery"),
        ("debug", False),
        ("whitenoise", True),
        ("time_zone", "America/Guayaquil"),
        # Another site on the host also sets cookies, and they ignore the port.
        ("cookies", ["aiecommerce_sessionid", "aiecommerce_csrftoken"]),
    ],
)
def test_settings_are_the_documented_ones(settings: dict[str, Any], name: str, value: Any) -> None:
    assert settings[name] == value


def test_tasks_have_the_documented_names(run: Run) -> None:
    done = run("-c", READ_TASKS, SECRET_KEY="not-a-real-key")
    assert done.stdout.split() == TASKS, done.stderr


def test_settings_come_from_the_environment(run: Run) -> None:
    settings = read(
        run,
        SECRET_KEY="not-a-real-key",
        ALLOWED_HOSTS="shop.example.com, 192.0.2.4",
        DATABASE_URL="postgresql://me:p%40ss@db/shop?sslmode=require&channel_binding=require",
        CELERY_BROKER_URL="redis://broker:1/0",
        CELERY_TASK_ALWAYS_EAGER="1",
    )
    assert settings["allowed_hosts"] == ["shop.example.com", "192.0.2.4"]
    database = settings["database"]
    assert (database["NAME"], database["USER"], database["PASSWORD"]) == ("shop", "me", "p@ss")
    assert database["OPTIONS"]["sslmode"] == "require"
    assert database["OPTIONS"]["channel_binding"] == "require"
    # By default results go to the broker's Redis.
    assert settings["broker_url"] == settings["result_backend"] == "redis://broker:1/0"
    assert settings["task_always_eager"] is True


def test_the_old_name_of_eager_mode_is_not_read_from_the_environment(run: Run) -> None:
    settings = read(run, SECRET_KEY="not-a-real-key", CELERY_ALWAYS_EAGER="1")
    assert settings["task_always_eager"] is False


@pytest.mark.parametrize(("without_the_new", "eager"), [("True", True), ("False", False)])
def test_the_old_name_of_eager_mode_as_a_setting(
    run: Run, without_the_new: str, eager: bool
) -> None:
    """As README.md says: Celery accepts the old name if it is the only one; the new name, used here, overrides it."""
    code = f"""
from aiecommerce import settings
settings.CELERY_ALWAYS_EAGER = True
if {without_the_new}:
    del settings.CELERY_TASK_ALWAYS_EAGER
from celery.app.utils import find_app
print(find_app("aiecommerce").conf.task_always_eager)
"""
    done = run("-c", code, SECRET_KEY="not-a-real-key")
    assert done.stdout.split() == [str(eager)], done.stderr


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "SECRET_KEY is not set"),
        ({"SECRET_KEY": "x", "DEBUG": "perhaps"}, "DEBUG is 'perhaps'"),
        ({"DEBUG": "1", "CATALOG_SCRAPE_RETENTION_DAYS": "0"}, "RETENTION_DAYS is '0'"),
    ],
)
def test_a_mistake_is_named(run: Run, environment: dict[str, str], said: str) -> None:
    done = run("manage.py", "migrate", **environment)
    assert done.returncode != 0
    assert said in done.stderr.splitlines()[-1]


def test_a_developer_needs_no_key_and_no_whitenoise(run: Run) -> None:
    settings = read(run, DEBUG="1")
    assert settings["debug"] is True
    assert settings["whitenoise"] is False
