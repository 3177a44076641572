"""Workers of other kinds: processes that run one task each, threads, greenlets, at-most-once, the stock fetch.

Their tasks publish only at their end (a retry, the next one of a chain, the body of a chord), so that a process may
meet a Redis that is away when it connects for the first time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
from deaths import (
    GAP,
    WORKER_KILLED,
    Recoveries,
    assert_delivered,
    assert_none_replaced,
    counted,
    died,
    kill_workers,
    pids,
    unit_of,
)
from ground import FLEET, SOAK, Case, Ground
from outages import FROZEN, MOVED, STOPPED, freeze_broker, movable_clock, stop_broker

from scripts.restarts import judge, measure
from scripts.restarts.summary import RestartSummary

#: The inventory of these workers, used with the scenario's.
LAYER = "molecule/delivery/workers"
#: Messages of a worker without a lease are back after the sum of these; the short form does not wait for that.
SHORT: Mapping[str, object] = {
    "celery_worker_defaults": {"pool": "prefork", "time_limit": 60, "drain_timeout": 15},
    "celery_app_visibility_timeout": 75,
}
RATE = 20  # tasks a second
#: Seconds between two kills. It is long because processes that run one task each already start often.
PAUSE = 5.0
#: Seconds until everything that a killed worker held is back: the most for the median, and for each of them. Its unit
#: hands that back, which took up to 2.1 s while several workers started, each for 10 to 20 s. Without the hand-back it
#: would wait until its lease has ended.
USUALLY_BACK, BACK = 2.0, 5.0
#: Workers with the atomic fetch.
ATOMIC = ("warm", "cold", "threads", "greenlets")
#: Seconds after which the messages of a worker without a lease are back: the inventory's visibility timeout and a
#: sweep.
REST = 120.0 + 225.0
#: Seconds; longer than the 4 s that Celery waits for a first connection and the 30 s that it tries to send something.
AWAY = (12.0, 40.0) * 4
#: Seconds within which tasks that a drain hands back have begun; otherwise they wait for the visibility timeout.
SOON = 30.0


@pytest.fixture(scope="module", autouse=True)
def deployed(ground: Ground) -> None:
    """Deploy these workers, which differ from those of the other modules."""
    ground.deploy(LAYER, {} if SOAK else SHORT)


def to(ground: Ground, workers: Sequence[str]) -> AbstractContextManager[None]:
    """Send the load to these workers."""
    return ground.loaded(f"--rate={RATE}", "--workers", *workers)


def lasting_pids(ground: Ground) -> dict[tuple[str, str], str]:
    """Return the main processes of workers that no outage may end."""
    return {key: pid for key, pid in pids(ground).items() if key[1] in ATOMIC}


def drain(ground: Ground, case: Case, times: int) -> None:
    """Restart the workers with the stock fetch, behind named exchanges."""
    for host in ground.workers * times:
        case.mark("its worker was restarted", host=host, node=f"exchanges@{host}")
        ground.fleet.must(host, ["systemctl", "restart", unit_of(FLEET, "exchanges")])
        ground.sleep(2)


def longest_wait(ground: Ground, case: Case, queues: Sequence[str]) -> float:
    """Return the longest time, in seconds, that a ready task of these queues waited until it began."""
    record = ground.read(case)
    sends = [send for send in record.sends if send.queue in queues]
    return max(measure.waits(replace(record, sends=sends)))


def assert_at_most_once(summary: RestartSummary) -> None:
    """Check that at-most-once tasks are only lost by kills, and never begin again."""
    assert not [cause for cause in summary.dropped if WORKER_KILLED not in cause], summary.dropped


@pytest.mark.short
def test_workers_of_all_kinds_killed_and_drained(ground: Ground, numbers: random.Random) -> None:
    """Each kind is killed on two hosts, starting with those that take longest to come back; then one kind drains."""
    names = ("once", *ATOMIC)
    cases: list[Case] = []

    def act(case: Case) -> Recoveries:
        cases.append(case)
        found = kill_workers(ground, case, FLEET, 2 * len(names), numbers, names, PAUSE)
        drain(ground, case, 1)
        return found

    with to(ground, (*names, "exchanges")):
        summary, recoveries = counted(ground, "all kinds killed and drained", FLEET, act, REST)
    assert_delivered(summary, *died(WORKER_KILLED))
    assert_at_most_once(summary)
    assert recoveries.p50 <= USUALLY_BACK, recoveries.as_dict()
    assert recoveries.longest <= BACK, recoveries.as_dict()
    assert longest_wait(ground, cases[0], ("named", "topic")) < SOON


@pytest.mark.short
def test_redis_in_turn(ground: Ground) -> None:
    """Redis is away for longer than senders wait, and its clock is moved by an hour, forward and back."""

    def act(case: Case) -> None:
        before = lasting_pids(ground)
        stop_broker(ground, case, (12.0, 35.0), pause=10)
        freeze_broker(ground, case, (35.0,), pause=GAP)
        assert_none_replaced(ground, before, lasting_pids(ground))
        for seconds in (3600, 0):
            case.mark(MOVED)
            move(seconds)
            ground.sleep(15)

    with movable_clock(ground) as move, to(ground, ATOMIC):
        summary, _ = counted(ground, "Redis in turn", FLEET, act, REST)
    assert_delivered(summary, *(judge.was_sent_twice(what) for what in (STOPPED, FROZEN)))


@pytest.mark.soak
def test_workers_of_all_kinds_killed(ground: Ground, numbers: random.Random) -> None:
    """No kind loses a task except those that run at most once, and none of these begins again."""
    names = (*ATOMIC, "once")

    def act(case: Case) -> Recoveries:
        return kill_workers(ground, case, FLEET, 150, numbers, names, PAUSE)

    with to(ground, names):
        summary, recoveries = counted(ground, "workers of all kinds killed", FLEET, act, REST)
    assert_delivered(summary, *died(WORKER_KILLED))
    assert_at_most_once(summary)
    assert recoveries.p50 <= USUALLY_BACK, recoveries.as_dict()
    assert recoveries.longest <= BACK, recoveries.as_dict()


@pytest.mark.soak
@pytest.mark.parametrize(
    ("title", "outage", "cause"),
    [
        ("Redis stopped for 12 and 40 s", stop_broker, STOPPED),
        # A frozen Redis does not refuse connections, but never answers.
        ("Redis frozen for 12 and 40 s", freeze_broker, FROZEN),
    ],
    ids=["stopped", "frozen"],
)
def test_redis_away_for_longer_than_senders_wait(
    ground: Ground, title: str, outage: Callable[..., None], cause: str
) -> None:
    """Retries and the next tasks of chains and chords are sent when Redis is back."""
    before = lasting_pids(ground)

    def act(case: Case) -> None:
        outage(ground, case, AWAY, pause=15)

    with to(ground, ATOMIC):
        summary, _ = counted(ground, title, FLEET, act, REST)
    assert_delivered(summary, judge.was_sent_twice(cause))
    assert_none_replaced(ground, before, lasting_pids(ground))


@pytest.mark.soak
def test_redis_clock_moved(ground: Ground) -> None:
    """The lease uses Redis's clock, and no task may be taken from a worker that renews."""

    def act(case: Case) -> None:
        for seconds in (3600, 0, -3600, 0) * 3:
            case.mark(MOVED)
            move(seconds)
            ground.sleep(20)

    with movable_clock(ground) as move, to(ground, ATOMIC):
        summary, _ = counted(ground, "Redis's clock moved by an hour", FLEET, act, REST)
    assert_delivered(summary)


@pytest.mark.soak
def test_drains_behind_named_exchanges(ground: Ground) -> None:
    """Tasks that a worker with the stock fetch has not begun are back in their queue at once."""
    with to(ground, ("warm", "exchanges")):
        summary, _ = counted(
            ground,
            "drains behind named exchanges",
            FLEET,
            lambda case: drain(ground, case, 6),
            REST,
        )
    assert_delivered(summary)
    assert summary.waits["longest"] < SOON, summary.waits
