"""The host as reconciling reaches it: its commands, its Redis, its processes, and where its files are.

Runs on the host, as root. Tests have a host of their own below a directory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import (
    fingerprint,
    redis_client,
    systemd,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.outcome import SettleError
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.wanted import Unit


@dataclass(frozen=True)
class Places:
    """Where the host keeps its units, and what belongs to settling."""

    units: str = "/etc/systemd/system/"
    recorder: str = "/usr/lib/celery-fleet/fingerprint.py"
    key: str = fingerprint.KEY
    lists: str = fingerprint.LISTS
    records: str = fingerprint.RECORDS


@dataclass(frozen=True)
class Host:
    """The host as `settle` reaches it.

    Attributes:
        run: Runs a command.
        talk: Asks a Redis.
        places: Where its files are.
        children: The processes that a process has started.
        sleep: Waits for seconds.
        clock: Seconds that only grow.
    """

    run: systemd.Runner = systemd.run
    talk: redis_client.Talk = redis_client.talk
    places: Places = field(default_factory=Places)
    children: Callable[[int], frozenset[int]] = systemd.children
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def show(self, names: Sequence[str]) -> dict[str, systemd.UnitState]:
        """Return what systemd says of units."""
        return systemd.show(names, self.run)

    def command(self, command: Sequence[str], *units: Unit) -> None:
        """Run a command.

        Args:
            command: With its arguments.
            units: The units that it is for. If it fails, the error is about the one that it names.

        Raises:
            SettleError: It failed.
        """
        done = self.run(command)
        if done.returncode == 0:
            return
        words = done.output.strip()
        for unit in sorted(units, key=lambda unit: unit.name not in words):
            state = self.show([unit.name])[unit.name]
            raise self.failure(unit, state, f"refused `{' '.join(command)}` ({words})")
        raise SettleError(f"`{' '.join(command)}` failed: {words}")

    def failure(self, unit: Unit, state: systemd.UnitState, what: str) -> SettleError:
        """Return an error about a unit, with the end of its journal and what to do next."""
        journal = systemd.journal(unit.name, runner=self.run)
        lines = [
            f"{unit.name} {what}: it is {state.described}.",
            "The last lines of its journal:",
            *(f"  {line}" for line in journal.splitlines()),
            f"Next, on this host: journalctl -u {unit.name} -n 100",
        ]
        if unit.hint:
            lines.append(unit.hint)
        return SettleError("\n".join(lines))
