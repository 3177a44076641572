"""The broker restarts, hangs or is full, and hosts are lost or cut off."""

from __future__ import annotations

import random
import time

import pytest
from deaths import (
    GAP,
    HOST_CUT_OFF,
    LEASE,
    Recoveries,
    assert_delivered,
    assert_none_replaced,
    counted,
    cut_off,
    cut_often,
    died,
    lose,
    pids,
)
from faults import HOST_LOST, REDIS_RESTARTED
from ground import FLEET, Case, Ground
from outages import FROZEN, fill_memory, freeze_broker, restart_broker

from scripts.restarts import judge
from scripts.restarts.summary import RestartSummary

#: Causes of tasks that may run twice if a host is cut off for longer than its lease.
APART = (judge.ran_at_once(HOST_CUT_OFF), judge.had_ended(HOST_CUT_OFF))

#: Causes of messages that it may send twice: Redis has the message, and its answer does not arrive.
SENT_APART = judge.was_sent_twice(HOST_CUT_OFF)


def assert_cut_off(summary: RestartSummary) -> None:
    assert any(cause in APART for cause in summary.doubled_causes), "it was not cut off"


@pytest.mark.short
def test_hosts_and_redis_in_turn(ground: Ground) -> None:
    """One host is lost while another one is cut off. Then Redis restarts, hangs, loses all connections and is full."""
    lost, apart, _ = ground.workers
    others = [host for host in ground.workers if host != lost]
    found = Recoveries()

    def act(case: Case) -> Recoveries:
        before = pids(ground, others)
        began = time.monotonic()
        # Both happen at the same time, because each concerns the tasks of one host.
        with cut_off(ground, case, apart):
            found.seconds.append(lose(ground, case, lost, LEASE + 20))
            ground.sleep(max(0.0, began + 2 * LEASE - time.monotonic()))
        before |= pids(ground, [lost])
        ground.sleep(GAP)
        # These faults allow the same messages to be sent twice, so they need no gap. The next one allows none.
        restart_broker(ground, case, 2)
        freeze_broker(ground, case, (3.0, 20.0), pause=4)
        ground.sleep(GAP)
        cut_often(ground, case, 5)
        fill_memory(ground, case, 15)
        assert_none_replaced(ground, before, pids(ground))
        return found

    summary, _ = counted(ground, "hosts and Redis in turn", FLEET, act)
    sent_twice = (judge.was_sent_twice(what) for what in (REDIS_RESTARTED, FROZEN))
    assert_delivered(summary, *died(HOST_LOST), *APART, SENT_APART, *sent_twice)
    assert_cut_off(summary)
    assert found.longest <= LEASE + 10, found.as_dict()


@pytest.mark.soak
def test_redis_restarted(ground: Ground) -> None:
    """It stops in order, so it saves all its data and loses nothing that it has confirmed. The workers stay."""
    before = pids(ground)
    summary, _ = counted(
        ground, "Redis restarted", FLEET, lambda case: restart_broker(ground, case, 20)
    )
    assert_delivered(summary, judge.was_sent_twice(REDIS_RESTARTED))
    assert_none_replaced(ground, before, pids(ground))


@pytest.mark.soak
def test_redis_frozen(ground: Ground, numbers: random.Random) -> None:
    before = pids(ground)
    lengths = [60.0, *(round(numbers.uniform(0.5, 12), 1) for _ in range(29))]
    summary, _ = counted(
        ground, "Redis frozen", FLEET, lambda case: freeze_broker(ground, case, lengths, pause=4)
    )
    assert_delivered(summary, judge.was_sent_twice(FROZEN))
    assert_none_replaced(ground, before, pids(ground))


@pytest.mark.soak
def test_redis_full(ground: Ground) -> None:
    """Redis refuses new tasks, and workers fetch and acknowledge the older ones without losing any."""
    summary, _ = counted(ground, "Redis full", FLEET, lambda case: fill_memory(ground, case, 30))
    assert_delivered(summary)


@pytest.mark.soak
def test_hosts_lost(ground: Ground, numbers: random.Random) -> None:
    """A host without power hands nothing back; the other hosts take its tasks when the lease has expired."""
    found = Recoveries()

    def act(case: Case) -> Recoveries:
        for _ in range(10):
            host = numbers.choice(ground.workers)
            found.seconds.append(lose(ground, case, host, LEASE + 20))
        return found

    summary, _ = counted(ground, "hosts lost", FLEET, act)
    assert_delivered(summary, *died(HOST_LOST))
    assert found.longest <= LEASE + 10, found.as_dict()


@pytest.mark.soak
def test_host_cut_off_beyond_its_lease(ground: Ground) -> None:
    """Its workers continue and can't report their results: their tasks run elsewhere too, and nothing is lost."""
    before = pids(ground)

    def act(case: Case) -> None:
        with cut_off(ground, case, ground.workers[0]):
            ground.sleep(2 * LEASE)

    summary, _ = counted(ground, "a host cut off beyond its lease", FLEET, act)
    assert_delivered(summary, *APART, SENT_APART)
    assert_cut_off(summary)
    assert_none_replaced(ground, before, pids(ground))
