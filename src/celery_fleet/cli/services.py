"""Start, stop and watch this host's units of an application.

It runs in the operator's command and calls systemctl. Starting and stopping needs root.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from celery_fleet.cli import units
from celery_fleet.cli.application import Application
from celery_fleet.cli.errors import USAGE, CommandError
from celery_fleet.cli.units import UnitStatus
from celery_fleet.common import systemctl

#: Seconds between two checks.
PAUSE = 0.5

#: Seconds to watch a start for which systemd waits forever, such as a worker's wait for its broker.
START = 90.0

#: Services besides the workers. nginx and Redis serve other applications, or hold all tasks.
_PARTS = ("beat", "flower", "web")


def offered(application: Application) -> dict[str, list[str]]:
    """Return this host's services by name, each with its units: the workers, and beat, flower and web."""
    found: dict[str, list[str]] = {}
    for unit in application.units:
        name, _, kind = unit.removeprefix(f"{application.name}-").rpartition(".")
        if unit.startswith(f"{application.name}-worker@"):
            name = name.removeprefix("worker@")
        elif not unit.startswith(f"{application.name}-") or name not in _PARTS:
            continue
        # The socket comes first, because it would start its service again.
        found.setdefault(name, []).insert(0 if kind == "socket" else 1, unit)
    return found


def meant(application: Application, names: Sequence[str]) -> list[str]:
    """Return the units of some services; of all if none is named.

    Raises:
        CommandError: This host has no such service.
    """
    have = offered(application)
    found = []
    for name in names or have:
        own, at, host = name.partition("@")
        if at and host != application.host and name in application.workers:
            raise CommandError(f"worker {name} is on {host}: run this there", USAGE)
        if own not in have or (at and name not in application.workers):
            here = f"; this host has {', '.join(have)}" if have else ""
            elsewhere = {"beat": "celery_beat", "flower": "flower", "web": "celery_producers"}
            hosts = application.in_group(elsewhere.get(name, ""))
            others = ", ".join(host for host in hosts if host != application.host)
            where = f"it is on {others or 'no host'}" if hosts else application.on(own)
            raise CommandError(
                f"{application.host} has no {name} of {application.name}; {where}{here}", USAGE
            )
        found += have[own]
    if not found:
        raise CommandError(
            f"{application.host} has none of {application.name}'s workers, beat, flower and web",
            USAGE,
        )
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class UnitChange:
    """One unit that has reached another state; `done` says that this state is final, good or bad."""

    unit: UnitStatus
    done: bool
    well: bool

    @property
    def text(self) -> str:
        """Return a line for the user."""
        name = self.unit.name.removesuffix(".service")
        state = f"{self.unit.active} ({self.unit.sub})" if self.unit.sub else self.unit.active
        return f"{name}: {state}" + (f", {self.unit.status}" if self.unit.status else "")


class UnitJobs:
    """systemd's jobs that start, stop or restart units.

    Attributes:
        longest: Seconds that the slowest job may take according to its unit; None if that has no limit.
    """

    def __init__(self, verb: str, names: Sequence[str]) -> None:
        self.verb = verb
        # A socket keeps listening while its service restarts.
        self.names = [name for name in names if verb != "restart" or not name.endswith(".socket")]
        self._before = {unit.name: unit for unit in units.show(self.names)}
        missing = [name for name, unit in self._before.items() if unit.active == "missing"]
        if missing:
            raise CommandError(f"{', '.join(missing)}: there is no such unit; run site.yml")
        self.longest = self._longest()

    def _longest(self) -> float | None:
        slow = []
        for unit in self._before.values():
            parts = []
            if self.verb != "start" and unit.active != "inactive":
                parts.append(unit.stop_limit)
            if self.verb != "stop":
                parts.append(unit.start_limit)
            slow.append(parts)
        known = [part for parts in slow for part in parts]
        if any(part is None for part in known):
            return None
        return max((sum(part or 0.0 for part in parts) for parts in slow), default=0.0)

    @property
    def patience(self) -> float:
        """Return how many seconds to watch: the units' own limit, or the stop limits plus :data:`START`."""
        if self.longest is not None:
            return self.longest + 5
        stops = (
            [unit.stop_limit or 0.0 for unit in self._before.values()]
            if self.verb != "start"
            else []
        )
        return max(stops, default=0.0) + START

    def go(self) -> None:
        """Give the jobs to systemd.

        Raises:
            CommandError: It refused.
        """
        try:
            done = subprocess.run(
                [systemctl.SYSTEMCTL, self.verb, "--no-block", "--", *self.names],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=10,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CommandError(
                f"systemctl {self.verb}: systemd has not answered within 10 s; `systemctl list-jobs` shows whether it "
                "does now"
            ) from None
        if done.returncode:
            words = done.stderr.strip() or f"it ended with {done.returncode}"
            raise CommandError(f"systemctl {self.verb}: {words}")

    def steps(
        self,
        seconds: float,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> Iterator[UnitChange]:
        """Yield each change of a unit until all are done or the time is over."""
        seen: dict[str, tuple[str, str, str, bool]] = {}
        end = clock() + seconds
        while True:
            open_ = False
            for unit in units.show(self.names):
                done, well = self._judge(unit)
                state = (unit.active, unit.sub, unit.status, done)
                if seen.get(unit.name) != state:
                    seen[unit.name] = state
                    yield UnitChange(unit, done, well)
                open_ = open_ or not done
            if not open_ or clock() >= end:
                return
            sleep(PAUSE)

    def _judge(self, unit: UnitStatus) -> tuple[bool, bool]:
        """Return whether a unit has reached its final state, and whether that is good."""
        before = self._before[unit.name]
        if unit.job:
            # systemd restarts a failing unit again and again; report the failure to the waiting user.
            return unit.sub == "auto-restart", False
        if self.verb == "stop":
            return unit.active in ("inactive", "failed"), True
        if self.verb == "restart" and unit.invocation == before.invocation and before.invocation:
            return unit.active in ("failed", "inactive"), False
        if unit.active == "active":
            return True, True
        failed = unit.active in ("failed", "inactive") or unit.sub == "auto-restart"
        return failed, False


def seconds_text(seconds: float) -> str:
    """Return ``45 s`` or ``10 min``."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


VERBS: Mapping[str, str] = {"start": "started", "stop": "stopped", "restart": "restarted"}
