"""Killed processes lose none of the messages that they held, and these are back within two seconds."""

from __future__ import annotations

import random

import pytest
from deaths import (
    PAUSE,
    PROCESS_KILLED,
    REST,
    WORKER_KILLED,
    Recoveries,
    assert_delivered,
    assert_revoked,
    counted,
    cut_often,
    died,
    kill_children,
    kill_drains,
    kill_workers,
)
from ground import FLEET, PLAIN, SOAK, Case, Ground, Way

#: Stock Celery with its best settings: late acknowledgement, and a visibility timeout above its longest task.
STOCK = Way("stock", PLAIN.units, late=True, visibility_timeout=60 if SOAK else 30)
STOCK_REST = 60.0 + 225.0


def test_stock_workers_killed(ground: Ground, numbers: random.Random) -> None:
    """Stock Celery must lose tasks here, because otherwise the fleet's runs would prove nothing.

    It loses a task in about one of seven kills, so there are many kills; in the short form with short pauses. By chance
    all of them may lose none (seen once in 36), so such a run is repeated up to twice.
    """
    number, pause, runs = (60, PAUSE, 1) if SOAK else (36, 1.0, 3)

    def act(case: Case) -> None:
        kill_workers(ground, case, STOCK, number, numbers, pause=pause)

    lost = (counted(ground, "workers killed", STOCK, act, STOCK_REST)[0].lost for _ in range(runs))
    assert any(lost)


@pytest.mark.short
def test_processes_killed_in_turn(ground: Ground, numbers: random.Random) -> None:
    """Kill workers, pool processes and drains, with bodies of 1 kB and 1 MB, priorities, rate limits and revokes."""

    def act(case: Case) -> Recoveries:
        found = kill_workers(ground, case, FLEET, 9, numbers)
        kill_children(ground, case, 5, numbers)
        kill_drains(ground, case, 9, numbers)
        return found

    with ground.loaded("--rich"):
        summary, recoveries = counted(ground, "processes killed in turn", FLEET, act)
    assert_delivered(summary, *died(WORKER_KILLED), *died(PROCESS_KILLED))
    assert recoveries.longest <= 2.0, recoveries.as_dict()
    assert_revoked(summary)


@pytest.mark.soak
def test_workers_killed(ground: Ground, numbers: random.Random) -> None:
    """Each worker lives for a minute, so that most tasks of 20 s survive.

    With shorter lives, most of them would run at two deaths. A worker runs only one such task at a time, so more of
    them would arrive than can run.
    """

    def act(case: Case) -> Recoveries:
        return kill_workers(ground, case, FLEET, 120, numbers, pause=2 * PAUSE)

    summary, recoveries = counted(ground, "workers killed", FLEET, act)
    assert_delivered(summary, *died(WORKER_KILLED))
    assert recoveries.longest <= 2.0, recoveries.as_dict()


@pytest.mark.soak
def test_children_killed(ground: Ground, numbers: random.Random) -> None:
    def act(case: Case) -> None:
        kill_children(ground, case, 50, numbers)

    summary, _ = counted(ground, "processes of pools killed", FLEET, act)
    assert_delivered(summary, *died(PROCESS_KILLED))


@pytest.mark.soak
def test_drains_killed(ground: Ground, numbers: random.Random) -> None:
    """Workers are told to stop, and killed at some moment of the drain."""

    def act(case: Case) -> None:
        kill_drains(ground, case, 100, numbers)

    summary, _ = counted(ground, "drains killed", FLEET, act)
    assert_delivered(summary, *died(WORKER_KILLED))


@pytest.mark.soak
@pytest.mark.parametrize("way", [FLEET, STOCK], ids=lambda way: way.name)
def test_connections_cut(ground: Ground, way: Way) -> None:
    """Stock workers must run tasks twice here; otherwise the cuts would prove nothing about the fleet's workers."""
    number, rest = (100, REST) if way is FLEET else (40, STOCK_REST)

    def act(case: Case) -> None:
        cut_often(ground, case, number)

    summary, _ = counted(ground, "all connections cut", way, act, rest)
    if way is FLEET:
        assert_delivered(summary)
    else:
        assert summary.doubled > 0
