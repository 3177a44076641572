"""This host's units of an application that an operator starts and stops, and watching that happen."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from celery_fleet.cli import units
from celery_fleet.cli.application import Application
from celery_fleet.cli.errors import USAGE, CommandError
from celery_fleet.cli.units import Unit

#: Seconds between two looks.
PAUSE = 0.5

#: Seconds that a start is watched where systemd itself waits for ever: a worker's, for its broker.
START = 90.0

#: Beside the workers; nginx and Redis serve other applications, or hold all tasks.
_PARTS = ("beat", "flower", "web")


def offered(application: Application) -> dict[str, list[str]]:
    """Names of this host's services, each with its units: the workers', and beat, flower and web."""
    found: dict[str, list[str]] = {}
    for unit in application.units:
        name, _, kind = unit.removeprefix(f"{application.name}-").rpartition(".")
        if unit.startswith(f"{application.name}-worker@"):
            name = name.removeprefix("worker@")
        elif not unit.startswith(f"{application.name}-") or name not in _PARTS:
            continue
        # A socket goes first: it would start its service again.
        found.setdefault(name, []).insert(0 if kind == "socket" else 1, unit)
    return found


def meant(application: Application, names: Sequence[str]) -> list[str]:
    """The units of some services; of all where none is named.

    Raises:
        CommandError: This host has no such service.
    """
    have = offered(application)
    found = []
    for name in names or have:
        own, at, host = name.partition("@")
        if at and host != application.host and name in application.workers:
            raise CommandError(f"worker {name} is on {host}: say it there", USAGE)
        if own not in have or (at and name not in application.workers):
            here = f"; this host has {', '.join(have)}" if have else ""
            elsewhere = {"beat": "celery_beat", "flower": "flower", "web": "celery_producers"}
            hosts = application.in_group(elsewhere.get(name, ""))
            where = f"it is on {', '.join(hosts)}" if hosts else application.on(own)
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
class Step:
    """One unit that came to another state on its way; `done` ends its way, well or not."""

    unit: Unit
    done: bool
    well: bool

    @property
    def text(self) -> str:
        """A line for a person."""
        name = self.unit.name.removesuffix(".service")
        state = f"{self.unit.active} ({self.unit.sub})" if self.unit.sub else self.unit.active
        return f"{name}: {state}" + (f", {self.unit.status}" if self.unit.status else "")


class Course:
    """Units on their way to where a verb brings them.

    Attributes:
        longest: Seconds that the slowest of them may take by its unit; None where that has no bound.
    """

    def __init__(self, verb: str, names: Sequence[str]) -> None:
        self.verb = verb
        # A socket listens on while its service is begun anew.
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
        """Seconds that it is watched: its own bound, or the stops' and what a start without one gets."""
        if self.longest is not None:
            return self.longest + 5
        stops = (
            [unit.stop_limit or 0.0 for unit in self._before.values()]
            if self.verb != "start"
            else []
        )
        return max(stops, default=0.0) + START

    def go(self) -> None:
        """Have systemd begin.

        Raises:
            CommandError: It refused.
        """
        done = subprocess.run(
            [units.SYSTEMCTL, self.verb, "--no-block", "--", *self.names],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=False,
        )
        if done.returncode:
            words = done.stderr.strip() or f"it ended with {done.returncode}"
            raise CommandError(f"systemctl {self.verb}: {words}")

    def steps(
        self,
        seconds: float,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> Iterator[Step]:
        """Each change of a unit until all are done or the time is over."""
        seen: dict[str, tuple[str, str, str, bool]] = {}
        end = clock() + seconds
        while True:
            open_ = False
            for unit in units.show(self.names):
                done, well = self._judge(unit)
                state = (unit.active, unit.sub, unit.status, done)
                if seen.get(unit.name) != state:
                    seen[unit.name] = state
                    yield Step(unit, done, well)
                open_ = open_ or not done
            if not open_ or clock() >= end:
                return
            sleep(PAUSE)

    def _judge(self, unit: Unit) -> tuple[bool, bool]:
        """Whether a unit is where it should be, and whether that is well."""
        before = self._before[unit.name]
        if unit.job:
            # systemd starts one that fails again and again; whoever waits wants to hear of it.
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
    """``45 s``, ``10 min``."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


VERBS: Mapping[str, str] = {"start": "started", "stop": "stopped", "restart": "restarted"}
