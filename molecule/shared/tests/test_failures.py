"""systemd replaces processes that die or hang: two are killed and one is frozen at the same time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from support import database, tasks, units
from support.waiting import wait_for
from test_beat import pidfile

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.inventory import Fleet

# Seconds. A worker takes 10 to 24 s to start while others start on the same processors.
IS_BACK = 60.0

pytestmark = pytest.mark.stage(2)


@dataclass(frozen=True)
class Victim:
    """A unit whose main process got a signal."""

    name: str
    unit: str
    before: units.State
    since: str
    moment: float

    @classmethod
    def strike(cls, fleet: Fleet, name: str, unit: str, signal: str) -> Victim:
        """Send the signal."""
        before, since = units.state(fleet, name, unit), units.now(fleet, name)
        command = ["systemctl", "kill", "--kill-whom=main", f"--signal={signal}", unit]
        fleet.must(name, command)
        return cls(name, unit, before, since, time.monotonic())

    def remaining(self, seconds: float) -> float:
        """Return what remains of this many seconds since the signal."""
        return max(0.0, self.moment + seconds - time.monotonic())

    def wait_until_replaced(self, fleet: Fleet, seconds: float) -> None:
        """Wait until the unit is up again with another process."""

        def look() -> bool:
            now = units.state(fleet, self.name, self.unit)
            return now["ActiveState"] == "active" and now["MainPID"] not in (
                "0",
                self.before["MainPID"],
            )

        wait_for(f"{self.unit} is replaced", self.remaining(seconds), look)
        assert int(units.state(fleet, self.name, self.unit)["NRestarts"]) == 1 + int(
            self.before["NRestarts"]
        )


def only_worker(fleet: Fleet, queue: str) -> tuple[str, str]:
    """Return host and unit of the only worker of a queue."""
    found = [
        name
        for name in fleet.hosts("celery_workers")
        if queue in fleet.expected[name]["celery_worker_host_instances"]
    ]
    assert len(found) == 1, f"{queue} is consumed on {found}"
    return found[0], f"{fleet.of('fleet')['celery_app_name']}-worker@{queue}.service"


@pytest.fixture(scope="module")
def victims(fleet: Fleet) -> dict[str, Victim]:
    """Kill the worker of maintenance and beat, and freeze the worker of analytics."""
    beat = f"{fleet.of('celery_beat')['celery_app_name']}-beat.service"
    assert pidfile(fleet) == units.state(fleet, fleet.one("celery_beat"), beat)["MainPID"]
    return {
        "analytics": Victim.strike(fleet, *only_worker(fleet, "analytics"), "STOP"),
        "maintenance": Victim.strike(fleet, *only_worker(fleet, "maintenance"), "KILL"),
        "beat": Victim.strike(fleet, fleet.one("celery_beat"), beat, "KILL"),
    }


@pytest.mark.unit("{celery_app_name}-worker@maintenance.service", "celery_workers")
def test_killed_worker_consumes_again(
    fleet: Fleet, victims: dict[str, Victim], label: str, note: Callable[[str], None]
) -> None:
    victim = victims["maintenance"]
    tasks.send(fleet, [tasks.tracer(label, "maintenance", 0)])
    wait_for(
        "a task runs again",
        victim.remaining(IS_BACK),
        lambda: [run for run in database.runs(fleet, label) if run["finished_at"]],
    )
    note(f"consumed again {time.monotonic() - victim.moment:.1f} s after the kill")
    victim.wait_until_replaced(fleet, IS_BACK)


@pytest.mark.unit("{celery_app_name}-beat.service", "celery_beat")
def test_killed_beat_is_back_in_spite_of_its_pidfile(
    fleet: Fleet, victims: dict[str, Victim]
) -> None:
    victim = victims["beat"]
    victim.wait_until_replaced(fleet, IS_BACK)
    assert pidfile(fleet) == units.state(fleet, victim.name, victim.unit)["MainPID"]
    tick = database.last_tick(fleet)
    wait_for("the probe fires again", 10, lambda: database.last_tick(fleet) > tick)


@pytest.mark.unit("{celery_app_name}-worker@analytics.service", "celery_workers")
def test_frozen_worker_is_replaced(
    fleet: Fleet, victims: dict[str, Victim], label: str, note: Callable[[str], None]
) -> None:
    victim = victims["analytics"]
    tasks.send(fleet, [tasks.tracer(label, "analytics", 0)])
    victim.wait_until_replaced(fleet, IS_BACK)
    note(f"replaced {time.monotonic() - victim.moment:.1f} s after it froze")
    assert "Watchdog timeout" in units.journal(fleet, victim.name, victim.unit, victim.since)
    database.assert_ran_once(fleet, label, 1, 10)
