"""Something breaks in the middle of a rolling restart: what happens to the tasks, counted by cause."""

from __future__ import annotations

import time

import pytest
from faults import HOST_LOST, REDIS_RESTARTED, bring_back, broken, lose_host, restart_redis
from ground import (
    FLEET,
    MULTI,
    PLAIN,
    REST,
    Case,
    Ground,
    Way,
    assert_nothing_lost_or_doubled,
    end_of,
    kill,
)
from support import units
from support.waiting import wait_for

from scripts.restarts import judge
from scripts.restarts.summary import RestartSummary

LONG = 75.0  # seconds: longer than the drain of the inventory, shorter than its time limit and visibility timeout
LONGEST = 1200.0  # maximum seconds of load, with several rolling restarts


def wait_for_turn(ground: Ground, since: float, number: int) -> str:
    """Wait until this many workers were told to stop since a time; return the node of the last one."""
    wait_for(f"turn {number} begins", 180, lambda: len(ground.left(since)) >= number, pause=0.3)
    return ground.left(since)[number - 1]


def kill_a_roll(ground: Ground, case: Case) -> None:
    """Kill ansible-playbook while it restarts its second worker."""
    since = time.time()
    with ground.rolling(case) as process:
        wait_for_turn(ground, since, 2)
        kill(process)
    time.sleep(3)


def roll_to_a_broken_worker(ground: Ground, case: Case) -> None:
    """Check that a rolling restart ends if a worker does not start, and names it; no other worker is down."""
    name, unit = ground.workers[1], "load-worker@fast"
    with broken(ground, name, unit):
        assert ground.roll(case) != 0, (
            "the rolling restart went on past a worker that does not start"
        )
        text = end_of(case.log)
        assert f"fast@{name}" in text or f"{unit}.service" in text
        down = [
            key
            for key, state in units.all_states(ground.fleet).items()
            if state["ActiveState"] != "active"
        ]
        assert down == [(name, f"{unit}.service")]


def roll_to_a_lost_host(ground: Ground, case: Case, gone: list[str]) -> None:
    """Check that a rolling restart fails if a host is lost during the turn of one of its workers."""
    since = time.time()
    with ground.rolling(case) as process:
        name = wait_for_turn(ground, since, 2).partition("@")[2]
        gone.append(name)
        lose_host(ground, case, name)
        status = process.wait()
    assert status == 2, "docs/environments.md says how a run ends that has lost a host"
    assert name in end_of(case.log)


def assert_all_restarted(ground: Ground, since: float) -> None:
    wanted = {f"{worker}@{name}" for name in ground.workers for worker in ground.instances}
    assert set(ground.left(since)) == wanted


def assert_whole(ground: Ground) -> None:
    """Check that every unit of the inventory runs, and that nothing temporary of a rolling restart is left."""
    units.wait_until_up(ground.fleet, 30)
    for name in ground.workers:
        listing = ["systemctl", "list-units", "--all", "--no-legend", "*.next.service"]
        assert ground.fleet.must(name, listing) == ""


def assert_delivered(summary: RestartSummary, *allowed: str) -> None:
    """Check that nothing was lost, as `at_least_once` promises, and that tasks only ran again for these causes."""
    assert (summary.lost, summary.lost_causes) == (0, {})
    assert not summary.unexpected((*allowed, judge.SENT_BY_RERUN)), summary.doubled_causes


@pytest.mark.short
def test_rolls_that_end_early_are_finished_by_the_next(ground: Ground) -> None:
    """A host is lost, ansible-playbook is killed, a worker does not start; only the lost host causes repeats."""
    gone: list[str] = []

    def act(case: Case) -> None:
        roll_to_a_lost_host(ground, case, gone)
        bring_back(ground, gone.pop())
        since = time.time()
        kill_a_roll(ground, case)
        roll_to_a_broken_worker(ground, case)
        assert ground.roll(case) == 0, end_of(case.log)
        assert_all_restarted(ground, since)

    try:
        summary = ground.measure("rolls that end early", FLEET, act, longest=LONGEST)
    finally:
        for name in gone:
            bring_back(ground, name)
    assert_delivered(summary, judge.was_cut_off(HOST_LOST), judge.had_ended(HOST_LOST))
    assert summary.refused == 0
    assert_whole(ground)


@pytest.mark.soak
def test_killed_playbook_is_finished_by_the_next(ground: Ground) -> None:
    def act(case: Case) -> None:
        since = time.time()
        kill_a_roll(ground, case)
        assert ground.roll(case) == 0, end_of(case.log)
        assert_all_restarted(ground, since)

    summary = ground.measure("ansible-playbook killed and run again", FLEET, act)
    assert_nothing_lost_or_doubled(summary)
    assert_whole(ground)


@pytest.mark.soak
def test_worker_that_does_not_start_stops_the_roll(ground: Ground) -> None:
    def act(case: Case) -> None:
        roll_to_a_broken_worker(ground, case)
        assert ground.roll(case) == 0, end_of(case.log)

    summary = ground.measure("a worker does not start", FLEET, act)
    assert_nothing_lost_or_doubled(summary)
    assert_whole(ground)


@pytest.mark.soak
def test_host_lost_in_its_turn(ground: Ground) -> None:
    gone: list[str] = []
    try:
        summary = ground.measure(
            "a host is lost in its turn",
            FLEET,
            lambda case: roll_to_a_lost_host(ground, case, gone),
        )
    finally:
        for name in gone:
            bring_back(ground, name)
    assert_delivered(summary, judge.was_cut_off(HOST_LOST), judge.had_ended(HOST_LOST))
    assert_whole(ground)


@pytest.mark.soak
def test_redis_restarted_during_the_roll(ground: Ground) -> None:
    def act(case: Case) -> None:
        since = time.time()
        with ground.rolling(case) as process:
            wait_for_turn(ground, since, 2)
            restart_redis(ground, case)
            status = process.wait()
        if status != 0:
            # The run may fail because it could not ask a worker; the same command finishes it.
            assert ground.roll(case) == 0, end_of(case.log)

    summary = ground.measure("Redis is restarted", FLEET, act)
    assert_delivered(summary, judge.was_sent_twice(REDIS_RESTARTED))
    assert_whole(ground)


@pytest.mark.soak
def test_task_longer_than_its_drain(ground: Ground) -> None:
    """It is handed back when the drain ends, and runs again, as late acknowledgement implies; no other task does."""

    def act(case: Case) -> None:
        # Restart only its worker: if another one came first, the task could end in the meantime.
        worker, _, host = ground.node_of(case, LONG).partition("@")
        only = [f"--limit={host}", "-e", f"celery_restart_workers={worker}"]
        assert ground.roll(case, *only) == 0, end_of(case.log)

    summary = ground.measure("a task longer than its drain", FLEET, act, long=[LONG])
    assert (summary.lost, summary.doubled) == (0, 1), summary
    assert summary.doubled_causes == {judge.was_cut_off("its worker was stopped"): 1}


@pytest.mark.soak
@pytest.mark.parametrize("way", [PLAIN, MULTI], ids=lambda way: way.name)
def test_stock_units_lose_tasks_in_the_same_faults(ground: Ground, way: Way) -> None:
    """One run has all faults and counts losses by cause. If no task were lost, the faults would prove nothing."""
    name = ground.workers[-1]

    def act(case: Case) -> None:
        ground.restart(way)
        restart_redis(ground, case)
        time.sleep(20)
        lose_host(ground, case, name)

    try:
        # Workers that Redis's restart has ended stay down, so the others need longer for the rest.
        summary = ground.measure("all of these", way, act, long=[LONG], rest=3 * REST)
    finally:
        bring_back(ground, name)
        # Its boot has also started the fleet's workers.
        ground.now_running = None
    assert summary.lost > 0
