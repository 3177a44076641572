"""The application and its inventory fit together, and agree with the document."""

from __future__ import annotations

import getpass
import grp
import json
import os
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.settings import (
    process_settings,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.workers import (
    worker_command,
    worker_options,
)

from celery_fleet.config.entries import parse_entries
from tests.facts import facts
from tests.programs import required
from tests.render.units import render
from tests.unit.django_example import Run
from tests.unit.marketplace_ops import documented

ROOT = Path(__file__).resolve().parents[3]
Read = Callable[..., dict[str, Any]]
INVENTORY = ROOT / "inventories/marketplace_ops"

UNDER_THE_LOADER = """
from config import celery_app as app
app.loader.import_default_modules()
found = {"loader": type(app.loader).__name__, "broker": app.conf.broker_url}
found["queues"] = {
    name: app.amqp.router.route({}, name)["queue"].name
    for name in app.tasks if not name.startswith("celery.")
}
found["limits"] = {
    name: [task.soft_time_limit or app.conf.task_soft_time_limit, task.time_limit or app.conf.task_time_limit]
    for name, task in app.tasks.items() if not name.startswith("celery.")
}
"""
REMOVE = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from core.logs import remove_old
directory, moment = sys.argv[1:]
print(*remove_old(Path(directory), datetime.fromisoformat(moment))["removed"])
"""


@pytest.fixture(scope="module")
def inventory() -> dict[str, Any]:
    content: dict[str, Any] = {}
    for path in (INVENTORY / "group_vars/all").glob("*.yml"):
        content |= yaml.safe_load(path.read_text())
    return content


@pytest.fixture(scope="module")
def hosts() -> dict[str, list[str]]:
    """Return the workers of each host."""
    tree = yaml.safe_load((INVENTORY / "hosts.yml").read_text())
    workers = tree["fleet"]["children"]["celery_workers"]["hosts"]
    return {host: variables["celery_worker_host_instances"] for host, variables in workers.items()}


@pytest.fixture(scope="module")
def worker(read: Read, inventory: dict[str, Any], tmp_path_factory: Any) -> dict[str, Any]:
    """Return the application's settings in a worker of the fleet."""
    endpoint = {"host": "redis1", "port": inventory["celery_app_broker_port"]}
    settings = process_settings(
        facts(
            inventory["celery_app_name"],
            broker=endpoint,
            results=endpoint,
            routes=inventory["celery_app_task_routes"],
        ),
        "worker",
        "not-a-real-password",
    )
    path = tmp_path_factory.mktemp("settings") / "settings.json"
    path.write_text(json.dumps(settings))
    return read(
        UNDER_THE_LOADER,
        CELERY_LOADER="celery_fleet.loader.FleetLoader",
        CELERY_FLEET_COMPONENT="worker",
        CELERY_FLEET_SETTINGS=str(path),
        PYTHONPATH=str(ROOT / "src"),
    )


def test_each_task_goes_to_its_documented_queue(worker: dict[str, Any]) -> None:
    """Celery's own router decides, with the inventory's routes from the loader."""
    assert worker["loader"] == "FleetLoader"
    assert worker["broker"].startswith("rediss://worker:")
    assert worker["queues"] == documented.TASKS


def test_the_schedule_is_the_documented_table(inventory: dict[str, Any]) -> None:
    assert inventory["celery_beat_scheduler"] == "database"
    assert inventory["celery_beat_schedule"] == {
        name: {"task": task, **when} for name, (task, when) in documented.SCHEDULE.items()
    }
    assert len(documented.SCHEDULE) == 10
    # The fleet accepts the schedule, and each entry's task has a queue.
    entries = parse_entries(inventory["celery_beat_schedule"])
    assert {entry.task for entry in entries.values()} <= set(documented.TASKS)
    assert all(entry.enabled and entry.queue is None for entry in entries.values())


def test_six_workers_of_one_queue_each_with_the_documented_concurrency(
    inventory: dict[str, Any], hosts: dict[str, list[str]]
) -> None:
    instances, defaults = inventory["celery_worker_instances"], inventory["celery_worker_defaults"]
    for name, (concurrency, _) in documented.QUEUES.items():
        options = worker_options(name, instances, defaults)
        command = worker_command(inventory["celery_app_module"], f"{name}@worker1", options)
        assert f"-A config worker -n {name}@worker1 -Q {name} " in command
        assert f" --concurrency={concurrency} " in f"{command} "
    assert set(instances) == set(documented.QUEUES)
    # Each worker is on one host.
    assert sorted(name for names in hosts.values() for name in names) == sorted(instances)


@pytest.mark.parametrize("name", documented.QUEUES)
def test_each_worker_has_limits(inventory: dict[str, Any], name: str) -> None:
    options = worker_options(
        name, inventory["celery_worker_instances"], inventory["celery_worker_defaults"]
    )
    assert {"memory_max", "cpu_quota", "tasks_max", "max_tasks_per_child"} <= set(options)


def test_no_task_may_run_longer_than_its_worker_waits_for_it(
    inventory: dict[str, Any], worker: dict[str, Any]
) -> None:
    """A worker's limit is that of its longest task, because a stop waits that long."""
    instances, defaults = inventory["celery_worker_instances"], inventory["celery_worker_defaults"]
    for queue, (_, tasks) in documented.QUEUES.items():
        options = worker_options(queue, instances, defaults)
        longest = max(worker["limits"][task] for task in tasks)
        assert longest == [options["soft_time_limit"], options["time_limit"]], queue


def test_directories_are_writable_for_the_worker(
    inventory: dict[str, Any], hosts: dict[str, list[str]]
) -> None:
    app, environment = inventory["celery_app_name"], inventory["celery_app_env"]
    writable = inventory["celery_worker_instances"]["maintenance"]["read_write_paths"]
    assert Path(environment["BACKUP_DIRECTORY"]).parent == Path(writable[0])
    # It exists on every worker host; a unit does not start if one of these is missing.
    assert writable == [f"/var/lib/{app}"]
    # LogsDirectory= of every unit that logs to a file.
    assert environment["LOG_DIRECTORY"] == f"/var/log/{app}"
    assert inventory["celery_app_log_destination"] == "file"
    assert "postgresql-client" in inventory["celery_runtime_packages"]


def test_beat_may_reach_the_database_that_holds_its_schedule(inventory: dict[str, Any]) -> None:
    assert "groups['celery_beat']" in inventory["postgresql_clients"]


TURNS = 4


@pytest.mark.parametrize(
    ("style", "pause"),
    [
        ("", 0.0),
        # A site's default may name rotated files by date; then two rotations within a second have the same name.
        pytest.param("dateext\n    dateformat -%Y%m%d-%s", 1.1, marks=pytest.mark.slow),
    ],
    ids=["numbers", "dates"],
)
def test_the_cleanup_does_not_fight_the_rotation(
    run: Run, tmp_path: Path, style: str, pause: float
) -> None:
    """They take turns, with the fleet's own configuration: compressed files are deleted, and logrotate misses none."""
    logs = tmp_path / "logs"
    logs.mkdir(mode=0o750)
    configuration = render(
        "logrotate.j2",
        {
            "__celery_app_log_directory": str(logs),
            "__celery_app_log_rotate": {"when": "daily", "keep": 14},
            "celery_app_name": "shop",
            "celery_app_user": "shop",
        },
    )
    user, group = getpass.getuser(), grp.getgrgid(os.getgid()).gr_name
    configuration = configuration.replace("su shop shop", f"su {user} {group}")
    path = tmp_path / "logrotate.conf"
    path.write_text(configuration.replace("    compress\n", f"    compress\n    {style}\n", 1))
    path.chmod(0o644)
    log = logs / "celery_maintenance.log"
    moment = 1_700_000_000.0
    removed: list[str] = []
    for turn in range(TURNS):
        time.sleep(pause)
        log.write_text(f"line {turn}\n")
        # Each turn is a day later.
        os.utime(log, (moment + 86400 * turn,) * 2)
        state = ["--state", str(tmp_path / "state")]
        done = subprocess.run(
            [required("logrotate"), "--force", *state, str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        # In each turn, all except the newest day count as old.
        old = datetime.fromtimestamp(moment + 86400 * turn - 1, tz=UTC)
        found = run("-c", REMOVE, str(logs), old.isoformat())
        assert found.returncode == 0, found.stderr
        removed += found.stdout.split()
        left = sorted(path.name for path in logs.iterdir())
        assert len(left) == 1, left
        assert not left[0].endswith(".gz")
    assert len(removed) == TURNS - 1
