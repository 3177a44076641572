"""Access to the host while reconciling: commands, Redis, processes and paths.

Runs on the host, as root. Tests use a fake host below a directory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from . import fingerprint, redis_client, systemd
from .desired_state import Unit
from .report import ReconcileError

# Seconds within which a reloaded daemon must have new processes.
_RELOAD_PATIENCE = 5.0


@dataclass(frozen=True)
class HostPaths:
    """Paths of the host's units and of the files that reconciling itself keeps."""

    units: str = "/etc/systemd/system/"
    recorder: str = "/usr/lib/celery-fleet/fingerprint.py"
    key: str = fingerprint.KEY
    lists: str = fingerprint.LISTS
    records: str = fingerprint.RECORDS
    # Counters of units, which the runtime writes when a process ends.
    ends: str = f"{fingerprint.STATE}/ends"
    # A file for each application. Its time is that of the last run that changed something on the host.
    changed: str = f"{fingerprint.STATE}/changed"
    # Directories besides `units` in which others have files, too.
    others: tuple[str, ...] = (
        *("/etc/letsencrypt/", "/etc/logrotate.d/", "/etc/needrestart/", "/etc/nginx/"),
        "/etc/sysusers.d/",
    )

    @property
    def shared(self) -> tuple[str, ...]:
        """Return the directories in which others have files, too."""
        return (self.units, *self.others)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return the directories with a JSON file for each unit."""
        return (self.lists, self.records, self.ends)


@dataclass(frozen=True)
class Host:
    """Operations on the host that reconciling needs.

    Attributes:
        run: Runs a command.
        talk: Sends commands to a Redis.
        paths: Paths of its files.
        children: Returns the child processes of a process.
        sleep: Waits for a number of seconds.
        clock: Monotonic clock, in seconds.
    """

    run: systemd.Runner = systemd.run
    talk: redis_client.Talk = redis_client.talk
    paths: HostPaths = field(default_factory=HostPaths)
    children: Callable[[int], frozenset[int]] = systemd.children
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def show(self, names: Sequence[str]) -> dict[str, systemd.UnitState]:
        """Return the systemd state of units."""
        return systemd.show(names, self.run)

    def command(self, command: Sequence[str], *units: Unit) -> None:
        """Run a command.

        Args:
            command: Program and arguments.
            units: Units that it acts on. If it fails, the error is about the one that its output names.

        Raises:
            ReconcileError: The command failed.
        """
        done = self.run(command)
        if done.returncode == 0:
            return
        words = done.output.strip()
        for unit in sorted(units, key=lambda unit: unit.name not in words):
            state = self.show([unit.name])[unit.name]
            raise self.failure(unit, state, f"refused `{' '.join(command)}` ({words})")
        raise ReconcileError(f"`{' '.join(command)}` failed: {words}")

    def reload(self, unit: Unit, state: systemd.UnitState) -> None:
        """Reload a daemon and wait for new processes: nginx keeps its old ones if it can't read its files."""
        before = self.children(state.main_pid)
        self.command(["systemctl", "reload", unit.name], unit)
        deadline = self.clock() + _RELOAD_PATIENCE
        while before and not self.children(state.main_pid) - before:
            if self.clock() > deadline:
                what = f"has no new processes {_RELOAD_PATIENCE:.0f} s after its reload, so it keeps its old files"
                raise self.failure(unit, state, what)
            self.sleep(0.1)

    def failure(self, unit: Unit, state: systemd.UnitState, what: str) -> ReconcileError:
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
        return ReconcileError("\n".join(lines))
