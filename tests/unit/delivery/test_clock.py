"""Real workers with tasks that wait for their ETA, while the worker's clock is set."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.unit.delivery.pools import ATOMIC, NOTHING, Shop, shop, until

#: The file `clock` has the seconds by which the worker's clock is wrong.
CLOCK = """
from kombu.asynchronous import timer
real = time.time
def wrong():
    with open("clock") as file:
        return real() + float(file.read())
time.time = timer._time = wrong
"""

pytestmark = pytest.mark.slow


def set_clock(made: Shop, seconds: float) -> None:
    new = made.fleet.directory / "new"
    new.write_text(str(seconds))
    new.replace(made.fleet.directory / "clock")


@pytest.mark.parametrize(
    "pool",
    [
        "prefork",
        "gevent",
        *(pytest.param(one, marks=pytest.mark.long) for one in ("threads", "solo")),
    ],
)
def test_tasks_with_an_eta_follow_a_clock_that_is_set(tmp_path: Path, pool: str) -> None:
    with shop(tmp_path, ATOMIC) as made:
        with (tmp_path / "shop.py").open("a") as source:
            source.write(CLOCK)
        set_clock(made, -3600)
        worker = made.worker(pool, SHOP_LATE="yes")
        due = time.time() + 5
        soon, later = made.send(countdown=5), made.send(countdown=3600)
        until(lambda: worker.log.count("] received") == 2)
        set_clock(made, 0)
        until(lambda: made.ledger.ended[soon])
        assert time.time() > due
        set_clock(made, 3595)
        until(lambda: made.ledger.ended[later])
        assert made.account([soon, later]) == NOTHING, worker.log
        assert "Traceback" not in worker.log
