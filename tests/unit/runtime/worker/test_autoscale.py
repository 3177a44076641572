"""How many processes a worker should have, in simulated bursts; no clock, no process."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_fleet.common.errors import FleetError
from celery_fleet.worker.autoscale import (
    PACE,
    VARIABLE,
    Autoscale,
    Limits,
    PoolLook,
    limits_of,
)

#: Seconds that simulated bursts are followed, after even the fewest processes have worked them off.
AFTERWARDS = 3000


@dataclass
class Burst:
    """Tasks that are sent at a steady rate: from when, for how long, how many each second, and how long each runs."""

    start: int
    seconds: int
    rate: int
    runs: int


@dataclass
class Run:
    """What happened: each change of the size, the longest wait, and the sizes that there were."""

    changes: list[tuple[int, int, int]] = field(default_factory=list)
    longest: int = 0
    sizes: set[int] = field(default_factory=set)
    last: int = 0
    ended: int = 0


def simulate(bursts: list[Burst], limits: Limits, fit: int = 10_000) -> Run:
    """Run a worker second by second; it has memory for `fit` processes altogether."""
    found = Run()
    size = limits.lowest
    scale = Autoscale(lambda wanted: max(0, min(wanted, fit - size)))
    waiting: deque[tuple[int, int]] = deque()
    running: list[int] = []
    work = sum(burst.rate * burst.seconds * burst.runs for burst in bursts)
    end = max(burst.start + burst.seconds for burst in bursts) + work // limits.lowest
    for now in range(end + AFTERWARDS):
        while running and running[0] <= now:
            heapq.heappop(running)
            found.ended += 1
        for burst in bursts:
            if burst.start <= now < burst.start + burst.seconds:
                waiting.extend([(now, burst.runs)] * burst.rate)
        while waiting and len(running) < size:
            sent, runs = waiting.popleft()
            found.longest = max(found.longest, now - sent)
            heapq.heappush(running, now + runs)
        oldest = now - waiting[0][0] if waiting else 0
        decision = scale.decide(limits, PoolLook(now, size, len(running) + len(waiting), oldest))
        if decision.size != size:
            assert decision.why
            assert decision.size >= len(running) or decision.size > size
            found.changes.append((now, size, decision.size))
            size = decision.size
        found.sizes.add(size)
    found.last = size
    assert not waiting
    return found


def steps(lowest: int, highest: int) -> int:
    """Return how many growths lead from one size to another."""
    number = 0
    while lowest < highest:
        lowest, number = lowest + math.ceil(lowest / 2), number + 1
    return number


BURST = st.builds(
    Burst,
    start=st.integers(0, 600),
    seconds=st.integers(1, 120),
    rate=st.integers(1, 4),
    runs=st.integers(1, 8),
)
LIMITS = st.builds(
    lambda lowest, more, wait: Limits(lowest, lowest + more, float(wait)),
    st.integers(1, 6),
    st.integers(1, 14),
    st.sampled_from([1, 5, 30, 60]),
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(burst=BURST, limits=LIMITS, fit=st.integers(1, 30))
def test_a_burst_waits_no_longer_than_with_all_processes_plus_the_time_to_start_them(
    burst: Burst, limits: Limits, fit: int
) -> None:
    assert limits.wait is not None
    found = simulate([burst], limits, fit)
    highest = max(limits.lowest, min(limits.highest, fit))
    at_best = simulate([burst], Limits(highest, highest)).longest
    growing = limits.wait + PACE * (steps(limits.lowest, highest) + 1)
    assert found.longest <= at_best + growing + burst.runs
    assert found.ended == burst.rate * burst.seconds


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(bursts=st.lists(BURST, min_size=1, max_size=3), limits=LIMITS, fit=st.integers(1, 30))
def test_the_size_stays_within_its_bounds_and_the_memory(
    bursts: list[Burst], limits: Limits, fit: int
) -> None:
    found = simulate(bursts, limits, fit)
    assert min(found.sizes) >= limits.lowest
    assert max(found.sizes) <= max(limits.lowest, min(limits.highest, fit))
    assert found.last == limits.lowest


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(burst=BURST, limits=LIMITS)
def test_a_burst_causes_few_changes(burst: Burst, limits: Limits) -> None:
    changes = simulate([burst], limits).changes
    ups = [change for change in changes if change[2] > change[1]]
    downs = [change for change in changes if change[2] < change[1]]
    assert len(ups) <= steps(limits.lowest, limits.highest)
    # At most twice to what the burst needs when the backlog is gone, to what its last tasks need, and to the lowest.
    assert len(downs) <= 4
    assert changes == [*ups, *downs]
    for before, after in itertools.pairwise(changes):
        least = PACE if after in ups else limits.calm
        assert after[0] - before[0] >= least


@pytest.mark.slow
@settings(max_examples=20, deadline=None, derandomize=True)
@given(limits=LIMITS, rate=st.integers(1, 3), runs=st.integers(1, 8))
def test_a_steady_load_is_no_reason_to_change_again_and_again(
    limits: Limits, rate: int, runs: int
) -> None:
    changes = simulate([Burst(0, 6000, rate, runs)], limits).changes
    while_it_lasts = [change for change in changes if change[0] < 6000]
    assert len(while_it_lasts) <= steps(limits.lowest, limits.highest) + 2
    assert not [change for change in while_it_lasts if change[0] > 3000]


def test_bursts_that_follow_each_other_keep_their_processes() -> None:
    limits = Limits(2, 10, 30.0)
    often = [Burst(start, 40, 4, 3) for start in range(0, 1000, 100)]
    assert [change[1:] for change in simulate(often, limits).changes] == [
        (2, 3),
        (3, 5),
        (5, 8),
        (8, 10),
        (10, 6),
        (6, 2),
    ]


LOOK = PoolLook(100.0, 4, 4, 31.0)


def decided(limits: Limits, look: PoolLook, room: int = 99) -> tuple[int, str, bool]:
    scale = Autoscale(lambda wanted: min(wanted, room))
    found = scale.decide(limits, look)
    return found.size, found.why, scale.blocked


@pytest.mark.parametrize(
    ("limits", "look", "expected"),
    [
        (Limits(2, 10, 30.0), LOOK, (6, "the oldest task has waited 31 s", False)),
        (Limits(2, 5, 30.0), LOOK, (5, "the oldest task has waited 31 s", False)),
        (Limits(2, 4, 30.0), LOOK, (4, "", False)),
        (Limits(2, 10, 31.0), LOOK, (4, "", False)),
        # An idle process: it will take the task, or can't.
        (Limits(2, 10, 30.0), PoolLook(100.0, 4, 3, 31.0), (4, "", False)),
        # An operator's size, from above and from below.
        (Limits(6, 6), LOOK, (6, "6 is wanted", False)),
        (Limits(2, 2), LOOK, (2, "2 is allowed", False)),
        (Limits(4, 4), LOOK, (4, "", False)),
    ],
)
def test_what_is_decided(limits: Limits, look: PoolLook, expected: tuple[int, str, bool]) -> None:
    assert decided(limits, look) == expected


def test_memory_limits_the_growth_until_there_is_some() -> None:
    room = 1
    scale = Autoscale(lambda wanted: min(wanted, room))
    limits = Limits(2, 10, 30.0)
    assert scale.decide(limits, LOOK).size == 5
    assert scale.blocked
    room = 0
    assert scale.decide(limits, PoolLook(105.0, 5, 5, 36.0)).size == 5
    assert scale.blocked
    room = 9
    assert scale.decide(limits, PoolLook(110.0, 5, 5, 41.0)).size == 8
    assert not scale.blocked


def test_a_worker_that_no_longer_needs_more_is_not_blocked() -> None:
    scale = Autoscale(lambda _: 0)
    limits = Limits(2, 10, 30.0)
    scale.decide(limits, LOOK)
    assert scale.blocked
    scale.decide(limits, PoolLook(101.0, 4, 4, 2.0))
    assert not scale.blocked


def test_the_time_of_calm_follows_the_wait_within_bounds() -> None:
    assert [Limits(1, 2, wait).calm for wait in (1.0, 30.0, 3600.0)] == [10.0, 120.0, 600.0]


def test_the_inventorys_bounds() -> None:
    assert limits_of({}, 4) == Limits(4, 4)
    assert limits_of({}, 4).words == "4"
    found = limits_of({VARIABLE: '{"max": 10, "min": 2, "wait": 30.0}'}, 2)
    assert (found, found.words) == (Limits(2, 10, 30.0), "2 to 10")


@pytest.mark.parametrize(
    "text",
    [
        "10,2",
        "[]",
        '{"min": 2, "max": 10}',
        '{"min": 0, "max": 10, "wait": 30}',
        '{"min": 3, "max": 2, "wait": 30}',
        '{"min": 1, "max": 2, "wait": 0}',
        '{"min": 1, "max": 2, "wait": NaN}',
        '{"min": 1, "max": 1e999, "wait": 1}',
    ],
)
def test_bounds_that_were_edited_by_hand_are_refused(text: str) -> None:
    with pytest.raises(FleetError, match="run site"):
        limits_of({VARIABLE: text}, 4)
