"""Cut the primary off, stop Sentinels, freeze a replica, fill a disk, move clocks, and see how long workers wait."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise

import outages
from deaths import wait_until_active
from ground import Case, Ground
from replicas import KILLED, primary, unit, wait_for_another, wait_until_whole
from support import resp

CUT_OFF = "the primary was cut off"
BEHIND = "a replica was behind"
WITHOUT_SENTINELS = "Sentinels were away"
CLOCKS = "clocks were moved"

#: Seconds of a partition: Sentinels have replaced the primary long before its end.
PARTITION = 40.0
#: Seconds after a fault in which the slowest worker is looked for.
WATCH = 25.0
#: Seconds before a fault in which each worker has started a task.
BEFORE = 10.0


def others(ground: Ground, host: str) -> list[str]:
    """Return the other hosts of Redis."""
    return [one for one in ground.fleet.hosts("redis") if one != host]


def consuming_again(ground: Ground, at: float, watch: float = WATCH) -> float:
    """Return the seconds from a fault until the last worker of short tasks started one again; `watch` them so long."""
    ground.sleep(max(0.0, at + watch - time.time()))
    rows = ground.ask(
        "SELECT node, started FROM runs WHERE node LIKE 'fast@%' AND started > :'since'::float8 ORDER BY started",
        since=at - BEFORE,
    )
    starts: dict[str, list[float]] = {}
    for node, started in (line.split("|") for line in rows.split()):
        starts.setdefault(node, []).append(float(started))
    assert len(starts) == len(ground.workers), f"{sorted(starts)} start tasks"
    silent = sorted(node for node, times in starts.items() if times[-1] <= at)
    assert not silent, f"{silent} have started no task in the {watch:.0f} s after the fault"
    # The end of each worker's longest pause. It may have begun shortly before the fault.
    ends = [
        max(
            (two for two in pairwise(times) if two[1] > at),
            key=lambda two: two[1] - two[0],
        )[1]
        for times in starts.values()
    ]
    return max(0.0, max(ends) - at)


def kill(ground: Ground, case: Case) -> tuple[str, float]:
    """Kill the broker's primary; return its host and the moment."""
    host = primary(ground)
    case.mark(KILLED)
    at = time.time()
    ground.fleet.must(host, ["systemctl", "kill", "--signal=KILL", unit("broker")])
    return host, at


def kill_primary(ground: Ground, case: Case) -> float:
    """Kill the broker's primary; return how many seconds the workers took to go on."""
    host, at = kill(ground, case)
    took = consuming_again(ground, at)
    wait_until_active(ground, host, unit("broker"))
    wait_until_whole(ground)
    return took


@contextmanager
def cut(ground: Ground, case: Case, one: Iterable[str], other: Iterable[str]) -> Iterator[None]:
    """Drop everything between two groups of hosts, in both directions."""
    pairs = [(a, b) for a in one for b in other]
    both = [*pairs, *((b, a) for a, b in pairs)]

    def route(verb: str) -> None:
        for host, far in both:
            address = str(ground.fleet.expected[far]["ansible_host"])
            ground.fleet.must(host, ["ip", "route", verb, "blackhole", address])

    with case.lasting(CUT_OFF):
        route("add")
        try:
            yield
        finally:
            route("del")


@contextmanager
def without_sentinels(ground: Ground, case: Case, hosts: Iterable[str]) -> Iterator[None]:
    """Stop the Sentinels of some hosts until the block ends."""
    stopped = list(hosts)
    with case.lasting(WITHOUT_SENTINELS):
        for host in stopped:
            ground.fleet.must(host, ["systemctl", "stop", "load-sentinel.service"])
        try:
            yield
        finally:
            for host in stopped:
                ground.fleet.must(host, ["systemctl", "start", "load-sentinel.service"])


@contextmanager
def behind(ground: Ground, case: Case, host: str) -> Iterator[None]:
    """Freeze a replica until the block ends: it has none of what the primary accepts meanwhile."""
    kill = ["systemctl", "kill", "--kill-whom=main", unit("broker")]
    with case.lasting(BEHIND):
        ground.fleet.must(host, [*kill, "--signal=STOP"])
        try:
            yield
        finally:
            ground.fleet.must(host, [*kill, "--signal=CONT"])


def move_primary(ground: Ground, wanted: str) -> None:
    """Move the broker's primary to a host, which is the only one that Sentinels may choose meanwhile."""
    before = primary(ground)
    if before == wanted:
        return

    def prefer(priority: int) -> None:
        for host in others(ground, wanted):
            with resp.session(ground.fleet, "broker", "admin", host) as admin:
                admin.send("CONFIG", "SET", "replica-priority", priority)

    prefer(0)
    # Sentinels ask each server every ten seconds.
    ground.sleep(12)
    ground.fleet.must(before, ["systemctl", "stop", unit("broker")])
    wait_for_another(ground, before)
    ground.fleet.must(before, ["systemctl", "start", unit("broker")])
    wait_until_whole(ground)
    prefer(100)
    assert primary(ground) == wanted


def fill_disk(ground: Ground, case: Case, seconds: float) -> None:
    """Fill the disk of the broker's primary for some seconds."""
    with outages.small_disk(ground) as path:
        wait_until_whole(ground)
        # Another host became the primary as the server stopped.
        move_primary(ground, outages.broker(ground)[0])
        outages.fill_disk(ground, case, path, seconds)
    wait_until_whole(ground)


@contextmanager
def own_clocks(ground: Ground) -> Iterator[None]:
    """Give the servers and the Sentinel of each host of Redis a clock that can be moved, until the block ends."""
    units = (unit("broker"), unit("results"), "load-sentinel.service")
    hosts = ground.fleet.hosts("redis")

    def restart() -> None:
        for host in hosts:
            ground.fleet.must(host, ["systemctl", "restart", *units])
            wait_until_whole(ground)

    with ExitStack() as stack:
        stack.callback(restart)
        for host in hosts:
            outages.set_clock(ground, host, 0)
            for one in units:
                stack.enter_context(outages.own_clock(ground, host, one))
        restart()
        yield


def move_clocks(ground: Ground, case: Case, hosts: Iterable[str], seconds: int) -> None:
    """Set the clocks of some hosts' servers and Sentinels this many seconds ahead, or behind."""
    case.mark(CLOCKS)
    for host in hosts:
        outages.move_clock(ground, host, seconds)
