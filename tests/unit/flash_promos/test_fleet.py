"""The application and its inventory fit together, and the fleet's loader keeps the application's settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.delivery import parts
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.settings import (
    process_settings,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.workers import (
    worker_command,
    worker_options,
)

from tests.facts import facts

ROOT = Path(__file__).resolve().parents[3]
Read = Callable[..., dict[str, Any]]
VARIABLES = ROOT / "inventories/flash_promos/group_vars/all"

UNDER_THE_LOADER = """
from marketplace import celery_app as app
names = ("broker_url", "task_acks_late", "worker_prefetch_multiplier", "worker_max_tasks_per_child",
         "worker_pool_restarts", "worker_log_format", "beat_schedule")
found = {name: app.conf[name] for name in names}
found["loader"] = type(app.loader).__name__
"""


@pytest.fixture(scope="module")
def inventory() -> dict[str, Any]:
    content: dict[str, Any] = {}
    for path in VARIABLES.glob("*.yml"):
        content |= yaml.safe_load(path.read_text())
    return content


def test_the_inventory_repeats_none_of_the_applications_settings(inventory: dict[str, Any]) -> None:
    # The schedule and both log formats are the application's.
    assert {name for name in inventory if "schedule" in name or "log" in name} == set()
    assert not {"prefetch_multiplier", "max_tasks_per_child"} & set(
        inventory["celery_worker_defaults"]
    )


@pytest.mark.parametrize("component", ["worker", "producer", "beat"])
def test_the_applications_settings_survive_the_loader(
    read: Read, tmp_path: Path, inventory: dict[str, Any], component: str
) -> None:
    settings = process_settings(
        facts(inventory["celery_app_name"]), component, "not-a-real-password"
    )
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings))
    found = read(
        UNDER_THE_LOADER,
        CELERY_LOADER="celery_fleet.loader.FleetLoader",
        CELERY_FLEET_COMPONENT=component,
        CELERY_FLEET_SETTINGS=str(path),
        PYTHONPATH=str(ROOT / "src"),
    )
    assert found["loader"] == "FleetLoader"
    assert found["broker_url"].startswith(f"rediss://{component}:")
    assert found["task_acks_late"] is True
    assert found["worker_prefetch_multiplier"] == 1
    assert found["worker_max_tasks_per_child"] == 1000
    assert found["worker_pool_restarts"] is True
    assert found["worker_log_format"] == "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
    assert {name: entry["schedule"] for name, entry in found["beat_schedule"].items()} == {
        "check-flash-promos-every-minute": 60.0,
        "cleanup-expired-promos-every-hour": 3600.0,
        "process-notification-queue-every-30s": 30.0,
    }


def test_failed_tasks_are_kept_and_reported(inventory: dict[str, Any]) -> None:
    """The document's "Dead Letter Queue" and "Alertas"."""
    knobs = {"failed_keep": inventory["celery_worker_max_failed_dead_letters"]}
    found = parts(inventory["celery_app_delivery"], knobs)
    assert (found["dead_letters"], found["failed"]) == (True, 1000)
    # Changes of health are reported, and dead letters are part of health.
    program, *_ = inventory["celery_health_on_change"]
    assert program == "/usr/bin/systemd-cat"
    assert "dead_letters" not in inventory.get("celery_health_thresholds", {})


def test_the_workers_command_line_does_not_override_the_applications_settings(
    inventory: dict[str, Any],
) -> None:
    options = worker_options(
        "default", inventory["celery_worker_instances"], inventory["celery_worker_defaults"]
    )
    command = worker_command(inventory["celery_app_module"], "default@worker1", options)
    assert "-A marketplace worker -n default@worker1 -Q celery " in command
    assert "--prefetch-multiplier" not in command
    assert "--max-tasks-per-child" not in command
    assert "--loglevel=INFO" in command
