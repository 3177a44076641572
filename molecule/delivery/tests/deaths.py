"""What is killed, cut off or frozen under load, and how long its messages stay away."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ground import FLEET, Case, Ground, Way
from support import units
from support.deliveries import cut_connections, held
from support.waiting import wait_for

from scripts.restarts import judge, origin
from scripts.restarts.summary import Summary

LEASE = 15.0  # seconds, as the inventory has it
#: Seconds after which all that a fault has left must have run: the lease, a sweep, the longest task, and what has
#: gathered in the queues while fewer consumed them.
REST = LEASE + 225.0
#: Seconds between two deaths. More of them and the longest tasks, which begin anew each time, would fill all processes.
PAUSE = 3.0

#: Seconds of load at the most: 200 deaths take some eleven minutes.
LONGEST = 1800.0

#: What is done to the fleet, as the causes name it.
WORKER_KILLED = "its worker was killed"
PROCESS_KILLED = "its process was killed"
HOST_LOST = "its host was lost"
HOST_CUT_OFF = "its host was cut off from Redis"
CONNECTIONS_CUT = "all connections were cut"
REDIS_FROZEN = "Redis was frozen"


def died(what: str) -> tuple[str, str]:
    """Name what a death excuses: a task that ran, and one whose acknowledgement was under way."""
    return judge.was_cut_off(what), judge.had_ended(what)


def so_many(soak: int, test: int) -> int:
    """Return how often a fault is made by `make soak`, and how often by `make test-…`, which has less time."""
    return soak if origin.is_soak() else test


@dataclass
class Recoveries:
    """Seconds from each death until nothing of what the dead held was away any more."""

    seconds: list[float] = field(default_factory=list)

    @property
    def p50(self) -> float:
        """The median."""
        found = sorted(self.seconds)
        return found[len(found) // 2] if found else math.nan

    @property
    def longest(self) -> float:
        """The maximum."""
        return max(self.seconds, default=math.nan)

    def as_dict(self) -> dict[str, float | int]:
        """For the report."""
        return {"count": len(self.seconds), "p50": self.p50, "max": self.longest}


def unit_of(way: Way, worker: str) -> str:
    """The unit of a worker of three in one of the two ways that are measured."""
    return f"load-worker@{worker}.service" if way is FLEET else f"plain-{worker}.service"


def pids(ground: Ground) -> dict[tuple[str, str], str]:
    """The main processes of all workers."""
    return {
        (host, worker): units.state(ground.fleet, host, unit_of(FLEET, worker))["MainPID"]
        for host in ground.workers
        for worker in ground.instances
    }


def wait_until_active(ground: Ground, host: str, unit: str, seconds: float = 60) -> None:
    """Wait until it runs; for one of the fleet's that is when it consumes."""
    wait_for(
        f"{unit} on {host} is active",
        seconds,
        lambda: units.state(ground.fleet, host, unit).get("ActiveState") == "active",
        pause=0.2,
    )


def kill_worker(ground: Ground, case: Case, way: Way, host: str, worker: str, whom: str) -> None:
    """SIGKILL to its main process (`main`), or to all (`all`)."""
    node = f"{worker}@{host}"
    case.mark(WORKER_KILLED, host=host, node=node, fatal=True)
    unit = unit_of(way, worker)
    ground.fleet.must(host, ["systemctl", "kill", "--signal=KILL", f"--kill-whom={whom}", unit])


def kill_workers(
    ground: Ground,
    case: Case,
    way: Way,
    number: int,
    numbers: random.Random,
    names: Collection[str] = (),
    pause: float = PAUSE,
) -> Recoveries:
    """So many of all, or of some names, one after the other, each when it consumes again; a while lies between two."""
    found = Recoveries()
    began = time.monotonic()
    chosen = names or ground.instances
    workers = [(host, worker) for host in ground.workers for worker in chosen]
    for count in range(number):
        host, worker = workers[count % len(workers)]
        wait_until_active(ground, host, unit_of(way, worker))
        time.sleep(max(0.0, began + pause - time.monotonic()) + numbers.uniform(0, 0.4))
        before = held(ground.fleet, f"{worker}@{host}")
        kill_worker(ground, case, way, host, worker, numbers.choice(["main", "main", "all"]))
        began = time.monotonic()
        if before and way is FLEET:
            wait_for(
                f"what {worker}@{host} held is back",
                LEASE + 10,
                lambda: not before & held(ground.fleet, f"{worker}@{host}"),  # noqa: B023  # called at once
                pause=0.02,
            )
            found.seconds.append(time.monotonic() - began)
    return found


def kill_child(ground: Ground, case: Case, host: str, worker: str, numbers: random.Random) -> None:
    """SIGKILL to one process of a pool."""
    unit = unit_of(FLEET, worker)
    main = units.state(ground.fleet, host, unit)["MainPID"]
    child = numbers.choice(ground.fleet.must(host, ["pgrep", "--parent", main]).split())
    case.mark(PROCESS_KILLED, host=host, node=f"{worker}@{host}", fatal=True, pid=int(child))
    ground.fleet.must(host, ["kill", "-KILL", child])


def kill_clients(ground: Ground, case: Case) -> None:
    """All connections of workers to the broker."""
    case.mark(CONNECTIONS_CUT)
    cut_connections(ground.fleet)


@contextmanager
def frozen_redis(ground: Ground, case: Case) -> Iterator[None]:
    """The broker's process is stopped, as a host that swaps would have it; its connections stay open."""
    host, unit = ground.fleet.one("redis"), "redis@load-broker.service"
    kill = ["systemctl", "kill", "--kill-whom=main", unit]
    with case.lasting(REDIS_FROZEN):
        ground.fleet.must(host, [*kill, "--signal=STOP"])
        try:
            yield
        finally:
            ground.fleet.must(host, [*kill, "--signal=CONT"])


@contextmanager
def cut_off(ground: Ground, case: Case, host: str) -> Iterator[None]:
    """Nothing that a host sends reaches Redis, and its workers go on: the record, which is elsewhere, sees it."""
    address = ground.fleet.of("redis")["ansible_host"]
    with case.lasting(HOST_CUT_OFF, host):
        ground.fleet.must(host, ["ip", "route", "add", "blackhole", address])
        try:
            yield
        finally:
            ground.fleet.must(host, ["ip", "route", "del", "blackhole", address])


def counted(
    ground: Ground,
    name: str,
    way: Way,
    act: Callable[[Case], Recoveries | None],
    rest: float = REST,
) -> tuple[Summary, Recoveries]:
    """One run of the load with a fault in it, and how long what was held stayed away."""
    recoveries = Recoveries()

    def acting(case: Case) -> None:
        found = act(case)
        if found is not None:
            recoveries.seconds.extend(found.seconds)

    summary = ground.measure(name, way, acting, rest=rest, longest=LONGEST)
    if recoveries.seconds:
        stem = f"{way.name}-{name}".replace(" ", "-")
        path = ground.results / f"{stem}.recovery.json"
        path.write_text(json.dumps(recoveries.as_dict()) + "\n")
    return summary, recoveries


def assert_delivered(summary: Summary, *allowed: str) -> None:
    """Nothing is lost, and nothing ran again but for the causes that are allowed, each named in full.

    What ran again may have sent something again; its own cause has to be allowed.
    """
    assert (summary.lost, summary.lost_causes) == (0, {})
    assert not summary.unexpected((*allowed, judge.SENT_BY_RERUN)), summary.doubled_causes
