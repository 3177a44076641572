"""The application's settings, read in a separate process, because a Celery application is global state."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

READ = """
import json
from app.celery_app import celery_app as app
conf = app.conf
names = ("task_time_limit", "task_soft_time_limit", "worker_prefetch_multiplier",
         "worker_max_tasks_per_child", "broker_url", "result_backend", "beat_schedule", "include")
settings = {name: conf[name] for name in names}
settings["queues"] = sorted(app.amqp.queues)
settings["routes"] = {
    task: app.amqp.router.route({}, f"app.tasks.{task}")["queue"].name
    for task in ("recompute_all_discounts", "cleanup_expired_discounts", "update_price_history")
}
settings["bindings"] = {name: queue.routing_key for name, queue in app.amqp.queues.items()}
print(json.dumps(settings))
"""


def read(backend: Path, **environment: str) -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", READ],
        cwd=backend,
        env={"PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    settings: dict[str, Any] = json.loads(run.stdout)
    return settings


@pytest.fixture(scope="module")
def settings(backend: Path) -> dict[str, Any]:
    return read(backend)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task_time_limit", 1800),
        ("task_soft_time_limit", 1500),
        ("worker_prefetch_multiplier", 4),
        ("worker_max_tasks_per_child", 1000),
        ("broker_url", "redis://localhost:6379/0"),
        ("result_backend", "redis://localhost:6379/1"),
    ],
)
def test_settings_are_the_documented_ones(
    settings: dict[str, Any], name: str, value: int | str
) -> None:
    assert settings[name] == value


def test_tasks_go_to_the_documented_queues(settings: dict[str, Any]) -> None:
    assert settings["routes"] == {
        "recompute_all_discounts": "discounts",
        "cleanup_expired_discounts": "maintenance",
        "update_price_history": "analytics",
    }


def test_a_worker_without_options_consumes_every_queue(settings: dict[str, Any]) -> None:
    assert settings["queues"] == ["analytics", "discounts", "maintenance"]
    assert settings["bindings"] == {name: name for name in settings["queues"]}


def test_the_schedule_is_left_to_the_deployment(settings: dict[str, Any]) -> None:
    assert settings["beat_schedule"] == {}


def test_broker_and_results_come_from_the_environment(backend: Path) -> None:
    settings = read(
        backend, CELERY_BROKER_URL="redis://broker:1/0", CELERY_RESULT_BACKEND="redis://results:2/0"
    )
    assert settings["broker_url"] == "redis://broker:1/0"
    assert settings["result_backend"] == "redis://results:2/0"
