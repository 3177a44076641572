"""Health checks by the systemd timer: good, bad when something is stopped or full, good again; and who is notified."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import documented
import means
import pytest
from support import fleets, units
from support.waiting import wait_for

if TYPE_CHECKING:
    from support.inventory import Fleet

# The checks that every fleet must have.
CHECKED = {
    *("database", "redis", "disk", "memory", "cpu", "workers", "queues", "certificates", "logs"),
}
INTERVAL = 300  # seconds; "every 5 minutes"
TASK = "core.tasks.system_health_check"


def test_every_host_is_well(fleet: Fleet) -> None:
    """`celery-fleet health` runs a check, and its exit status agrees with the result."""
    for host in fleet.hosts("fleet"):
        found = means.ask(fleet, host, "health --now")
        assert [name for name, one in found["checks"].items() if one["state"] == "bad"] == [], found
        assert (found["app"], found["host"]) == (fleets.app_of(fleet), host)
        assert (found["stale"], found["state"] in ("good", "warning")) == (False, True)


def test_everything_documented_is_checked(fleet: Fleet) -> None:
    """Each thing is checked on the hosts that have it; beat's tick on beat's host."""
    host = fleet.one("celery_beat")
    found = means.check(fleet, host)["checks"]
    assert (CHECKED | {"beat"}) - found.keys() == set()
    for worker in fleet.hosts("celery_workers"):
        assert {"database", "redis", "disk", "workers"} <= means.check(fleet, worker)[
            "checks"
        ].keys()
    # Every worker of the inventory is checked, not only this host's.
    text = json.dumps(found["workers"]["value"])
    assert [node for node in fleets.nodes(fleet) if node not in text] == []


def test_the_timer_runs_checks_every_five_minutes(fleet: Fleet) -> None:
    """systemd runs them, so they need neither an operator nor Celery."""
    timer = f"{fleets.app_of(fleet)}-health.timer"
    assert fleet.of("fleet")["celery_health_interval"] == INTERVAL
    for host in fleet.hosts("fleet"):
        command = ["systemctl", "list-timers", "--all", "--output=json", timer]
        (listed,) = json.loads(fleet.must(host, command))
        now = float(fleet.must(host, ["date", "+%s.%N"]))
        assert 0 < listed["next"] / 1e6 - now < INTERVAL + 60, host


def test_the_result_is_readable_and_has_no_secret(fleet: Fleet) -> None:
    path = f"/var/lib/celery-fleet/health/{fleets.app_of(fleet)}.json"
    for host in fleet.hosts("fleet"):
        assert fleet.must(host, ["stat", "-c", "%a", path]).strip() == "644"
        text = fleet.must(host, ["runuser", "-u", "nobody", "--", "cat", path])
        found = [what for what, form in fleets.hidden(fleets.app_of(fleet)) if form in text]
        assert found == []


def test_documented_task_returns_the_last_result_with_its_age(market: Fleet) -> None:
    """The result is that of the worker's host. Without another check it is a minute older a minute later."""
    host = next(
        node.partition("@")[2] for node, queues in fleets.nodes(market).items() if "maintenance" in queues
    )  # fmt: skip
    checked = means.check(market, host)
    first = means.run(market, TASK)["result"]
    assert (first["host"], first["checked"], first["state"]) == (
        host,
        checked["checked"],
        checked["state"],
    )
    assert (first["stale"], 0 <= first["age"] < 60) == (False, True)
    time.sleep(3)
    second = means.run(market, TASK)["result"]
    assert second["checked"] == checked["checked"]
    assert second["age"] >= first["age"] + 3
    # Every process of the application knows the path of the result.
    environment = market.must(
        host, ["cat", "/etc/celery-fleet/marketplace_ops/worker-maintenance.env"]
    )
    assert "CELERY_FLEET_HEALTH=" in environment


# --- what turns it bad, and good again ---------------------------------------------------------------


@contextmanager
def stop(fleet: Fleet, host: str, unit: str) -> Iterator[None]:
    fleet.must(host, ["systemctl", "stop", unit])
    try:
        yield
    finally:
        fleet.must(host, ["systemctl", "start", unit])
        for name in fleets.NAMES:
            units.wait_until_up(fleets.load(name), 90)


def turns_bad(fleet: Fleet, host: str, name: str, says: str) -> dict[str, Any]:
    """Check that the host turns bad, that the message says what and where, and that the command exits with 1."""
    found = means.check(fleet, host)
    one = found["checks"][name]
    assert (found["state"], one["state"]) == ("bad", "bad"), found
    assert re.search(says, one["text"]), one
    done = fleets.call(fleet, host, "health")
    assert (done.status, name in done.output) == (1, True), done.text
    return found


@pytest.mark.stage(4)
def test_postgresql_stopped(market: Fleet) -> None:
    unit = "postgresql@{postgresql_version}-main.service".format_map(market.of("postgresql"))
    host = market.one("celery_workers")
    with stop(market, market.one("postgresql"), unit):
        turns_bad(market, host, "database", r"default: ")
    means.wait_until_good(market, host, "database")


@pytest.mark.stage(4)
def test_redis_stopped(market: Fleet) -> None:
    """The result is written anyway, because that does not depend on Celery."""
    server, unit = means.broker(market)
    host, port = market.one("celery_workers"), market.of("redis")["redis_broker_port"]
    with stop(market, server, unit):
        turns_bad(market, host, "redis", rf"broker .*{port}")
        turns_bad(market, server, "redis", rf"broker .*{port}")
    means.wait_until_good(market, host, "redis")
    means.wait_until_good(market, server, "redis")


@pytest.mark.stage(4)
def test_worker_stopped(market: Fleet) -> None:
    """It is bad on its own host, and on beat's host, which checks all workers."""
    host, unit = fleets.worker_units(market)[0]
    node = f"{unit.partition('@')[2].removesuffix('.service')}@{host}"
    control = market.one("celery_beat")
    with stop(market, host, unit):
        turns_bad(market, host, "workers", re.escape(unit.removesuffix(".service")))
        turns_bad(market, control, "workers", re.escape(node))
    means.wait_until_good(market, host, "workers")
    means.wait_until_good(market, control, "workers")


@pytest.mark.stage(4)
def test_beat_stopped(fleet: Fleet) -> None:
    host = fleet.one("celery_beat")
    with stop(fleet, host, f"{fleets.app_of(fleet)}-beat.service"):
        turns_bad(fleet, host, "beat", r"-beat is inactive")
    means.wait_until_good(fleet, host, "beat")


@pytest.mark.stage(4)
def test_beat_that_hangs(market: Fleet) -> None:
    """systemd says that beat is up, but it does not tick. Its watchdog replaces it, or health reports it first."""
    app, host = fleets.app_of(market), market.one("celery_beat")
    unit = f"{app}-beat.service"
    before = units.state(market, host, unit)["MainPID"]
    market.must(host, ["systemctl", "kill", "--kill-whom=main", "--signal=STOP", unit])
    try:
        wait_for(
            "it is replaced or told",
            150,
            lambda: (
                units.state(market, host, unit)["MainPID"] not in (before, "0")
                or means.check(market, host)["checks"]["beat"]["state"] == "bad"
            ),
            pause=5,
        )
    finally:
        market.execute(host, ["systemctl", "kill", "--kill-whom=main", "--signal=CONT", unit])
        units.wait_until_up(market, 90)
    means.wait_until_good(market, host, "beat")


@pytest.mark.stage(4)
def test_disk_fills(market: Fleet) -> None:
    """Put a small filesystem in place of the application's state, on a host whose workers write nothing there."""
    app, host = fleets.app_of(market), market.one("celery_workers")
    path = f"/var/lib/{app}"
    watched = json.loads(market.must(host, ["cat", f"/etc/celery-fleet/{app}/health.json"]))[
        "paths"
    ]
    assert path in watched, watched
    market.must(host, ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", path])
    try:
        assert means.check(market, host)["checks"]["disk"]["state"] == "good"
        # It fails with "no space left", as it should.
        market.execute(host, ["dd", "if=/dev/zero", f"of={path}/full", "bs=1M", "count=32"])
        turns_bad(market, host, "disk", rf"{path}: 0\.0 % free")
        market.must(host, ["rm", f"{path}/full"])
        assert means.check(market, host)["checks"]["disk"]["state"] == "good"
    finally:
        market.must(host, ["umount", "--lazy", path])
    means.wait_until_good(market, host, "disk")


@pytest.mark.stage(4)
def test_queue_grows(market: Fleet) -> None:
    """More tasks wait than the inventory allows, and no worker takes them. The operator then purges them."""
    queue, control = "analytics", market.one("celery_beat")
    bound = market.of("fleet")["celery_health_thresholds"]["queue_length"]["bad"]
    host, unit = next(
        pair for pair in fleets.worker_units(market) if pair[1].endswith(f"@{queue}.service")
    )
    with stop(market, host, unit):
        task = documented.TASKS[queue][-1]
        fleets.send(market, *[fleets.task(task)] * (bound + 1))
        found = turns_bad(market, control, "queues", rf"\d+ tasks wait in {queue}")
        assert found["checks"]["queues"]["value"][queue] > bound
        fleets.must(market, control, f"purge {queue} --yes")
    means.wait_until_good(market, control, "queues")
    means.wait_until_good(market, control, "workers")


@pytest.mark.stage(4)
def test_only_changes_of_health_run_the_command(market: Fleet) -> None:
    """The command in the scenario's inventory prints to the journal of the check."""
    app, host = fleets.app_of(market), market.one("celery_beat")
    means.wait_until_good(market, host, "workers")
    assert means.check(market, host)["state"] != "bad"
    since = units.now(market, host)
    means.check(market, host)
    with stop(market, host, f"{app}-beat.service"):
        means.check(market, host)
        means.check(market, host)
    wait_for("all is well", 60, lambda: means.check(market, host)["state"] != "bad", pause=2)
    text = units.journal(market, host, means.health_unit(market), since)
    told = re.findall(r"told of (\w+) then (\w+) with (\d) result", text)
    # A warning may come and go by itself. While the host is bad, only a check that got worse runs the command.
    worse = re.findall(r"\w+: (?:good -> (?:warning|bad)|warning -> bad): ", text)
    assert len([one for one in told if one[0] == one[1]]) < len(worse), text[-3000:]
    told = [one for one in told if "bad" in one and one[0] != one[1]]
    assert len(told) == 2, text[-3000:]
    (first, bad, one), (again, last, other) = told
    assert (bad, again) == ("bad", "bad")
    assert {first, last} <= {"good", "warning"}
    assert (one, other) == ("1", "1")
    # The journal says what has changed.
    assert re.search(r"beat: (good|warning) -> bad", text), text[-3000:]
