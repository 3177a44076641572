"""systemd enforces each worker's limits: a task that allocates without end is killed, and other workers continue."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import documented
import means
import pytest
from support import fleets, units
from support.waiting import wait_for

if TYPE_CHECKING:
    from support.inventory import Fleet

FACTORS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Small enough to be reached soon, and enough for a worker of Django.
LEAST = "300M"
# The task that these tests add to the release. It writes to its memory pages, because otherwise none would be used.
GREEDY = "analytics.tasks.allocate_without_end"
# The name ends like another task's, so that the short name becomes ambiguous.
NAMESAKE = "analytics.tasks.backup_database"
MORE = """

@shared_task
def allocate_without_end():
    held = []
    while True:
        held.append(b"x" * 2**24)


@shared_task
def backup_database():
    return "a namesake"
"""


def number(text: str) -> int:
    """Return a memory limit in bytes."""
    found = re.fullmatch(r"(\d+)([KMGT]?)", text)
    assert found, text
    return int(found[1]) * FACTORS[found[2]]


def limits(fleet: Fleet, host: str, unit: str) -> dict[str, Any]:
    """Return systemd's limits of a unit."""
    names = "MemoryMax,CPUQuotaPerSecUSec,TasksMax"
    shown = fleet.must(host, ["systemctl", "show", f"--property={names}", unit])
    return dict(line.partition("=")[::2] for line in shown.splitlines())


def quota(text: str) -> float:
    """Convert systemd's processor time for each second, such as `1s 500ms`, to percent."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(us|ms|s|min)", text)
    seconds = {"us": 1e-6, "ms": 1e-3, "s": 1, "min": 60}
    return 100 * sum(float(value) * seconds[unit] for value, unit in parts)


def test_systemd_has_the_limits_of_the_inventory(market: Fleet) -> None:
    """Each worker of the inventory has all three."""
    instances = market.of("celery_workers")["celery_worker_instances"]
    defaults = market.of("celery_workers")["celery_worker_defaults"]
    for host, unit in fleets.worker_units(market):
        name = unit.partition("@")[2].removesuffix(".service")
        wanted = {**defaults, **(instances[name] or {})}
        found = limits(market, host, unit)
        assert int(found["MemoryMax"]) == number(wanted["memory_max"]), unit
        assert quota(found["CPUQuotaPerSecUSec"]) == pytest.approx(
            float(wanted["cpu_quota"].removesuffix("%"))
        ), unit
        assert int(found["TasksMax"]) == int(wanted["tasks_max"]), unit


@pytest.mark.stage(6)
class TestGreed:
    """Deploy a release with a task that allocates without end and one with an ambiguous short name; then go back."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def release(cls, market: Fleet, workshop: fleets.Workshop) -> Iterator[None]:
        source = workshop.source(market)
        path = workshop.path_of(source, "analytics/tasks.py")
        path.write_text(path.read_text() + MORE)
        instances = market.of("celery_workers")["celery_worker_instances"]
        analytics = {**(instances["analytics"] or {}), "memory_max": LEAST}
        layer = workshop.variables(
            celery_app_source=source,
            celery_worker_instances={**instances, "analytics": analytics},
        )
        try:
            run = workshop.site(market, "greed", layer)
            assert run.status == 0, run.end
            yield
        finally:
            workshop.settle(market, "greed-settled")

    def test_the_greedy_task_ends_and_other_workers_continue(self, market: Fleet) -> None:
        """Its process is killed, as the task's result says. No other worker and no Redis is affected."""
        host, unit = next(
            pair for pair in fleets.worker_units(market) if pair[1].endswith("@analytics.service")
        )
        before = fleets.pids(market)
        began = time.monotonic()
        greedy = fleets.send(market, fleets.task(GREEDY))[0]
        other = {
            queue: tasks
            for queue, tasks in documented.TASKS.items()
            if queue in ("suppliers", "marketplaces", "workflows")
        }
        names = {queue: tasks[0] for queue, tasks in other.items()}
        names["workflows"] = "orchestration.tasks.cleanup_old_executions"
        done = fleets.send(market, *(fleets.task(name, wait=30) for name in names.values()))
        assert [(one.state, one.result) for one in done if one.state != "SUCCESS"] == []
        found = wait_for(
            "the greedy task has ended",
            90,
            lambda: (
                (answer := means.ask_any(market, market.one("celery_producers"), f"result {greedy.id}"))["ready"]
                and answer
            ),
            pause=2,
        )  # fmt: skip
        assert time.monotonic() - began < 120
        assert found["state"] == "FAILURE"
        assert "WorkerLostError" in found["error"]
        # The worker may have been replaced; no other process has.
        units.wait_until_up(market, 60)
        after = fleets.pids(market)
        assert {key for key in before if before[key] != after.get(key)} <= {(host, unit)}
        # It takes tasks again.
        fleets.run(market, "analytics.tasks.calculate_profitability_metrics")

    def test_memory_never_went_beyond_its_limit(self, market: Fleet) -> None:
        """The kernel records the peak, in different files for each version of control groups."""
        host, unit = next(
            pair for pair in fleets.worker_units(market) if pair[1].endswith("@analytics.service")
        )
        pid = units.state(market, host, unit)["MainPID"]
        script = f"""
            old=$(sed -n 's/^[0-9]*:memory://p' /proc/{pid}/cgroup)
            new=$(sed -n 's/^0:://p' /proc/{pid}/cgroup)
            cat "/sys/fs/cgroup/memory$old/memory.max_usage_in_bytes" 2>/dev/null ||
              cat "/sys/fs/cgroup$new/memory.peak"
        """
        peak = int(market.must(host, script).split()[0])
        assert number(LEAST) * 0.9 < peak <= number(LEAST)

    def test_an_ambiguous_short_name_is_refused(self, market: Fleet) -> None:
        host = market.one("celery_workers")
        done = fleets.call(market, host, "run backup_database")
        assert done.status == 2, done.text
        words = ("core.tasks.backup_database", NAMESAKE)
        assert [word for word in words if word not in done.errors] == [], done.text
        # A longer part of the name is unambiguous.
        found = means.run(market, NAMESAKE)
        assert found["result"] == "a namesake"
        assert (
            means.run(market, "core.tasks.backup_database")["task"] == "core.tasks.backup_database"
        )
