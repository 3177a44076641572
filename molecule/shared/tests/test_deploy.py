"""Runs of the delivered playbooks: what changes, what must not change, and what is refused.

The scenarios `change` and `moves` have more of them: releases that can't be imported, and workers and hosts that leave.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from support import database, plays, tasks, units
from support.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from support.inventory import Fleet

pytestmark = pytest.mark.stage(1)


def test_second_run_changes_nothing(fleet: Fleet) -> None:
    before = units.main_pids(fleet)
    run = plays.play(fleet, "second-run")
    assert run.status == 0, run.end
    assert run.changed == dict.fromkeys(fleet.hosts(), 0)
    assert units.main_pids(fleet) == before
    # The refusals below expect zero contacts; this shows that contacts are counted.
    assert run.contacts > 0


def test_wrong_inventory_is_refused_before_any_host_is_contacted(
    fleet: Fleet, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.yml"
    secret = fleet.of("redis")["redis_passwords"]["worker"]
    wrong.write_text(
        json.dumps({"celery_worker_instnaces": {"password": secret}, "redis_broker_port": "many"})
    )
    run = plays.play(fleet, "refused-inventory", f"--extra-vars=@{wrong}")
    assert run.status != 0
    assert run.contacts == 0
    # All errors are reported at once, with the remedy, and without values that may be secret.
    assert "celery_worker_instnaces" in run.text
    assert "celery_worker_instances" in run.text
    assert "redis_broker_port" in run.text
    assert "many" in run.text


@pytest.mark.unit("{celery_app_name}-worker@*", "celery_workers")
def test_running_task_survives_the_restart_of_its_worker(fleet: Fleet, label: str) -> None:
    name = fleet.one("celery_workers")
    # The worker with the fewest slots: tasks that wait behind the running one must survive too.
    instances = fleet.expected[name]["celery_worker_instances"]
    enabled = fleet.expected[name]["celery_worker_host_instances"]
    worker = min(enabled, key=lambda other: instances[other]["concurrency"])
    unit = f"{fleet.expected[name]['celery_app_name']}-worker@{worker}.service"
    tasks.send(fleet, [tasks.tracer(f"{label}-long", worker, 10)])
    wait_for("it runs", 10, lambda: database.runs(fleet, f"{label}-long"))
    tasks.send(fleet, [tasks.tracer(f"{label}-next-{n}", worker, 0) for n in range(3)])
    before = units.state(fleet, name, unit)
    fleet.must(name, ["systemctl", "restart", unit])
    after = units.state(fleet, name, unit)
    assert after["ActiveState"] == "active"
    assert after["MainPID"] != before["MainPID"]
    database.assert_ran_once(fleet, label, 4, 10)
    assert database.runs(fleet, f"{label}-long")[0]["node"] == f"{worker}@{name}"


@pytest.mark.unit("{celery_app_name}-worker@*", "celery_workers")
def test_running_tasks_survive_the_restart_of_all_workers(fleet: Fleet, label: str) -> None:
    """Every slot is taken and more tasks wait, so each worker is restarted while it works."""
    variables = fleet.of("celery_workers")
    taken = [
        worker
        for name in fleet.hosts("celery_workers")
        for worker in fleet.expected[name]["celery_worker_host_instances"]
    ]
    instances = {
        worker: {
            **variables.get("celery_worker_defaults", {}),
            **variables["celery_worker_instances"][worker],
        }
        for worker in taken
    }
    slots = [worker for worker in taken for _ in range(instances[worker]["concurrency"])]
    # One host may reserve a task for each slot and its whole prefetch, and must leave enough for the others' slots.
    runs = [
        tasks.tracer(f"{label}-{turn}-{number}", worker, 5)
        for turn in range(
            1 + max(each.get("prefetch_multiplier", 4) for each in instances.values())
        )
        for number, worker in enumerate(slots)
    ]
    turns = len(runs) // len(slots)

    def running() -> int:
        return sum(run["finished_at"] is None for run in database.runs(fleet, label))

    tasks.send(fleet, runs)
    wait_for("each slot has one", 10, lambda: running() == len(slots))
    before = units.main_pids(fleet)
    run = plays.play(fleet, "restart-workers", playbook="playbooks/restart_workers.yml")
    assert run.status == 0, run.end
    after = units.main_pids(fleet)
    workers = {key for key in before if "-worker@" in key[1]}
    assert {key for key in before if before[key] != after.get(key)} == workers
    database.assert_ran_once(fleet, label, len(runs), 15 + turns * 5)
