"""Every task that was sent runs despite killed workers, cut connections and restarts of Redis.

This is the short form, for every fleet that runs the FlexiPrice example, with any hosts and any Redis. The scenario
`delivery` causes hundreds of each fault, under load.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from support import database, resp, tasks, units
from support.deliveries import cut_connections, held
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.inventory import Fleet

NUMBER = 10  # faults of each kind
EACH = 24  # tasks that are sent before each fault
#: Seconds from a death until everything that the dead worker held is back: usually, and at most while others start.
USUALLY_BACK, BACK = 2.0, 5.0
#: Seconds between two kills of a worker. The first task in the queue must not be there at three kills, or it
#: would be taken for their cause.
LIFE = 1.0

pytestmark = [
    pytest.mark.usefixtures("nothing_refused"),
    pytest.mark.stage(2),
    pytest.mark.unit("{celery_app_name}-worker@*", "celery_workers"),
]


def consumers(fleet: Fleet) -> dict[str, list[str]]:
    """Return workers that consume the queue of their name, with their hosts."""
    found: dict[str, list[str]] = {}
    for name in fleet.hosts("celery_workers"):
        for worker in fleet.expected[name]["celery_worker_host_instances"]:
            found.setdefault(worker, []).append(name)
    return found


def most_consumed(fleet: Fleet) -> str:
    """Return the worker that runs on most hosts: if one of its processes dies, another continues."""
    found = consumers(fleet)
    return max(found, key=lambda worker: len(found[worker]))


def send(fleet: Fleet, prefix: str, number: int) -> None:
    """Send tracers that take a moment, so that there is always something to lose."""
    queue = most_consumed(fleet)
    tasks.send(fleet, [tasks.tracer(f"{prefix}-{n:02d}", queue, 0.3) for n in range(number)])


def ended(fleet: Fleet, prefix: str, number: int) -> Counter[str]:
    """Return how often each run ended, once all have ended at least once."""

    def found() -> Counter[str]:
        rows = database.runs(fleet, prefix)
        return Counter(row["run_id"] for row in rows if row["finished_at"] is not None)

    wait_for(f"{number} runs of {prefix} end", 60, lambda: len(found()) >= number, pause=1)
    return found()


def letters(fleet: Fleet) -> int:
    """Return how many dead letters there are."""
    with resp.session(fleet, "broker", "worker") as broker:
        return int(broker.send("ZCARD", "fleet:dead-letters:index"))


def test_killed_workers_lose_nothing(fleet: Fleet, label: str, note: Callable[[str], None]) -> None:
    """The workers' own units put what they held back into its queue within two seconds."""
    app = fleet.of("fleet")["celery_app_name"]
    worker = most_consumed(fleet)
    unit = f"{app}-worker@{worker}.service"
    hosts = consumers(fleet)[worker]
    options = fleet.expected[hosts[0]]["celery_worker_instances"][worker]
    recoveries = []
    for count in range(NUMBER):
        send(fleet, f"{label}-{count}", EACH)
        name = hosts[count % len(hosts)]
        node = f"{worker}@{name}"
        wait_for(
            f"{node} is up",
            30,
            lambda name=name: units.state(fleet, name, unit)["ActiveState"] == "active",
        )
        time.sleep(LIFE)
        before = held(fleet, node)
        began = time.monotonic()
        fleet.must(name, ["systemctl", "kill", "--signal=KILL", "--kill-whom=main", unit])
        wait_for(
            f"what {node} held is back",
            20,
            lambda node=node, before=before: not before & held(fleet, node),
            pause=0.05,
        )
        if before:
            recoveries.append(time.monotonic() - began)
    assert recoveries, "none of them held anything"
    usual = statistics.median(recoveries)
    assert letters(fleet) == 0
    found = ended(fleet, label, NUMBER * EACH)
    # Tasks may run twice if their process died after their end and before the acknowledgement: at most those that ran.
    again = sum(found.values()) - len(found)
    assert again <= options["concurrency"] * NUMBER
    note(
        f"{resp.version(fleet, 'broker')}, {NUMBER} kills: {len(found)} tasks, none lost, {again} ended twice; back in"
        f" the queue after {usual:.1f} s, {max(recoveries):.1f} s at most"
    )
    assert usual <= USUALLY_BACK, recoveries
    assert max(recoveries) <= BACK, recoveries


def test_cut_connections_double_nothing(fleet: Fleet, label: str) -> None:
    for count in range(NUMBER):
        send(fleet, f"{label}-{count}", EACH)
        # They may not have reconnected yet since the last time.
        wait_for("connections of workers are cut", 30, lambda: cut_connections(fleet) > 0)
    assert set(ended(fleet, label, NUMBER * EACH).values()) == {1}
    assert len(database.runs(fleet, label)) == NUMBER * EACH


def test_restarted_redis_loses_and_doubles_nothing(fleet: Fleet, label: str) -> None:
    app = fleet.of("redis")["celery_app_name"]
    send(fleet, label, 3 * EACH)
    fleet.must(fleet.one("redis"), ["systemctl", "restart", f"redis@{app}-broker.service"])
    assert set(ended(fleet, label, 3 * EACH).values()) == {1}
    assert len(database.runs(fleet, label)) == 3 * EACH
