"""The inventory has the workers of the document."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.workers import (
    worker_command,
    worker_options,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def inventory() -> dict[str, Any]:
    path = ROOT / "inventories/aiecommerce/group_vars/all/celery.yml"
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def test_each_worker_executes_one_task_at_a_time(inventory: dict[str, Any]) -> None:
    instances = inventory["celery_worker_instances"]
    assert len(instances) == 2, "and there are several workers"
    for name in instances:
        options = worker_options(name, instances, inventory["celery_worker_defaults"])
        command = worker_command(inventory["celery_app_module"], f"{name}@worker1", options)
        found = dict(re.findall(r"--(concurrency|prefetch-multiplier|autoscale)[= ](\S+)", command))
        # It does not fetch a second one in the meantime either.
        assert found == {"concurrency": "1", "prefetch-multiplier": "1"}
