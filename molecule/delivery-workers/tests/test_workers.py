"""Workers of other kinds: processes that run one task each, threads, greenlets, at most once, the stock take.

Their tasks publish only at their end (a retry, the next one of a chain, the body of a chord), so that a process may
meet a Redis that is away when it connects for the first time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from conditions import MOVED, STOPPED, movable_clock, stopped_redis
from deaths import (
    REDIS_FROZEN,
    WORKER_KILLED,
    Recoveries,
    assert_delivered,
    counted,
    died,
    frozen_redis,
    kill_workers,
    pids,
    so_many,
    unit_of,
)
from ground import FLEET, Case, Ground

from scripts.restarts import judge

RATE = 20  # tasks a second
#: Seconds between two deaths: processes of one task each have the machine start enough of them as it is.
PAUSE = 5.0
#: Those with the atomic take.
ATOMIC = ("warm", "cold", "threads", "greenlets")
#: What a worker without a lease holds is back after the visibility timeout of the inventory, and a look for it.
REST = 120.0 + 225.0
#: Seconds: above the four that Celery waits for a first connection, and the thirty that it tries to send something.
AWAY = (12.0, 40.0)


@pytest.fixture(autouse=True)
def no_stock_units(ground: Ground) -> None:
    """There are none on these hosts, which would have to be stopped."""
    ground.now_running = FLEET


@contextmanager
def loaded(ground: Ground, workers: Sequence[str]) -> Iterator[None]:
    """The load is sent to these workers."""
    ground.load_options = (f"--rate={RATE}", "--workers", *workers)
    try:
        yield
    finally:
        ground.load_options = ()


def lasting_pids(ground: Ground) -> dict[tuple[str, str], str]:
    """The main processes of those that no outage may end."""
    return {key: pid for key, pid in pids(ground).items() if key[1] in ATOMIC}


def test_workers_of_all_kinds_killed(ground: Ground, numbers: random.Random) -> None:
    """None loses a task but those that run at most once, and of these none is begun again."""
    names = (*ATOMIC, "once")

    def act(case: Case) -> Recoveries:
        return kill_workers(ground, case, FLEET, so_many(150, 45), numbers, names, PAUSE)

    with loaded(ground, names):
        summary, recoveries = counted(ground, "workers of all kinds killed", FLEET, act, REST)
    assert_delivered(summary, *died(WORKER_KILLED))
    assert not [cause for cause in summary.dropped if WORKER_KILLED not in cause], summary.dropped
    assert recoveries.longest <= 2.0, recoveries.as_dict()


def test_redis_stopped_for_longer_than_senders_wait(ground: Ground) -> None:
    """Retries, and what follows in chains and chords, are sent when it is back."""
    before = lasting_pids(ground)

    def act(case: Case) -> None:
        for length in AWAY * so_many(4, 1):
            with stopped_redis(ground, case):
                ground.sleep(length)
            ground.sleep(15)

    with loaded(ground, ATOMIC):
        summary, _ = counted(ground, "Redis stopped for 12 and 40 s", FLEET, act, REST)
    assert_delivered(summary, judge.was_sent_twice(STOPPED))
    assert lasting_pids(ground) == before


def test_redis_frozen_for_longer_than_senders_wait(ground: Ground) -> None:
    """The same where it does not refuse connections, but leaves them without an answer."""
    before = lasting_pids(ground)

    def act(case: Case) -> None:
        for length in AWAY * so_many(4, 1):
            with frozen_redis(ground, case):
                ground.sleep(length)
            ground.sleep(15)

    with loaded(ground, ATOMIC):
        summary, _ = counted(ground, "Redis frozen for 12 and 40 s", FLEET, act, REST)
    assert_delivered(summary, judge.was_sent_twice(REDIS_FROZEN))
    assert lasting_pids(ground) == before


def test_redis_clock_moved(ground: Ground) -> None:
    """The lease goes by it, and no task may be taken from a worker that renews."""

    def act(case: Case) -> None:
        for seconds in (3600, 0, -3600, 0) * so_many(3, 1):
            case.mark(MOVED)
            move(seconds)
            ground.sleep(20)

    with movable_clock(ground) as move, loaded(ground, ATOMIC):
        summary, _ = counted(ground, "Redis's clock moved by an hour", FLEET, act, REST)
    assert_delivered(summary)


def test_drains_behind_named_exchanges(ground: Ground) -> None:
    """What a worker with the stock take has not begun is back in its queue at once."""

    def act(case: Case) -> None:
        for host in ground.workers * so_many(6, 3):
            ground.fleet.must(host, ["systemctl", "restart", unit_of(FLEET, "exchanges")])
            ground.sleep(2)

    with loaded(ground, ("warm", "exchanges")):
        summary, _ = counted(ground, "drains behind named exchanges", FLEET, act, REST)
    assert_delivered(summary)
    assert summary.waits["longest"] < 30, summary.waits
