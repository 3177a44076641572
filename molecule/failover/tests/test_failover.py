"""The primary is killed, frozen, lost or moved while tasks run, and nothing that was confirmed is lost."""

from __future__ import annotations

from pathlib import Path

from deaths import GAP, assert_delivered, assert_none_replaced, died, pids
from ground import FLEET, Case, Ground
from replicas import (
    FROZEN,
    GROWN,
    KILLED,
    LOST,
    MOVED,
    REBOOTED,
    RECOVERY,
    REPLACED,
    SHRUNK,
    deploy_without_a_host,
    freeze_primary,
    grow,
    kill_primary,
    lose_primary,
    move_primaries,
    primary,
    reboot_hosts,
    replace,
    shrink,
    wait_until_whole,
)
from rotation import (
    REVOKED,
    ROTATED,
    replace_authority,
    rotate_certificates,
    rotate_passwords,
)

from scripts.restarts import judge


def test_one_host_becomes_three(ground: Ground) -> None:
    """The first test of the scenario: what one host has is on all three, and no task is lost meanwhile."""
    summary = ground.measure("one host becomes three", FLEET, lambda case: grow(ground, case))
    assert_delivered(summary, judge.was_sent_twice(GROWN), *died(GROWN))
    assert primary(ground) == "redis1"


def test_a_primary_killed_frozen_and_lost(ground: Ground) -> None:
    before = pids(ground)
    times: list[float] = []

    def act(case: Case) -> None:
        kill_primary(ground, case)
        ground.sleep(GAP)
        times.append(freeze_primary(ground, case, 30))
        ground.sleep(GAP)
        times.append(lose_primary(ground, case, 40))

    summary = ground.measure("a primary killed, frozen and lost", FLEET, act)
    sent_twice = (judge.was_sent_twice(what) for what in (KILLED, FROZEN, LOST))
    assert_delivered(summary, *sent_twice)
    assert max(times) <= RECOVERY, times
    assert_none_replaced(ground, before, pids(ground))


def test_a_run_restarts_redis_on_one_host_after_another(ground: Ground) -> None:
    before = pids(ground)
    summary = ground.measure(
        "Redis restarted by a run", FLEET, lambda case: move_primaries(ground, case)
    )
    assert_delivered(summary, judge.was_sent_twice(MOVED))
    assert_none_replaced(ground, before, pids(ground))


def test_a_run_goes_on_without_a_host_and_repairs_it_later(ground: Ground) -> None:
    before = pids(ground)
    summary = ground.measure(
        "a run while a host of Redis is away",
        FLEET,
        lambda case: deploy_without_a_host(ground, case),
    )
    assert_delivered(summary)
    assert_none_replaced(ground, before, pids(ground))


def test_the_hosts_of_redis_reboot_while_workers_work(ground: Ground) -> None:
    before = pids(ground)
    summary = ground.measure(
        "the hosts of Redis reboot", FLEET, lambda case: reboot_hosts(ground, case)
    )
    assert_delivered(summary, judge.was_sent_twice(REBOOTED))
    assert_none_replaced(ground, before, pids(ground))


def test_passwords_are_revoked_and_rotated(ground: Ground) -> None:
    summary = ground.measure(
        "passwords of Redis changed", FLEET, lambda case: rotate_passwords(ground, case)
    )
    sent_twice = (judge.was_sent_twice(what) for what in (REVOKED, ROTATED))
    # An acknowledgement has to wait until its worker has the new password, maybe for longer than the lease.
    assert_delivered(summary, *sent_twice, judge.had_ended(REVOKED))


def test_keys_and_certificates_are_rotated(ground: Ground) -> None:
    before = pids(ground)
    summary = ground.measure(
        "keys and certificates changed", FLEET, lambda case: rotate_certificates(ground, case)
    )
    assert_delivered(summary)
    assert_none_replaced(ground, before, pids(ground))


def test_a_stolen_authority_is_replaced_at_once(ground: Ground, tmp_path: Path) -> None:
    """Twice, so that the next tests begin with the inventory's authority."""
    for generation in (2, 1):
        replace_authority(ground, tmp_path / f"site-{generation}.log", generation)
    wait_until_whole(ground)


def test_a_lost_host_is_replaced(ground: Ground) -> None:
    """All Sentinels forget it, or a majority would soon need hosts that no longer exist."""
    summary = ground.measure(
        "a lost host of Redis replaced", FLEET, lambda case: replace(ground, case)
    )
    assert_delivered(summary, judge.was_sent_twice(REPLACED), *died(REPLACED))


def test_three_hosts_become_one(ground: Ground) -> None:
    """The last test of the scenario."""
    summary = ground.measure("three hosts become one", FLEET, lambda case: shrink(ground, case))
    assert_delivered(summary, judge.was_sent_twice(SHRUNK), *died(SHRUNK))
    rest = (
        "ls /var/lib/celery-fleet-redis/load-*/role.conf /etc/celery-fleet/redis/load-*/login.conf"
    )
    assert ground.fleet.execute("redis1", rest).status != 0
    assert ground.fleet.execute("redis1", ["systemctl", "cat", "load-sentinel.service"]).status != 0
