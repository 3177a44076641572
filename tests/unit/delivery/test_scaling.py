"""A real worker grows and shrinks: under a burst by its option `autoscale`, and because an operator says so."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from celery_fleet.delivery.keys import SENT
from tests.unit.delivery.pools import ATOMIC, NOTHING, SLOTS, Shop, shop, until
from tests.unit.delivery.test_drain_pools import control

NODE = "w@test"
AUTOSCALE = {"CELERY_FLEET_AUTOSCALE": json.dumps({"min": SLOTS, "max": 6, "wait": 1})}
RESIZED = re.compile(r"pool (\d+) → (\d+) processes: (.*)")


def stats(made: Shop) -> dict[str, Any]:
    with control(made) as remote:
        return dict(remote.inspect([NODE], timeout=5).stats()[NODE])


def resized(log: str) -> list[tuple[int, int, str]]:
    return [(int(before), int(after), why) for before, after, why in RESIZED.findall(log)]


@pytest.mark.slow
@pytest.mark.parametrize("delivery", [None, ATOMIC], ids=["stock", "atomic"])
def test_a_burst_is_worked_off_by_more_processes_which_end_afterwards(
    tmp_path: Path, delivery: dict[str, Any] | None
) -> None:
    with shop(tmp_path, delivery) as made:
        worker = made.worker("prefork", SHOP_LATE="yes", SHOP_MULTIPLIER="1", **AUTOSCALE)
        sent = [made.send(seconds=0.5, headers={SENT: time.time()}) for _ in range(90)]
        until(lambda: len(made.ledger.ended) == len(sent))
        grown = resized(worker.log)
        assert [step[:2] for step in grown] == [(2, 3), (3, 5), (5, 6)]
        assert all(re.fullmatch(r"the oldest task has waited \d+ s", step[2]) for step in grown)
        found = stats(made)
        assert found["pool"]["max-concurrency"] == len(found["pool"]["processes"]) == 6
        assert found["prefetch_count"] == 6

        until(lambda: resized(worker.log)[3:], 30)
        assert resized(worker.log)[3:] == [(6, 2, "at most 0 were busy in the last 10 s")]
        until(lambda: len(stats(made)["pool"]["processes"]) == 2)
        assert stats(made)["prefetch_count"] == 2
        sent += [made.send() for _ in range(20)]
        until(lambda: len(made.ledger.ended) == len(sent))
        assert made.account(sent) == NOTHING, worker.log
        assert "Traceback" not in worker.log
        assert made.fleet.refused() == []
