"""Each fault of a replicated Redis by itself, and often; only in the soak."""

from __future__ import annotations

import pytest
from deaths import Recoveries, assert_delivered, counted, died
from ground import FLEET, Case, Ground
from outages import DISK_FULL
from partitions import (
    BEHIND,
    CLOCKS,
    CUT_OFF,
    PARTITION,
    WITHOUT_SENTINELS,
    behind,
    consuming_again,
    cut,
    fill_disk,
    kill,
    kill_primary,
    move_clocks,
    others,
    own_clocks,
    without_sentinels,
)
from replicas import GROWN, KILLED, RECOVERY, TWO_LOST, lose_two, primary, wait_until_whole

from scripts.restarts import judge

pytestmark = pytest.mark.soak

#: Kills in one run of the load, and such runs.
KILLS, RUNS = 12, 2
#: Seconds of rest after a fault in which tasks gather for minutes.
LONG_REST = 600.0
KILLED_CAUSES = (judge.was_sent_twice(KILLED), *died(KILLED))


@pytest.fixture(scope="module", autouse=True)
def three(ground: Ground) -> None:
    """Deploy three hosts of Redis, if no test before has done that."""
    ground.site(ground.results / "deploy.log")
    wait_until_whole(ground)


@pytest.mark.parametrize("number", range(1, RUNS + 1))
def test_primaries_killed(ground: Ground, number: int) -> None:
    found = Recoveries()

    def act(case: Case) -> Recoveries:
        found.seconds += [kill_primary(ground, case) for _ in range(KILLS)]
        return found

    summary, _ = counted(ground, f"primaries killed, {number}", FLEET, act)
    assert_delivered(summary, *KILLED_CAUSES)
    assert found.longest <= RECOVERY, found.as_dict()


#: Who is on the side of the primary, and on the other side.
SIDES = {
    "from the other hosts of Redis": lambda g, p: ([p], others(g, p)),
    "from all workers": lambda g, p: ([p], g.workers),
    "from everything": lambda g, p: ([p], [*others(g, p), *g.workers, g.control]),
    "with the sender, from the rest": lambda g, p: ([p, g.control], [*others(g, p), *g.workers]),
    "with a host of workers, from the rest": lambda g, p: (
        [p, g.workers[0]],
        [*others(g, p), *g.workers[1:], g.control],
    ),
}
CUT_CAUSES = (judge.was_sent_twice(CUT_OFF), *died(CUT_OFF), judge.ran_at_once(CUT_OFF))


@pytest.mark.parametrize("side", SIDES)
def test_a_primary_cut_off(ground: Ground, side: str) -> None:
    """It confirms nothing that no replica has, so nothing is lost; the sender sends it again."""

    def act(case: Case) -> None:
        with cut(ground, case, *SIDES[side](ground, primary(ground))):
            ground.sleep(PARTITION)
        wait_until_whole(ground)

    summary, _ = counted(ground, f"cut off {side}", FLEET, act)
    assert_delivered(summary, *CUT_CAUSES)


def test_a_primary_cut_off_that_needs_no_replica(ground: Ground) -> None:
    """Measured, and not promised: it accepts and loses tasks all the time."""
    ground.deploy(variables={"celery_app_wait_replicas": 0, "redis_min_replicas_to_write": 0})

    def act(case: Case) -> None:
        with cut(ground, case, *SIDES["from the other hosts of Redis"](ground, primary(ground))):
            ground.sleep(PARTITION)
        wait_until_whole(ground)

    summary, _ = counted(ground, "cut off, with both variables 0", FLEET, act)
    ground.deploy()
    assert summary.lost > 0, "it proves nothing about the other cases"
    assert all(cause.endswith(CUT_OFF) for cause in summary.lost_causes), summary.lost_causes


@pytest.mark.parametrize("number", [1, 2])
def test_a_primary_killed_without_sentinels(ground: Ground, number: int) -> None:
    """Without a majority nobody replaces it: it comes back by itself, with what it had written."""

    def act(case: Case) -> None:
        host = primary(ground)
        with without_sentinels(ground, case, [*others(ground, host), host][:number]):
            _, at = kill(ground, case)
            consuming_again(ground, at)
        wait_until_whole(ground)

    summary, _ = counted(ground, f"killed without {number} of 3 Sentinels", FLEET, act)
    assert_delivered(summary, *KILLED_CAUSES, judge.was_sent_twice(WITHOUT_SENTINELS))


def test_a_primary_killed_while_a_replica_is_behind(ground: Ground) -> None:
    """The other replica becomes the primary, because it has everything."""

    def act(case: Case) -> None:
        host = primary(ground)
        late = others(ground, host)[0]
        with behind(ground, case, late):
            ground.sleep(10)
            _, at = kill(ground, case)
            # With the third host still frozen, the new primary accepts nothing before the old one is back.
            consuming_again(ground, at, watch=60)
            assert primary(ground) != late
        wait_until_whole(ground)

    summary, _ = counted(ground, "killed while a replica was behind", FLEET, act)
    assert_delivered(summary, *KILLED_CAUSES, judge.was_sent_twice(BEHIND))


def test_a_primary_with_a_full_disk(ground: Ground) -> None:
    """It refuses tasks and stays the primary: the Sentinels still get answers from it."""
    summary, _ = counted(
        ground, "disk of the primary full", FLEET, lambda case: fill_disk(ground, case, 30)
    )
    assert_delivered(summary, judge.was_sent_twice(DISK_FULL))


def test_clocks_moved(ground: Ground) -> None:
    """Nothing is lost; Sentinels whose clock has moved replace no primary for half a minute."""

    def act(case: Case) -> None:
        host = primary(ground)
        for hosts in ([host], others(ground, host), ground.fleet.hosts("redis")):
            for seconds in (3600, 0, -3600, 0):
                move_clocks(ground, case, hosts, seconds)
                ground.sleep(15)
        wait_until_whole(ground)

    with own_clocks(ground):
        summary, _ = counted(ground, "clocks moved by an hour", FLEET, act)
    assert_delivered(summary, judge.was_sent_twice(CLOCKS))


def test_two_hosts_are_lost_for_good(ground: Ground) -> None:
    """The last host was a replica and can't become the primary by itself: a run that has only this host does that."""
    summary, _ = counted(
        ground,
        "two hosts of Redis lost",
        FLEET,
        lambda case: lose_two(ground, case),
        rest=LONG_REST,
    )
    # A kill may have to move the primary away from redis1 first.
    lost = (judge.was_sent_twice(TWO_LOST), *died(TWO_LOST))
    grown = (judge.was_sent_twice(GROWN), *died(GROWN))
    assert_delivered(summary, *KILLED_CAUSES, *lost, *grown)
