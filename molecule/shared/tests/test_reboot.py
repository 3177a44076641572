"""All hosts go down and come up, Redis last, and the fleet recovers by itself.

A host that starts before Redis is the hard case; one that starts after it has less to wait for.
"""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from support import database, tasks, units, web
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.inventory import Fleet

BOOT = 90.0  # seconds from the last host's start
LATE = 45.0
STOP = 40.0  # seconds; no task runs then

pytestmark = [
    pytest.mark.usefixtures("nothing_refused"),
    pytest.mark.stage(4),
    pytest.mark.unit("{celery_app_name}-worker@*", "celery_workers"),
    pytest.mark.unit("{celery_app_name}-beat.service", "celery_beat"),
]


def docker(*words: str) -> None:
    """Run the docker client."""
    subprocess.run(["docker", *words], check=True, capture_output=True, timeout=120)


def leave_waiting(fleet: Fleet, label: str) -> int:
    """Send tasks to a queue whose worker is busy and holds as many as it may; return how many wait."""
    queue, held, waiting = "analytics", 4, 3
    tasks.send(fleet, [tasks.tracer(f"{label}-running", queue, 120)])
    wait_for("it runs", 10, lambda: database.runs(fleet, f"{label}-running"))
    tasks.send(fleet, [tasks.tracer(f"{label}-held-{n}", queue, 0) for n in range(held)])
    tasks.send(fleet, [tasks.tracer(f"{label}-waiting-{n}", queue, 0) for n in range(waiting)])
    time.sleep(2)
    return waiting


def works(fleet: Fleet) -> list[str]:
    """Return what does not work yet, checked in this order: systemd, units, Flower's view, API with a worker, beat."""
    for name in fleet.hosts():
        state = fleet.execute(name, ["systemctl", "is-system-running"]).output.strip()
        if state != "running" and (state != "degraded" or units.failed(fleet, name)):
            return [f"{name} is {state}"]
    return units.down(fleet)


def prove(fleet: Fleet) -> None:
    """Run a task through API, broker, worker, database and results, and wait for a tick of beat."""
    tick = database.last_tick(fleet)
    answer = web.api(fleet, "/api/v1/admin/discounts/trigger-recompute", "POST")
    assert answer.status == 202, answer.body
    status = answer.json["status_url"]

    def state() -> str:
        seen = web.api(fleet, status)
        return seen.json["state"] if seen.status == 200 else ""

    wait_for("the task of the API succeeds", 20, lambda: state() == "SUCCESS")
    wait_for("beat's probe is run", 20, lambda: database.last_tick(fleet) > tick)


@pytest.mark.parametrize("order", ["redis-last", "redis-late"])
def test_the_fleet_comes_up_by_itself(
    fleet: Fleet, order: str, label: str, note: Callable[[str], None]
) -> None:
    redis = fleet.hosts("redis")
    others = [name for name in fleet.hosts() if name not in redis]
    everyone = [fleet.containers[name] for name in fleet.hosts()]
    asked = time.monotonic()
    if order == "redis-last":
        # As in a power failure, and with tasks that have not started.
        waiting = leave_waiting(fleet, label)
        docker("kill", *everyone)
    else:
        waiting = 0
        docker("stop", "--time=60", *everyone)
    started = time.monotonic()
    for names in (others, redis):
        docker("start", *(fleet.containers[name] for name in names))
        if order == "redis-late" and names is others:
            time.sleep(LATE)
    last = time.monotonic()
    wait_for(
        "the whole fleet is up",
        BOOT,
        lambda: not works(fleet),
        pause=1,
        explain=lambda: "\n".join(works(fleet)),
    )
    prove(fleet)
    now = time.monotonic()
    assert started - asked < STOP, "this is how long a host took to stop"
    database.assert_ran_once(fleet, f"{label}-waiting-", waiting, 10)
    note(
        f"works {now - last:.0f} s after the last host's start, {now - started:.0f} s after the first's"
    )
