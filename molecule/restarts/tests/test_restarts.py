"""Rolling restarts under load: nothing is lost, nothing runs twice, and no task waits for long.

Each test runs the load once, in the order of this file. Runs are compared with earlier ones, under the same load and on
the same hosts.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
from ground import (
    FLEET,
    MULTI,
    MULTI_LATE,
    PLAIN,
    PLAIN_LATE,
    SOAK,
    Case,
    Ground,
    Way,
    assert_nothing_lost_or_doubled,
    end_of,
)

from scripts.restarts.summary import RestartSummary

OVERHEAD = 1.25  # times the duration of the drains and boots
CALM = 75.0 if SOAK else 20.0  # seconds
# Bounds of the 99th percentile of waits: seconds, and times that of the load without a restart, which is longer on a
# busy machine. Beside other tests on two cores 0.04 s were measured, and 0.02 s without a restart (docs/restarts.md).
# How far that can move was simulated, with the tasks of `load.plan` and 200 timings of the restarts. Even if each task
# occupies its process for 50 ms longer, it was 0.2 s at most. With two of a queue's three workers away at a time, it
# was more than 1 s in most of them.
WAIT = 0.3
TIMES_CALM = 5


@pytest.fixture(scope="module")
def calm(ground: Ground) -> RestartSummary:
    """Run the load without a restart."""
    return ground.measure("calm", FLEET, lambda _: time.sleep(CALM))


def test_the_load_itself_loses_nothing(calm: RestartSummary) -> None:
    assert_nothing_lost_or_doubled(calm)
    assert calm.sent > 40 * CALM


@pytest.fixture(scope="module")
def plain(ground: Ground) -> RestartSummary:
    """Restart the unit of most tutorials on one host after another."""
    return stock(ground, PLAIN)


def stock(ground: Ground, way: Way) -> RestartSummary:
    return ground.measure("roll", way, lambda _: ground.restart(way))


def test_the_plain_unit_loses_tasks(plain: RestartSummary) -> None:
    """Otherwise the load would prove nothing, because a restart might do no harm under it."""
    assert plain.lost > 0


@pytest.mark.soak
@pytest.mark.parametrize("way", [MULTI, PLAIN_LATE, MULTI_LATE], ids=lambda way: way.name)
def test_all_workers_of_the_other_stock_units_restart(ground: Ground, way: Way) -> None:
    """Their losses are only measured; the test checks that all of them were restarted."""
    summary = stock(ground, way)
    assert summary.roll is not None
    assert summary.sent > 40 * CALM


@pytest.fixture(scope="module")
def rolled(ground: Ground, plain: RestartSummary) -> RestartSummary:
    """Restart all workers of the fleet; this counts because the plain unit has lost tasks under the same load."""
    assert plain.lost > 0

    def act(case: Case) -> None:
        assert ground.roll(case) == 0, end_of(case.log)

    return ground.measure("roll", FLEET, act)


def test_a_rolling_restart_loses_and_doubles_nothing(rolled: RestartSummary) -> None:
    assert_nothing_lost_or_doubled(rolled)


def test_a_rolling_restart_keeps_half_of_each_queue_consuming(
    ground: Ground, rolled: RestartSummary
) -> None:
    rules = ground.rules()
    for queue, capacity in rules.capacity.items():
        assert rolled.fewest[queue] >= math.ceil(capacity * rules.minimum), rolled.fewest


def test_a_rolling_restart_keeps_waits_short(calm: RestartSummary, rolled: RestartSummary) -> None:
    bound = max(WAIT, TIMES_CALM * calm.waits["p99"])
    assert rolled.waits["p99"] <= bound, (rolled.waits, calm.waits)


def test_a_rolling_restart_takes_little_more_than_its_drains_and_boots(
    rolled: RestartSummary,
) -> None:
    assert rolled.roll is not None
    assert rolled.critical is not None
    assert rolled.roll <= OVERHEAD * rolled.critical, (rolled.roll, rolled.critical)


def test_the_only_worker_of_a_queue_overlaps_with_its_successor(
    ground: Ground, tmp_path: Path
) -> None:
    """One worker, with as many processes as three had, serves its queue without a gap."""
    number = 3 * ground.instances["slow"]["concurrency"]
    alone, *others = ground.workers
    instances = {**ground.instances, "slow": {**ground.instances["slow"], "concurrency": number}}
    hosts = {
        alone: {"celery_worker_instances": instances},
        **{name: {"celery_worker_host_instances": ["fast", "medium"]} for name in others},
    }
    layer = tmp_path / "layer.yml"
    layer.write_text(json.dumps({"all": {"hosts": hosts}}))
    ground.deploy(str(layer))

    def act(case: Case) -> None:
        status = ground.roll(case, f"--inventory={layer}", "-e", "celery_restart_workers=slow")
        assert status == 0, end_of(case.log)

    summary = ground.measure("overlap", FLEET, act)
    assert_nothing_lost_or_doubled(summary)
    assert summary.fewest["slow"] >= number
    # Check this first, because the next deploy would delete what the rolling restart has left.
    script = "systemctl list-units --all --no-legend '*.next.service'; find /run/celery-fleet -name '*.next.*'"
    assert ground.fleet.execute(alone, script).output == ""
