"""Kill, lose or cut off something under load, and measure how long its messages stay away."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from faults import HOST_LOST, bring_back, docker
from ground import FLEET, Case, Ground, Way
from support import units
from support.deliveries import cut_connections, held
from support.waiting import wait_for

from scripts.restarts import judge
from scripts.restarts.summary import RestartSummary

LEASE = 15.0  # seconds, as the inventory has it
#: Seconds after a fault within which all tasks must have run: the lease, a sweep, the longest task, and what has
#: gathered in the queues while fewer consumed them.
REST = LEASE + 225.0
#: Seconds between two kills. With more kills the longest tasks, which begin again each time, would fill all
#: processes.
PAUSE = 3.0
#: Seconds between two faults of a run if repeats could be attributed to either: the judge picks the first.
GAP = judge.LASTING + judge.UNDER_WAY

#: Maximum seconds of load: 200 kills take about eleven minutes.
LONGEST = 1800.0

#: Names of what is done to the fleet, as the causes use them.
WORKER_KILLED = "its worker was killed"
PROCESS_KILLED = "its process was killed"
HOST_CUT_OFF = "its host was cut off from Redis"
CONNECTIONS_CUT = "all connections were cut"


def died(what: str) -> tuple[str, str]:
    """Return the causes that excuse a repeat after a kill: the task ran, or its acknowledgement was under way."""
    return judge.was_cut_off(what), judge.had_ended(what)


@dataclass
class Recoveries:
    """Seconds from each kill until every message that the killed process held was delivered again."""

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
        """Return the values for the report."""
        return {"count": len(self.seconds), "p50": self.p50, "max": self.longest}


# --- workers ---------------------------------------------------------------------------------------


def unit_of(way: Way, worker: str) -> str:
    """Return the unit of one of the three workers, for either of the two ways that are measured."""
    return f"load-worker@{worker}.service" if way is FLEET else f"plain-{worker}.service"


def pids(ground: Ground, hosts: Sequence[str] = ()) -> dict[tuple[str, str], str]:
    """Return the main processes of all workers, or of some hosts' workers, once all of them consume."""
    found = {}
    for host in hosts or ground.workers:
        for worker in ground.instances:
            wait_until_active(ground, host, unit_of(FLEET, worker))
            state = units.state(ground.fleet, host, unit_of(FLEET, worker))
            found[host, worker] = state["MainPID"]
    return found


def assert_none_replaced(
    ground: Ground, before: Mapping[tuple[str, str], str], now: Mapping[tuple[str, str], str]
) -> None:
    """Check that no main process was replaced; otherwise fail with its unit's journal."""
    told = []
    for (host, worker), pid in before.items():
        if now[host, worker] == pid:
            continue
        command = ["journalctl", "--no-pager", "--lines=4000", f"--unit={unit_of(FLEET, worker)}"]
        lines = ground.fleet.must(host, command).splitlines()
        # Each task logs a line when it is received and one when it ends.
        rest = [line for line in lines if "INFO/MainProcess] Task load." not in line][-400:]
        told.append("\n".join([f"{worker}@{host}: was {pid}, is {now[host, worker]}", *rest]))
    assert not told, "\n\n".join(told)


def wait_until_active(ground: Ground, host: str, unit: str, seconds: float = 60) -> None:
    """Wait until a unit is active; the fleet's are once they consume."""
    wait_for(
        f"{unit} on {host} is active",
        seconds,
        lambda: units.state(ground.fleet, host, unit).get("ActiveState") == "active",
        pause=0.2,
    )


def kill_worker(ground: Ground, case: Case, way: Way, host: str, worker: str, whom: str) -> None:
    """Send SIGKILL to the worker's main process (`main`), or to all its processes (`all`)."""
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
    hosts: Sequence[str] = (),
) -> Recoveries:
    """Kill this many workers, of all or of some names or hosts. Before each kill, wait for recovery and pause."""
    found = Recoveries()
    began = time.monotonic()
    chosen = names or ground.instances
    workers = [(host, worker) for host in hosts or ground.workers for worker in chosen]
    for count in range(number):
        host, worker = workers[count % len(workers)]
        wait_until_active(ground, host, unit_of(way, worker))
        time.sleep(max(0.0, began + pause - time.monotonic()) + numbers.uniform(0, 0.4))
        before = held(ground.fleet, f"{worker}@{host}")
        kill_worker(ground, case, way, host, worker, numbers.choice(["main", "main", "all"]))
        began = time.monotonic()
        if before and way is FLEET:
            wait_until_back(ground, before, LEASE + 10, pause=0.02)
            found.seconds.append(time.monotonic() - began)
    return found


def kill_children(ground: Ground, case: Case, number: int, numbers: random.Random) -> None:
    """Send SIGKILL to this many pool processes, each of a randomly chosen worker."""
    for _ in range(number):
        host, worker = numbers.choice(ground.workers), numbers.choice(list(ground.instances))
        wait_until_active(ground, host, unit_of(FLEET, worker))
        main = units.state(ground.fleet, host, unit_of(FLEET, worker))["MainPID"]
        child = numbers.choice(ground.fleet.must(host, ["pgrep", "--parent", main]).split())
        case.mark(PROCESS_KILLED, host=host, node=f"{worker}@{host}", fatal=True, pid=int(child))
        ground.fleet.must(host, ["kill", "-KILL", child])
        ground.sleep(1)


def kill_drains(ground: Ground, case: Case, number: int, numbers: random.Random) -> None:
    """Have this many workers stop, one after another, and kill each at some moment of its drain."""
    workers = [(host, worker) for host in ground.workers for worker in ground.instances]
    for count in range(number):
        host, worker = workers[count % len(workers)]
        unit = unit_of(FLEET, worker)
        wait_until_active(ground, host, unit)
        ground.fleet.must(host, ["systemctl", "stop", "--no-block", unit])
        ground.sleep(numbers.uniform(0, 1.5))
        kill_worker(ground, case, FLEET, host, worker, "all")
        ground.fleet.must(host, ["systemctl", "start", unit])


def wait_until_back(ground: Ground, before: set[str], seconds: float, pause: float = 0.5) -> None:
    """Wait until none of these deliveries is held any more."""
    owners = sorted({tag.partition("/")[0] for tag in before})
    wait_for(
        f"what {', '.join(owners)} held is back",
        seconds,
        lambda: not before & {tag for node in owners for tag in held(ground.fleet, node)},
        pause=pause,
    )


# --- connections and hosts -------------------------------------------------------------------------


def kill_clients(ground: Ground, case: Case) -> None:
    """Close all connections of workers to the broker."""
    case.mark(CONNECTIONS_CUT)
    cut_connections(ground.fleet)


def cut_often(ground: Ground, case: Case, number: int) -> None:
    """Cut connections this many times; a worker needs a second to come back (Celery's mingle)."""
    for _ in range(number):
        kill_clients(ground, case)
        ground.sleep(PAUSE)


@contextmanager
def cut_off(ground: Ground, case: Case, host: str) -> Iterator[None]:
    """Drop everything that a host sends to Redis. Its workers continue, as the record elsewhere shows."""
    address = ground.fleet.of("redis")["ansible_host"]
    with case.lasting(HOST_CUT_OFF, host):
        ground.fleet.must(host, ["ip", "route", "add", "blackhole", address])
        try:
            yield
        finally:
            ground.fleet.must(host, ["ip", "route", "del", "blackhole", address])


def lose(ground: Ground, case: Case, host: str, seconds: float) -> float:
    """Cut a host's power until what it held is delivered again, then restore it; return how long that took."""
    before = {tag for worker in ground.instances for tag in held(ground.fleet, f"{worker}@{host}")}
    assert before, f"the workers of {host} held nothing"
    case.mark(HOST_LOST, host=host, fatal=True)
    ground.fleet.must(host, ["ip", "link", "set", "eth0", "down"])
    docker("kill", ground.fleet.containers[host])
    began = time.monotonic()
    try:
        wait_until_back(ground, before, seconds, pause=0.2)
        return time.monotonic() - began
    finally:
        bring_back(ground, host)


# --- one run ---------------------------------------------------------------------------------------


def counted(
    ground: Ground,
    name: str,
    way: Way,
    act: Callable[[Case], Recoveries | None],
    rest: float = REST,
) -> tuple[RestartSummary, Recoveries]:
    """Run the load with a fault, and measure how long held messages stayed away."""
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


def assert_delivered(summary: RestartSummary, *allowed: str) -> None:
    """Check that nothing is lost, and that tasks only ran again for the allowed causes, given by their full names.

    A task that ran again may have sent another one again; that task's cause must be allowed as well.
    """
    assert (summary.lost, summary.lost_causes) == (0, {})
    assert not summary.unexpected((*allowed, judge.SENT_BY_RERUN)), summary.doubled_causes


def assert_revoked(summary: RestartSummary) -> None:
    """Check that a worker misses a revoke only while it starts, as with any Celery."""
    assert summary.revoked > 0, "none was revoked"
    assert not [cause for cause in summary.unheeded if not cause.endswith("as its worker started")]
