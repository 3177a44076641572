"""A broker that restarts, hangs or is full, hosts that are cut off or have a wrong clock, drains that are killed."""

from __future__ import annotations

import random
import time

from deaths import (
    HOST_CUT_OFF,
    HOST_LOST,
    LEASE,
    REDIS_FROZEN,
    REST,
    WORKER_KILLED,
    Recoveries,
    assert_delivered,
    counted,
    cut_off,
    died,
    frozen_redis,
    kill_worker,
    pids,
    so_many,
    unit_of,
    wait_until_active,
)
from faults import bring_back, docker
from ground import FLEET, Case, Ground
from support import resp
from support.deliveries import held
from support.waiting import wait_for

from scripts.restarts import judge

BROKER = "redis@load-broker.service"
RESTARTED = "Redis was restarted"


def test_redis_restarted(ground: Ground) -> None:
    """In order: it writes down all it has, and nothing that it confirmed is lost. The workers stay."""
    before = pids(ground)

    def act(case: Case) -> None:
        for _ in range(so_many(20, 12)):
            case.mark(RESTARTED)
            ground.fleet.must(ground.fleet.one("redis"), ["systemctl", "restart", BROKER])
            ground.sleep(6)

    summary, _ = counted(ground, "Redis restarted", FLEET, act)
    assert_delivered(summary, judge.was_sent_twice(RESTARTED))
    assert pids(ground) == before


def test_redis_frozen(ground: Ground, numbers: random.Random) -> None:
    before = pids(ground)

    def act(case: Case) -> None:
        lengths = [60.0, *(round(numbers.uniform(0.5, 12), 1) for _ in range(so_many(29, 9)))]
        for length in lengths:
            with frozen_redis(ground, case):
                ground.sleep(length)
            ground.sleep(4)

    summary, _ = counted(ground, "Redis frozen", FLEET, act)
    assert_delivered(summary, judge.was_sent_twice(REDIS_FROZEN))
    assert pids(ground) == before


def test_redis_full(ground: Ground) -> None:
    """It refuses what is sent, and what was sent before is worked off: taken, acknowledged, nothing of it lost."""

    def limit(value: str) -> None:
        with resp.session(ground.fleet, "broker", "admin") as admin:
            admin.send("CONFIG", "SET", "maxmemory", value)

    with resp.session(ground.fleet, "broker", "admin") as admin:
        _, configured = admin.send("CONFIG", "GET", "maxmemory")

    def act(case: Case) -> None:
        with case.lasting("Redis was full"):
            limit("1mb")
            try:
                ground.sleep(30)
            finally:
                limit(configured)

    summary, _ = counted(ground, "Redis full", FLEET, act)
    assert_delivered(summary)
    assert summary.refused > 0, "it was never full"


def test_hosts_lost(ground: Ground, numbers: random.Random) -> None:
    """No power, and nobody there to hand anything back: the others take it when the lease has run out."""
    found = Recoveries()

    def act(case: Case) -> Recoveries:
        for _ in range(so_many(10, 4)):
            host = numbers.choice(ground.workers)
            nodes = [f"{worker}@{host}" for worker in ground.instances]
            before = {tag for node in nodes for tag in held(ground.fleet, node)}
            case.mark(HOST_LOST, host=host, fatal=True)
            ground.fleet.must(host, ["ip", "link", "set", "eth0", "down"])
            docker("kill", ground.fleet.containers[host])
            began = time.monotonic()
            wait_for(
                f"what {host} held is back",
                LEASE + 20,
                lambda: not before & {tag for node in nodes for tag in held(ground.fleet, node)},  # noqa: B023 - called before the next turn
                pause=0.2,
            )
            found.seconds.append(time.monotonic() - began)
            bring_back(ground, host)
        return found

    summary, _ = counted(ground, "hosts lost", FLEET, act)
    assert_delivered(summary, *died(HOST_LOST))
    assert found.longest <= LEASE + 10, found.as_dict()


def test_host_cut_off_beyond_its_lease(ground: Ground) -> None:
    """Its workers go on and can tell nobody: what they run meanwhile runs elsewhere, too, and nothing is lost."""
    host, before = ground.workers[0], pids(ground)

    def act(case: Case) -> None:
        with cut_off(ground, case, host):
            ground.sleep(2 * LEASE)

    summary, _ = counted(ground, "a host cut off beyond its lease", FLEET, act)
    assert_delivered(summary, judge.ran_at_once(HOST_CUT_OFF), judge.had_ended(HOST_CUT_OFF))
    assert summary.doubled > 0, "it was not cut off"
    assert pids(ground) == before


def test_drains_killed(ground: Ground, numbers: random.Random) -> None:
    """Told to stop, and killed at some moment of the drain."""
    workers = [(host, worker) for host in ground.workers for worker in ground.instances]

    def act(case: Case) -> None:
        for count in range(so_many(100, 45)):
            host, worker = workers[count % len(workers)]
            unit = unit_of(FLEET, worker)
            wait_until_active(ground, host, unit)
            ground.fleet.must(host, ["systemctl", "stop", "--no-block", unit])
            ground.sleep(numbers.uniform(0, 1.5))
            kill_worker(ground, case, FLEET, host, worker, "all")
            ground.fleet.must(host, ["systemctl", "start", unit])

    summary, _ = counted(ground, "drains killed", FLEET, act, rest=REST)
    assert_delivered(summary, *died(WORKER_KILLED))
