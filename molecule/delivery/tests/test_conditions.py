"""Late replies, a full disk, a killed Redis, wrong clocks, large bodies."""

from __future__ import annotations

import random

import pytest
from conditions import EVENTS, NO_REPLIES, late_replies, wrong_clocks
from deaths import (
    GAP,
    WORKER_KILLED,
    Recoveries,
    assert_delivered,
    assert_none_replaced,
    assert_revoked,
    counted,
    died,
    kill_workers,
    pids,
)
from ground import FLEET, SOAK, Case, Ground
from outages import DISK_FULL, KILLED, fill_disk, kill_broker, small_disk, synced_always

from scripts.restarts import judge

#: A host that gets no reply for longer than its lease loses it.
APART = (judge.ran_at_once(NO_REPLIES), judge.had_ended(NO_REPLIES))


@pytest.fixture(scope="module", autouse=True)
def deployed(ground: Ground) -> None:
    """Enable events for every fault in the soak form; the short form tests them in test_taking.py."""
    ground.deploy(variables=EVENTS if SOAK else {})


@pytest.mark.short
def test_conditions_in_turn(ground: Ground, numbers: random.Random) -> None:
    """With one host's clock ahead and one behind: kills, a full disk, a killed Redis, late replies."""
    ahead, behind, _ = ground.workers

    def act(case: Case) -> Recoveries:
        found = kill_workers(ground, case, FLEET, 6, numbers)
        before = pids(ground)
        # Both faults allow the same messages to be sent twice, so they need no gap between them.
        fill_disk(ground, case, path, 15)
        ground.sleep(5)
        with synced_always(ground):
            kill_broker(ground, case, 2)
        ground.sleep(GAP)
        late_replies(ground, case, (2.0, 8.0, 18.0), numbers)
        assert_none_replaced(ground, before, pids(ground))
        return found

    with wrong_clocks(ground, {ahead: 20, behind: -20}), small_disk(ground) as path:
        summary, _ = counted(ground, "conditions in turn", FLEET, act)
    sent_twice = (judge.was_sent_twice(what) for what in (DISK_FULL, KILLED))
    assert_delivered(summary, *died(WORKER_KILLED), *sent_twice, *APART)


@pytest.mark.soak
def test_late_replies(ground: Ground, numbers: random.Random) -> None:
    """Messages that a late reply has moved are swept up; the tasks that run at that time run once."""
    before = pids(ground)
    short = [round(numbers.uniform(1, 10), 1) for _ in range(9)]
    lengths = [*short[:4], 30.0, *short[4:], 18.0]
    summary, _ = counted(
        ground,
        "replies that come late",
        FLEET,
        lambda case: late_replies(ground, case, lengths, numbers),
    )
    assert_delivered(summary, *APART)
    assert_none_replaced(ground, before, pids(ground))


@pytest.mark.soak
def test_disk_full(ground: Ground) -> None:
    """Redis refuses to write, so nothing is sent, fetched or acknowledged. Then all of it continues."""
    before = pids(ground)

    def act(case: Case) -> None:
        for _ in range(2):
            fill_disk(ground, case, path, 20)
            ground.sleep(10)

    with small_disk(ground) as path:
        summary, _ = counted(ground, "disk of Redis full", FLEET, act)
    assert_delivered(summary, judge.was_sent_twice(DISK_FULL))
    assert_none_replaced(ground, before, pids(ground))


@pytest.mark.soak
def test_a_killed_redis_that_syncs_always_loses_nothing(ground: Ground) -> None:
    """Everything that Redis has confirmed is on its disk."""
    before = pids(ground)
    with synced_always(ground):
        summary, _ = counted(
            ground,
            "Redis killed with appendfsync always",
            FLEET,
            lambda case: kill_broker(ground, case, 10),
        )
    assert_delivered(summary, judge.was_sent_twice(KILLED))
    assert_none_replaced(ground, before, pids(ground))


@pytest.mark.soak
def test_a_killed_redis_that_syncs_every_second(ground: Ground) -> None:
    """This is measured and not promised: tasks that Redis loses are lost, and no others."""
    before = pids(ground)
    summary, _ = counted(
        ground,
        "Redis killed with appendfsync everysec",
        FLEET,
        lambda case: kill_broker(ground, case, 10),
    )
    causes = {**summary.lost_causes, **summary.doubled_causes}
    assert not [cause for cause in causes if not cause.endswith(f"as {KILLED}")], causes
    assert_none_replaced(ground, before, pids(ground))


@pytest.mark.soak
def test_wrong_clocks(ground: Ground, numbers: random.Random) -> None:
    """One host is a minute ahead, one behind, and workers of all hosts are killed: the lease uses Redis's clock."""
    ahead, behind, _ = ground.workers

    def act(case: Case) -> Recoveries:
        return kill_workers(ground, case, FLEET, 12, numbers)

    with wrong_clocks(ground, {ahead: 60, behind: -60}):
        summary, _ = counted(ground, "clocks 60 s off", FLEET, act)
    assert_delivered(summary, *died(WORKER_KILLED))


@pytest.mark.soak
def test_every_kind_of_message(ground: Ground, numbers: random.Random) -> None:
    """Bodies of 1 kB and 1 MB, priorities, rate limits, events, and tasks that are revoked; workers are killed."""
    with ground.loaded("--rich"):
        summary, _ = counted(
            ground,
            "workers killed under every kind of message",
            FLEET,
            lambda case: kill_workers(ground, case, FLEET, 10, numbers),
        )
    assert_delivered(summary, *died(WORKER_KILLED))
    assert_revoked(summary)
