"""Helpers for the emulated machine: the kernel's view of the fleet's services, and tasks that are sent to them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from support import database, tasks, units
from support.inventory import Fleet, Variables
from support.waiting import wait_for

from scripts.testhosts.fleet import Fleet as TestFleet
from scripts.testhosts.machine import Machine, load

QUEUE = "discounts"
#: Seconds until a task that was sent has begun, or until a short one has ended, under any load.
PATIENCE = 180.0
#: Seconds until everything is up again.
BOOT = 600.0


@dataclass(frozen=True)
class Ground:
    """The machine and the fleet on it."""

    fleet: Fleet

    @property
    def name(self) -> str:
        """Return the name of the only host."""
        return self.fleet.one("fleet")

    @property
    def variables(self) -> Variables:
        """Return the host's variables in the inventory."""
        return self.fleet.expected[self.name]

    @property
    def machine(self) -> Machine:
        """Return the machine as qemu sees it."""
        return load(TestFleet.of(self.fleet.state.name), self.name)

    def must(self, command: str | Sequence[str]) -> str:
        """Return what a command prints as root; it must succeed."""
        return self.fleet.must(self.name, command)

    # --- units and control groups

    def worker_unit(self, worker: str = QUEUE) -> str:
        """Return the unit of a worker."""
        return f"{self.variables['celery_app_name']}-worker@{worker}.service"

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Return systemd's properties of a unit."""
        shown = self.must(["systemctl", "show", f"--property={','.join(properties)}", unit])
        return dict(line.partition("=")[::2] for line in shown.splitlines())

    def services(self) -> dict[str, units.State]:
        """Return the properties of all services, as `units.states` does."""
        return units.states(self.fleet, self.name, self.variables["services"])

    def group_file(self, unit: str, name: str) -> str:
        """Return the content of a file in a unit's control group."""
        return self.must(["cat", f"/sys/fs/cgroup{self.group(unit)}/{name}"]).strip()

    def group(self, unit: str) -> str:
        """Return the control group of a unit's main process, from /proc."""
        pid = self.show(unit, "MainPID")["MainPID"]
        lines = self.must(["cat", f"/proc/{pid}/cgroup"]).splitlines()
        # Version 2 has one hierarchy, so there is one line.
        assert [line.partition("::")[0] for line in lines] == ["0"], lines
        return lines[0].partition("::")[2]

    def events(self, unit: str) -> dict[str, int]:
        """Return the kernel's counts of memory events since the unit's control group was made."""
        pairs = (line.split() for line in self.group_file(unit, "memory.events").splitlines())
        return {key: int(value) for key, value in pairs}

    # --- tasks

    def send(self, name: str, run_id: str, **arguments: Any) -> str:
        """Send a task to the worker that knows this scenario's tasks; return its id."""
        call = tasks.Task(name, QUEUE, {"run_id": run_id, **arguments})
        return tasks.send(self.fleet, [call])[0]

    def begun(self, run_id: str, number: int = 1) -> list[dict[str, Any]]:
        """Wait until a run has had this many attempts, and return them."""

        def look() -> list[dict[str, Any]]:
            found = database.runs(self.fleet, run_id)
            return found if len(found) >= number else []

        return wait_for(f"attempt {number} of {run_id} begins", PATIENCE, look, pause=1)

    def ended(self, run_id: str, seconds: float = PATIENCE) -> list[dict[str, Any]]:
        """Wait until an attempt at a run has ended, and return all attempts."""

        def look() -> list[dict[str, Any]]:
            found = database.runs(self.fleet, run_id)
            return found if any(row["finished_at"] for row in found) else []

        return wait_for(
            f"{run_id} ends", seconds, look, pause=1, explain=lambda: self.whereabouts(run_id)
        )

    def whereabouts(self, run_id: str) -> str:
        """Return what the database, Redis and the worker know of a run that has not ended."""
        redis = "celery-fleet redis --timeout 0 --"
        asked = [
            f"{redis} lrange {QUEUE} 0 -1",
            f"{redis} hgetall unacked",
            f"{redis} zrange unacked_index 0 -1 withscores",
            f"{redis} hkeys fleet:dead-letters",
            f"journalctl --no-pager --lines=60 --unit={self.worker_unit()}",
        ]
        answers = [self.fleet.execute(self.name, command).output for command in asked]
        return "\n".join([str(database.runs(self.fleet, run_id)), *answers])

    def end_of(self, identity: str) -> Mapping[str, Any]:
        """Wait until a task has ended; return its state, and its result or error."""
        words = ["--format", "json", "result", "--wait", f"{PATIENCE:g}", identity]
        done = self.fleet.execute(self.name, ["celery-fleet", *words], timeout=2 * PATIENCE)
        assert done.output, f"{words}: status {done.status}: {done.errors[-2000:]}"
        found: Mapping[str, Any] = json.loads(done.output)
        assert found["ready"], found
        return found

    def dead_letter(self, identity: str) -> Mapping[str, Any]:
        """Return a dead letter by its task's id; empty if there is none.

        It asks Redis, because here `celery-fleet dead-letters` takes longer than its limit of 10 s.
        """
        words = ["redis", "--timeout", "0", "--", "--raw", "hget", "fleet:dead-letters", identity]
        text = self.must(["celery-fleet", *words]).strip()
        return dict(json.loads(text)) if text else {}

    # --- the whole machine

    def boot_id(self) -> str:
        """Return the kernel's identifier of this boot."""
        return self.must(["cat", "/proc/sys/kernel/random/boot_id"]).strip()

    def wait_until_up(self) -> None:
        """Wait until every unit of the fleet is active."""
        units.wait_until_up(self.fleet, BOOT)

    def wait_for_tick(self) -> None:
        """Wait until a worker has run another task that beat sent."""
        before = database.last_tick(self.fleet)
        wait_for("beat's probe is run", PATIENCE, lambda: database.last_tick(self.fleet) > before, pause=1)  # fmt: skip
