"""Runs of the delivered playbooks: what changes, what must not, and what is refused."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from support import database, plays, tasks, units
from support.inventory import ROOT
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
    # What the refusals below must not do is counted rightly.
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
    # All errors at once, with the remedy, and without the value of what may be a secret.
    assert "celery_worker_instnaces" in run.text
    assert "celery_worker_instances" in run.text
    assert "redis_broker_port" in run.text
    assert "many" in run.text


def test_release_that_does_not_import_changes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    source = fleet.of("fleet")["celery_app_source"]
    copy = tmp_path / "source"
    shutil.copytree(ROOT / source["path"], copy)
    broken = copy / "app" / "tasks.py"
    lines = broken.read_text().splitlines(keepends=True)
    lines.append("def broken(:\n")
    broken.write_text("".join(lines))
    other = tmp_path / "other.yml"
    other.write_text(json.dumps({"celery_app_source": {**source, "path": str(copy)}}))

    processes, before = units.main_pids(fleet), releases(fleet)
    run = plays.play(fleet, "broken-release", f"--extra-vars=@{other}")
    assert run.status != 0
    assert "SyntaxError" in run.text
    assert "app/tasks.py" in run.text
    assert f"line {len(lines)}" in run.text
    assert units.main_pids(fleet) == processes
    assert releases(fleet) == before


def releases(fleet: Fleet) -> dict[str, str]:
    """Host -> its links into releases, and the releases that are whole."""
    script = """
        cd {root} 2>/dev/null || exit 0
        for link in pins/* current; do echo "$link $(readlink $link)"; done
        ls releases/*/release.json
    """
    return {
        name: fleet.execute(
            name, script.format(root=fleet.expected[name]["celery_app_root"])
        ).output
        for name in fleet.hosts("fleet")
    }


def traces(fleet: Fleet, name: str, worker: str) -> str:
    """All files that a worker of a host has."""
    variables = fleet.expected[name]
    app = variables["celery_app_name"]
    script = f"""
        find {variables["celery_app_directory"]} {variables["celery_app_root"]}/pins \
          /etc/systemd/system /run/systemd /var/lib/celery-fleet \
          -name 'worker-{worker}*' -o -name '{app}-worker@{worker}*' 2>/dev/null
    """
    return fleet.execute(name, script).output


@pytest.mark.unit("{celery_app_name}-worker@*", "celery_workers")
def test_worker_leaves_and_comes_back(fleet: Fleet, tmp_path: Path, label: str) -> None:
    """One that another host has too, so that its queue goes on being served."""
    name, worker = next(
        (name, worker)
        for name in fleet.hosts("celery_workers")
        for worker in fleet.expected[name]["celery_worker_enabled"]
        if len([n for n in fleet.hosts("celery_workers")
                if worker in fleet.expected[n]["celery_worker_enabled"]]) > 1
    )  # fmt: skip
    variables = fleet.expected[name]
    others = [other for other in variables["celery_worker_enabled"] if other != worker]
    layer = tmp_path / "layer.yml"
    host = {name: {"celery_worker_enabled": others}}
    layer.write_text(json.dumps({"all": {"hosts": host}}))
    unit = f"{variables['celery_app_name']}-worker@{worker}.service"
    before = units.main_pids(fleet)

    # Twice its slots, of which the other host's worker takes its part: some run here, some wait here.
    number = 2 * variables["celery_worker_instances"][worker]["concurrency"]
    tasks.send(fleet, [tasks.tracer(f"{label}-{n}", worker, 6) for n in range(number)])
    node = f"{worker}@{name}"
    wait_for(
        f"{node} runs one", 10, lambda: node in {r["node"] for r in database.runs(fleet, label)}
    )

    run = plays.play(fleet, "worker-leaves", f"--inventory={layer}")
    assert run.status == 0, run.end
    database.assert_ran_once(fleet, label, number, 30)
    state = units.state(fleet, name, unit)
    assert (state["ActiveState"], state["UnitFileState"]) == ("inactive", "disabled")
    assert traces(fleet, name, worker) == ""
    after = units.main_pids(fleet)
    assert {key: pid for key, pid in before.items() if key != (name, unit)} == after

    run = plays.play(fleet, "worker-comes-back")
    assert run.status == 0, run.end
    units.wait_until_up(fleet, 5)
    assert units.state(fleet, name, unit)["UnitFileState"] == "enabled"
    assert {key: pid for key, pid in units.main_pids(fleet).items() if key in after} == after


@pytest.mark.unit("{celery_app_name}-worker@*", "celery_workers")
def test_running_task_survives_the_restart_of_its_worker(fleet: Fleet, label: str) -> None:
    name = fleet.one("celery_workers")
    # The one with the fewest slots: what waits behind the running task must survive too.
    instances = fleet.expected[name]["celery_worker_instances"]
    enabled = fleet.expected[name]["celery_worker_enabled"]
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
    """With every slot taken and more behind, so that each worker is restarted at work."""
    instances = fleet.of("celery_workers")["celery_worker_instances"]
    taken = [
        worker
        for name in fleet.hosts("celery_workers")
        for worker in fleet.expected[name]["celery_worker_enabled"]
    ]
    slots = [worker for worker in taken for _ in range(instances[worker]["concurrency"])]
    runs = [
        tasks.tracer(f"{label}-{turn}-{number}", worker, seconds)
        for turn, seconds in enumerate((10, 5))
        for number, worker in enumerate(slots)
    ]
    tasks.send(fleet, runs)
    wait_for("they run", 10, lambda: len(database.runs(fleet, label)) == len(slots))
    before = units.main_pids(fleet)
    run = plays.play(fleet, "restart-workers", playbook="playbooks/restart_workers.yml")
    assert run.status == 0, run.end
    after = units.main_pids(fleet)
    workers = {key for key in before if "-worker@" in key[1]}
    assert {key for key in before if before[key] != after.get(key)} == workers
    database.assert_ran_once(fleet, label, len(runs), 30)
