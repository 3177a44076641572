"""ansible-playbook is killed at any moment: the next run finishes, and units that did not differ are not restarted.

The moments are random with a seed (CELERY_FLEET_SEED), and each is logged with the task that was running.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Mapping
from typing import Any

import pytest
from support import resp, units
from support.change import Fleets, Unit
from support.plays import Started

SEED = int(os.environ.get("CELERY_FLEET_SEED", "20"))
KILLS = 3
TRIES = 5

#: Numbers of the runs that are killed between writing and restarting. They continue those of the other kills.
NUMBERS = itertools.count(KILLS + 1)


def flavour(number: int) -> dict[str, Any]:
    """Return one of two sets of variables that differ in every part: files, environment, settings, Redis, nginx."""
    other = bool(number % 2)
    return {
        "celery_app_env": {"SOME_SWITCH": "odd" if other else "even"},
        "redis_broker_maxmemory": "310mb" if other else "300mb",
        "celery_producer_web_protected_paths": ["/api/v1/admin/", *(["/docs"] if other else [])],
        "celery_worker_defaults": {
            "prefetch_multiplier": 4,
            "max_tasks_per_child": 1000,
            "time_limit": 1800,
            "soft_time_limit": 1500,
            "task_events": True,
            "heartbeat_interval": 3 if other else 2,
        },
    }


def differing(changes: Fleets) -> set[Unit]:
    """Return the units whose processes must be replaced between the two."""
    fleet = changes.fleet
    found = {
        changes.unit(name, worker)
        for name in fleet.hosts("celery_workers")
        for worker in fleet.expected[name]["celery_worker_host_instances"]
    }
    # Flower also reads the application's environment.
    parts = ("beat", "web", "flower")
    return found | {("control1", f"{changes.app}-{part}.service") for part in parts}


def assert_fleet_is(changes: Fleets, wanted: Mapping[str, Any], arguments: list[str]) -> None:
    """Check processes and Redis, and that the plan has nothing to do."""
    units.wait_until_up(changes.fleet, 30)
    switch = wanted["celery_app_env"]["SOME_SWITCH"]
    interval = wanted["celery_worker_defaults"]["heartbeat_interval"]
    for unit in differing(changes):
        pid = units.state(changes.fleet, *unit)["MainPID"]
        environment = changes.fleet.must(unit[0], ["cat", f"/proc/{pid}/environ"]).split("\0")
        assert f"SOME_SWITCH={switch}" in environment, unit
        if "-worker@" in unit[1]:
            assert f"--heartbeat-interval={interval}" in changes.command_line(unit)
    with resp.session(changes.fleet, "broker", "admin") as admin:
        found = admin.send("CONFIG", "GET", "maxmemory")[1]
    assert found == str(int(wanted["redis_broker_maxmemory"].removesuffix("mb")) * 1024**2)
    assert changes.plan("killed-after", *arguments).items == []


@pytest.fixture(scope="module")
def length(changes: Fleets) -> float:
    """Return the seconds that a run takes that deploys the even set."""
    began = time.monotonic()
    done = changes.site("unkilled", *changes.variables(**flavour(0)))
    assert done.run.status == 0, done.run.end
    return time.monotonic() - began


@pytest.fixture(scope="module", autouse=True)
def taken_back(changes: Fleets, length: float) -> Any:
    """Deploy the inventory again for the next tests."""
    yield
    restored = changes.site("kills-restored")
    assert restored.run.status == 0, restored.run.end


@pytest.mark.parametrize("number", range(1, KILLS + 1))
def test_killed_run_is_finished_by_the_next(changes: Fleets, length: float, number: int) -> None:
    # Each moment is in another part of the run, so they are spread over it but random.
    part = length / KILLS
    moment = part * (number - 1 + random.Random(f"{SEED}/{number}").random())  # noqa: S311  # no secret
    wanted = flavour(number)
    arguments = changes.variables(**wanted)
    clocks = {name: units.now(changes.fleet, name) for name in changes.fleet.hosts("fleet")}
    before = changes.pids()

    started = changes.start(f"killed-{number}", arguments)
    time.sleep(moment)
    print(f"seed {SEED}, kill {number}: {started.kill()}")
    done = changes.site(f"killed-{number}-finished", *arguments)
    assert done.run.status == 0, done.run.end
    assert_fleet_is(changes, wanted, arguments)
    assert changes.restarted(before) == differing(changes)
    starts = {unit: changes.starts(unit, clocks[unit[0]]) for unit in differing(changes)}
    assert starts == dict.fromkeys(starts, 1), "something was restarted more than once"


def kill_between(
    changes: Fleets, number: int, unit: Unit, before: Mapping[Unit, str]
) -> Started | None:
    """Kill a run after it has written a worker's files and before it restarts it; return None if the run was faster."""
    variables = changes.fleet.expected[unit[0]]
    worker = unit[1].partition("@")[2].removesuffix(".service")
    path = f"{variables['celery_app_config_directory']}/worker-{worker}.env"
    interval = flavour(number)["celery_worker_defaults"]["heartbeat_interval"]
    # This is watched on the host itself; from outside, the restart would begin before the answer arrives.
    watch = f"""
        for i in $(seq 20000); do
          grep -qs -e '--heartbeat-interval={interval}' {path} && exit 0
          sleep 0.01
        done
        exit 1
    """
    started = changes.start(f"between-{number}", changes.variables(**flavour(number)))
    watched = changes.fleet.execute(unit[0], watch, timeout=240)
    assert watched.status == 0, "the run has not written the worker's environment"
    print(f"between writing and restarting: {started.kill()}")
    # Jobs that systemd had accepted continue without ansible-playbook.
    time.sleep(5)
    units.wait_until_up(changes.fleet, 60)
    return started if changes.pids()[unit] == before[unit] else None


@pytest.fixture
def between(changes: Fleets) -> tuple[Unit, int, Mapping[Unit, str]]:
    """Return a fleet whose files are new and in which at least one worker still runs with the old ones.

    The value is the unit, the variables of the files, and all main processes before.
    """
    # The last worker in the order of restarts has the most time between writing and restarting.
    unit = changes.unit("worker2", "analytics")
    for number in itertools.islice(NUMBERS, TRIES):
        arguments = changes.variables(**flavour(number))
        # Start from the other set, completely deployed; mostly the test before has left it.
        done = changes.site(f"between-from-{number}", *changes.variables(**flavour(number + 1)))
        assert done.run.status == 0, done.run.end
        before = changes.pids()
        if kill_between(changes, number, unit, before):
            assert unit in changes.plan(f"between-{number}-plan", *arguments).of("restart")
            return unit, number, before
    raise AssertionError(
        f"in none of {TRIES} runs was there a moment between writing and restarting"
    )


def test_kill_between_writing_and_restarting(
    changes: Fleets, between: tuple[Unit, int, Mapping[Unit, str]]
) -> None:
    _, number, before = between
    arguments = changes.variables(**flavour(number))
    done = changes.site("between-finished", *arguments)
    assert done.run.status == 0, done.run.end
    assert changes.restarted(before) == differing(changes)
    assert_fleet_is(changes, flavour(number), arguments)


def test_a_change_that_is_undone_before_its_restart_restarts_nothing(
    changes: Fleets, between: tuple[Unit, int, Mapping[Unit, str]]
) -> None:
    unit, number, before = between
    # Some of the others may have been restarted with the new files; this one has not.
    taken_back = changes.variables(**flavour(number + 1))
    done = changes.site("between-taken-back", *taken_back)
    assert done.run.status == 0, done.run.end
    assert changes.pids()[unit] == before[unit]
    assert_fleet_is(changes, flavour(number + 1), taken_back)
