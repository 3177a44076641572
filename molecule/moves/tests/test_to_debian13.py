"""The Redis host is reinstalled with Debian 13, and its data moves along, as docs/hosts.md says.

This file comes last: there is no way back, since Redis 7.0 does not read what 8.0 has saved.
"""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

from support import database, resp, tasks, units
from support.rebuild import make_hosts
from support.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from support.change import Fleets

ARCHIVE = "/var/tmp/redis.tar.gz"
SECONDS = 3.0  # of a task


def docker_copy(source: str, target: str) -> None:
    """Copy a file from or to a host, as an operator does with scp."""
    subprocess.run(["docker", "cp", source, target], check=True, capture_output=True, timeout=60)


def has_result(changes: Fleets, identity: str) -> bool:
    with resp.session(changes.fleet, "results", "worker") as client:
        return bool(client.send("EXISTS", f"celery-task-meta-{identity}"))


def test_data_of_redis_moves_to_a_new_host(changes: Fleets, label: str, tmp_path: Path) -> None:
    fleet = changes.fleet
    host = fleet.one("redis")
    assert resp.version(fleet, "broker").startswith("Redis 7.0.")
    # One task has ended, and its result is kept; some run when the fleet is stopped; and some wait.
    ended = f"{label}-ended"
    (identity,) = tasks.send(fleet, [tasks.tracer(ended, "discounts", 0)])
    database.assert_ran_once(fleet, ended, 1, 30)
    number = 12 * fleet.of("celery_workers")["celery_worker_instances"]["discounts"]["concurrency"]
    moved = f"{label}-moved"
    # At the full hour beat sends a task to this queue, too.
    tasks.wait_until_none_is_due(fleet, "app.tasks.recompute_", minutes=2)
    tasks.send(
        fleet, [tasks.tracer(f"{moved}-{n:02d}", "discounts", SECONDS) for n in range(number)]
    )

    for name in (*fleet.hosts("celery_workers"), *fleet.hosts("celery_beat")):
        fleet.must(name, ["celery-fleet", "stop"])
    tasks.send(fleet, [tasks.tracer(f"{moved}-last", "analytics", 0)])
    begun = {run["run_id"] for run in database.runs(fleet, moved)}
    with resp.session(fleet, "broker", "operator") as broker:
        waiting = broker.send("LLEN", "discounts")
        assert broker.send("ZRANGE", "unacked_index", 0, -1) == []
    assert waiting == number - len(begun) > 0
    assert has_result(changes, identity), "nothing would show that results move"

    app = changes.app
    fleet.must(host, f"systemctl stop redis@{app}-broker redis@{app}-results")
    fleet.must(host, f"tar -C /var/lib -czf {ARCHIVE} celery-fleet-redis")
    kept = tmp_path / "redis.tar.gz"
    docker_copy(f"{fleet.containers[host]}:{ARCHIVE}", str(kept))
    make_hosts(fleet.state.name, {**dict.fromkeys(fleet.hosts(), "bookworm"), host: "trixie"})
    assert fleet.must(host, "find /var/lib /etc -name 'celery-fleet*'") == ""
    docker_copy(str(kept), f"{fleet.containers[host]}:{ARCHIVE}")
    fleet.must(host, f"tar -C /var/lib -xzf {ARCHIVE} --no-same-owner")

    began = time.monotonic()
    done = changes.site("redis-moved")
    assert done.run.status == 0, done.run.end
    print(f"site.yml onto the new host of Redis: {time.monotonic() - began:.0f} s")
    units.wait_until_up(fleet, 30)
    assert resp.version(fleet, "broker").startswith("Redis 8.")
    assert resp.version(fleet, "results").startswith("Redis 8.")
    # Waiting tasks run, and the task that had ended does not run again.
    database.assert_ran_once(fleet, moved, number + 1, 90)
    assert len(database.runs(fleet, ended)) == 1
    assert has_result(changes, identity)
    tick = database.last_tick(fleet)
    wait_for("beat sends", 15, lambda: database.last_tick(fleet) > tick)
    assert changes.plan("redis-moved-plan").items == []
