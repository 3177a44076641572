"""Processes that are killed under load: of what they held nothing is lost, and it is back within two seconds."""

from __future__ import annotations

import random

import pytest
from deaths import (
    CUT_OFF,
    PAUSE,
    REST,
    UNACKNOWLEDGED,
    Recoveries,
    assert_delivered,
    counted,
    kill_child,
    kill_clients,
    kill_workers,
)
from ground import FLEET, PLAIN, Case, Ground, Way

#: Stock Celery at its best: late acknowledgement, and a visibility timeout above its longest task.
STOCK = Way("stock", PLAIN.units, late=True, visibility_timeout=60)
STOCK_REST = 60.0 + 225.0


def test_workers_killed(ground: Ground, numbers: random.Random) -> None:
    def act(case: Case) -> Recoveries:
        return kill_workers(ground, case, FLEET, 200, numbers)

    summary, recoveries = counted(ground, "workers killed", FLEET, act)
    assert_delivered(summary, CUT_OFF, UNACKNOWLEDGED)
    assert recoveries.longest <= 2.0, recoveries.as_dict()


def test_stock_workers_killed(ground: Ground, numbers: random.Random) -> None:
    """The same for stock: what it loses makes the run above one that counts."""
    summary, _ = counted(
        ground,
        "workers killed",
        STOCK,
        lambda case: kill_workers(ground, case, STOCK, 60, numbers),
        STOCK_REST,
    )
    assert summary.lost + summary.doubled > 0


def test_children_killed(ground: Ground, numbers: random.Random) -> None:
    def act(case: Case) -> None:
        for _ in range(50):
            kill_child(
                ground,
                case,
                numbers.choice(ground.workers),
                numbers.choice(list(ground.instances)),
                numbers,
            )
            ground.sleep(1)

    summary, _ = counted(ground, "processes of pools killed", FLEET, act)
    assert_delivered(summary, CUT_OFF, UNACKNOWLEDGED)


@pytest.mark.parametrize("way", [FLEET, STOCK], ids=lambda way: way.name)
def test_connections_cut(ground: Ground, way: Way) -> None:
    number = 100 if way is FLEET else 40

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
        assert summary.sent > 0
