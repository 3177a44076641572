"""The plan says what a run then does, and no more is done; the scenario `change` has all the rest of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support import plays, units

if TYPE_CHECKING:
    from pathlib import Path

    from support.inventory import Fleet

pytestmark = pytest.mark.stage(1)

Unit = tuple[str, str]  # host and unit


def planned(fleet: Fleet, title: str, path: Path, *arguments: str) -> dict[Unit, str]:
    """Host and unit -> action, as plan.yml says it."""
    path.unlink(missing_ok=True)
    options = ("-e", f"fleet_plan_json={path}", *arguments)
    run = plays.play(fleet, title, *options, playbook="playbooks/plan.yml")
    assert run.status == 0, run.end
    assert run.changed == dict.fromkeys(fleet.hosts(), 0)
    plan = json.loads(path.read_text())
    return {(i["host"], i["subject"]): i["action"] for i in plan["items"] if i["subject"]}


@pytest.mark.unit("{celery_app_name}-worker@*", "celery_workers")
def test_a_run_does_what_the_plan_says_and_no_more(fleet: Fleet, tmp_path: Path) -> None:
    app = fleet.of("fleet")["celery_app_name"]
    instances: dict[str, Any] = fleet.of("celery_workers")["celery_worker_instances"]
    hosts = {
        name: enabled
        for name in fleet.hosts("celery_workers")
        for enabled in [fleet.expected[name]["celery_worker_enabled"]]
    }
    worker = next(name for name in instances if sum(name in e for e in hosts.values()) > 1)
    changed = {worker: {**instances[worker], "concurrency": instances[worker]["concurrency"] + 1}}
    values = {
        "celery_worker_instances": {**instances, **changed},
        "redis_broker_maxmemory": "300mb",
    }
    layer = tmp_path / "layer.json"
    layer.write_text(json.dumps(values))
    arguments = (f"--extra-vars=@{layer}",)
    restarts = {
        (host, f"{app}-worker@{worker}.service")
        for host, enabled in hosts.items()
        if worker in enabled
    }
    broker = (fleet.one("redis"), f"redis@{app}-broker.service")

    before = units.main_pids(fleet)
    path = tmp_path / "plan.json"
    assert planned(fleet, "plan", path, *arguments) == {
        **dict.fromkeys(restarts, "restart"),
        broker: "live",
    }
    run = plays.play(fleet, "as-planned", *arguments)
    assert run.status == 0, run.end
    after = units.main_pids(fleet)
    assert {unit for unit in before if before[unit] != after.get(unit)} == restarts
    assert planned(fleet, "plan-after", path, *arguments) == {}

    run = plays.play(fleet, "as-before")
    assert run.status == 0, run.end
    assert planned(fleet, "plan-before", path) == {}
