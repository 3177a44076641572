"""Processes that are killed under load: of what they held nothing is lost, and it is back within two seconds."""

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
    counted,
    died,
    kill_child,
    kill_clients,
    kill_workers,
    so_many,
)
from ground import FLEET, PLAIN, Case, Ground, Way

#: Stock Celery at its best: late acknowledgement, and a visibility timeout above its longest task.
STOCK = Way("stock", PLAIN.units, late=True, visibility_timeout=60)
STOCK_REST = 60.0 + 225.0


def test_workers_killed(ground: Ground, numbers: random.Random) -> None:
    def act(case: Case) -> Recoveries:
        return kill_workers(ground, case, FLEET, so_many(200, 80), numbers)

    summary, recoveries = counted(ground, "workers killed", FLEET, act)
    assert_delivered(summary, *died(WORKER_KILLED))
    assert recoveries.longest <= 2.0, recoveries.as_dict()


def test_stock_workers_killed(ground: Ground, numbers: random.Random) -> None:
    """The same for stock: what it loses makes the run above one that counts."""
    summary, _ = counted(
        ground,
        "workers killed",
        STOCK,
        lambda case: kill_workers(ground, case, STOCK, so_many(60, 40), numbers),
        STOCK_REST,
    )
    assert summary.lost > 0


def test_children_killed(ground: Ground, numbers: random.Random) -> None:
    def act(case: Case) -> None:
        for _ in range(so_many(50, 30)):
            kill_child(
                ground,
                case,
                numbers.choice(ground.workers),
                numbers.choice(list(ground.instances)),
                numbers,
            )
            ground.sleep(1)

    summary, _ = counted(ground, "processes of pools killed", FLEET, act)
    assert_delivered(summary, *died(PROCESS_KILLED))


@pytest.mark.parametrize("way", [FLEET, STOCK], ids=lambda way: way.name)
def test_connections_cut(ground: Ground, way: Way) -> None:
    """Stock workers put back what runs, so that it runs twice: else the cuts would show nothing of the fleet's."""
    number = so_many(100, 50) if way is FLEET else so_many(40, 20)

    def act(case: Case) -> None:
        for _ in range(number):
            kill_clients(ground, case)
            # A worker needs a second of its own to come back (Celery's mingle).
            ground.sleep(PAUSE)

    summary, _ = counted(
        ground, "all connections cut", way, act, rest=STOCK_REST if way is STOCK else REST
    )
    if way is FLEET:
        assert_delivered(summary)
    else:
        assert summary.doubled > 0
