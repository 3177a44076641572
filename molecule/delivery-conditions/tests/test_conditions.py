"""Late replies, a full disk, a killed Redis, wrong clocks, large bodies, stock workers beside atomic ones.

The last two tests deploy the fleet anew; the last one leaves it with the lease that is the default.
"""

from __future__ import annotations

import random
import time

import pytest
from conditions import (
    DISK_FULL,
    KILLED,
    NO_REPLIES,
    behind_proxies,
    clock_of,
    deploy,
    full_disk,
    hold_replies,
    kill_broker,
    kill_on,
    lose_for,
    said,
    small_disk,
    synced_always,
    takes,
    wrong_clock,
)
from deaths import (
    HOST_LOST,
    WORKER_KILLED,
    Recoveries,
    assert_delivered,
    counted,
    died,
    kill_workers,
    pids,
    so_many,
)
from ground import FLEET, Case, Ground

from scripts.restarts import judge

#: The lease that is the default, with which a lost host is waited for once.
DEFAULT_LEASE = 300.0
#: What a stock worker of this fleet can hold: its time limit and its drain.
STOCK_TIMEOUT = 120


# --- Redis and the way to it -----------------------------------------------------------------------


def test_late_replies(ground: Ground, numbers: random.Random) -> None:
    """What a reply has moved that nobody waited for any more is swept up; what ran meanwhile runs once."""
    before, since = pids(ground), time.time()

    def act(case: Case) -> None:
        with behind_proxies(ground, case):
            short = [round(numbers.uniform(1, 10), 1) for _ in range(so_many(9, 5))]
            for length in [*short[:4], 30.0, *short[4:], 18.0]:
                pause = 20 if length > max(short) else 3
                # Whatever goes wrong after a long one belongs to that, and not to those around it.
                ground.sleep(pause)
                hold_replies(ground, case, numbers.choice(ground.workers), length)
                ground.sleep(pause)

    summary, _ = counted(ground, "replies that come late", FLEET, act)
    # A host that hears nothing for longer than its lease is cut off from it.
    assert_delivered(summary, judge.ran_at_once(NO_REPLIES), judge.had_ended(NO_REPLIES))
    assert pids(ground) == before
    text = "the broker does not answer"
    assert any(said(ground, host, text, since) for host in ground.workers), "none noticed it"


def test_disk_full(ground: Ground) -> None:
    """Redis refuses to write, so nothing is sent, taken or acknowledged; then it goes on where it was."""
    before = pids(ground)

    with small_disk(ground) as path:

        def act(case: Case) -> None:
            for _ in range(2):
                with full_disk(ground, case, path):
                    ground.sleep(20)
                ground.sleep(10)

        summary, _ = counted(ground, "disk of Redis full", FLEET, act)
    assert_delivered(summary, judge.was_sent_twice(DISK_FULL))
    assert summary.refused > 0, "it was never full"
    assert pids(ground) == before


def test_redis_killed_that_syncs_always(ground: Ground) -> None:
    """What it confirmed is on its disk."""
    before = pids(ground)
    with synced_always(ground):
        summary, _ = counted(
            ground,
            "Redis killed with appendfsync always",
            FLEET,
            lambda case: kill_broker(ground, case, so_many(10, 6)),
        )
    assert_delivered(summary, judge.was_sent_twice(KILLED))
    assert pids(ground) == before


@pytest.mark.soak
def test_redis_killed_that_syncs_every_second(ground: Ground) -> None:
    """Measured and not promised: what it loses then is lost, and nothing else."""
    before = pids(ground)
    summary, _ = counted(
        ground,
        "Redis killed with appendfsync everysec",
        FLEET,
        lambda case: kill_broker(ground, case, so_many(10, 6)),
    )
    causes = {**summary.lost_causes, **summary.doubled_causes}
    assert not [cause for cause in causes if not cause.endswith(f"as {KILLED}")], causes
    assert pids(ground) == before


# --- the workers -----------------------------------------------------------------------------------


def test_wrong_clocks(ground: Ground, numbers: random.Random) -> None:
    """One host a minute ahead, one behind, and workers of all of them killed: the lease goes by Redis's clock."""
    ahead, behind, _ = ground.workers

    def act(case: Case) -> Recoveries:
        return kill_on(ground, case, ground.workers, so_many(12, 8), numbers)

    with wrong_clock(ground, ahead, 60), wrong_clock(ground, behind, -60):
        assert clock_of(ground, ahead) > 30
        assert clock_of(ground, behind) < -30
        summary, _ = counted(ground, "clocks 60 s off", FLEET, act)
    assert_delivered(summary, *died(WORKER_KILLED))


def test_every_kind_of_message(ground: Ground, numbers: random.Random) -> None:
    """Bodies of 1 kB and 1 MB, priorities, rate limits, events, and tasks that are revoked; workers are killed."""
    ground.load_options = ("--rich",)
    try:
        summary, _ = counted(
            ground,
            "workers killed under every kind of message",
            FLEET,
            lambda case: kill_workers(ground, case, FLEET, 10, numbers),
        )
    finally:
        ground.load_options = ()
    assert_delivered(summary, *died(WORKER_KILLED))
    assert summary.revoked > 0, "none was revoked"
    # What is revoked in the moment in which a worker starts passes it by, as with every Celery.
    assert not [cause for cause in summary.unheeded if not cause.endswith("as its worker started")]


# --- other workers beside, and the default ----------------------------------------------------------


@pytest.mark.parametrize("new", ["stock", pytest.param("atomic", marks=pytest.mark.soak)])
def test_changing_over(ground: Ground, numbers: random.Random, new: str) -> None:
    """From one take to the other under load: one host first, where atomic workers are killed, then all of them."""
    first, *others = ground.workers
    other = "stock" if new == "atomic" else "atomic"
    atomic = others if new == "stock" else [first]

    def to(case_log: Case, one: str, rest: str) -> None:
        deploy(
            ground,
            case_log.log,
            celery_app_visibility_timeout=STOCK_TIMEOUT,
            celery_worker_take=f"{{{{ {one!r} if inventory_hostname == {first!r} else {rest!r} }}}}",
        )

    def act(case: Case) -> Recoveries:
        to(case, new, other)
        seen = takes(ground)
        assert seen["atomic"], seen
        assert seen["stock"], seen
        found = kill_on(ground, case, atomic, 6, numbers)
        to(case, new, new)
        seen = takes(ground)
        assert seen[new], seen
        assert not seen[other], seen
        return found

    summary, _ = counted(ground, f"from {other} to {new} workers", FLEET, act)
    assert_delivered(summary, *died(WORKER_KILLED))


@pytest.mark.soak
def test_default_lease(ground: Ground) -> None:
    """A lost host is waited for as long as its lease, however long that is, and for no longer than 10 s more."""
    found = Recoveries()
    deploy(
        ground,
        ground.results / "default-lease.log",
        celery_app_visibility_timeout=int(DEFAULT_LEASE),
    )

    def act(case: Case) -> Recoveries:
        found.seconds.append(lose_for(ground, case, ground.workers[0], DEFAULT_LEASE + 20))
        return found

    summary, _ = counted(ground, "a host lost with a lease of 300 s", FLEET, act)
    assert_delivered(summary, *died(HOST_LOST))
    # It was renewed a third of it ago at the most.
    assert DEFAULT_LEASE / 2 < found.longest <= DEFAULT_LEASE + 10, found.as_dict()
