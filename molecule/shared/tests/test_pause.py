"""Pauses outlast restarts and runs, and lose no task."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from support import database, plays, tasks

if TYPE_CHECKING:
    from support.inventory import Fleet

pytestmark = pytest.mark.stage(1)

#: Longer than a worker's poll of its queues, and than the start of a task.
QUIET = 3.0


@pytest.fixture
def place(fleet: Fleet) -> Iterator[tuple[str, str]]:
    """Return a worker host, and a worker that runs only there."""
    host = fleet.one("celery_workers")
    workers = fleet.expected[host]["celery_worker_host_instances"]
    yield host, workers[0]
    for pause in status(fleet, host)["pauses"]:
        kind, _, name = pause["target"].partition(":")
        option = f"--{kind}={name}" if name else "--all"
        fleet.must(host, ["celery-fleet", "resume", option])


def status(fleet: Fleet, host: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        fleet.execute(host, "celery-fleet --format json status").output
    )
    return found


def queue_of(fleet: Fleet, host: str, worker: str) -> str:
    own = fleet.expected[host]["celery_worker_instances"][worker]
    return str(own.get("queues", [worker])[0])


def begins_nothing(fleet: Fleet, label: str) -> None:
    end = time.monotonic() + QUIET
    while time.monotonic() < end:
        assert database.runs(fleet, label) == []
        time.sleep(0.5)


def test_a_pause_outlasts_restarts_and_runs(
    fleet: Fleet, label: str, place: tuple[str, str]
) -> None:
    host, worker = place
    queue = queue_of(fleet, host, worker)
    # At the full hour beat sends a task to this queue, too.
    tasks.wait_until_none_is_due(fleet, "app.tasks.recompute_", minutes=3)
    fleet.must(host, ["celery-fleet", "pause", f"--queue={queue}", "--why=host tests", "--wait=60"])
    waiting = status(fleet, host)["queues"][queue]["waiting"]
    tasks.send(fleet, [tasks.tracer(f"{label}-{number}", queue, 0) for number in range(3)])
    begins_nothing(fleet, label)

    for name in fleet.hosts("celery_workers"):
        if worker in fleet.expected[name]["celery_worker_host_instances"]:
            app = fleet.expected[name]["celery_app_name"]
            fleet.must(name, ["systemctl", "kill", "-s", "KILL", f"{app}-worker@{worker}.service"])
            fleet.must(name, ["systemctl", "restart", f"{app}-worker@{worker}.service"])
    begins_nothing(fleet, label)

    run = plays.play(fleet, "paused", "--extra-vars=celery_restart_all=true")
    assert run.status == 0, run.end
    assert f"has paused {queue}" in run.text
    begins_nothing(fleet, label)
    found = status(fleet, host)
    assert found["problems"] == []
    assert [pause["why"] for pause in found["pauses"]] == ["host tests"]
    assert found["queues"][queue]["waiting"] == waiting + 3

    fleet.must(host, ["celery-fleet", "resume", f"--queue={queue}"])
    database.assert_ran_once(fleet, label, 3, 20)


def test_a_host_is_drained_and_brought_back_by_playbooks(
    fleet: Fleet, label: str, place: tuple[str, str]
) -> None:
    host, worker = place
    queue = queue_of(fleet, host, worker)
    others = [
        name
        for name in fleet.hosts("celery_workers")
        if name != host and worker in fleet.expected[name]["celery_worker_host_instances"]
    ]
    run = plays.play(
        fleet,
        "drain-host",
        f"--extra-vars=celery_pause_hosts={host}",
        playbook="playbooks/drain_host.yml",
    )
    assert run.status == 0, run.end
    tasks.send(fleet, [tasks.tracer(f"{label}-{number}", queue, 0) for number in range(4)])
    if others:
        database.assert_ran_once(fleet, label, 4, 20)
        nodes = {one["node"] for one in database.runs(fleet, label)}
        assert nodes <= {f"{worker}@{name}" for name in others}
    else:
        begins_nothing(fleet, label)
    assert status(fleet, host)["workers"][f"{worker}@{host}"]["state"] == "paused"

    run = plays.play(
        fleet,
        "bring-back",
        f"--extra-vars=celery_pause_hosts={host}",
        playbook="playbooks/resume.yml",
    )
    assert run.status == 0, run.end
    assert status(fleet, host)["pauses"] == []
    database.assert_ran_once(fleet, label, 4, 20)


def test_what_cannot_be_paused_is_refused(fleet: Fleet) -> None:
    run = plays.play(
        fleet,
        "pause-refused",
        "--extra-vars=celery_pause_queues=nowhere",
        playbook="playbooks/pause.yml",
    )
    assert run.status != 0
    assert "queue nowhere: the inventory has" in run.text
