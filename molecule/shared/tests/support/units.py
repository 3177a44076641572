"""Ask systemd about units."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from support.inventory import Fleet
from support.waiting import wait_for

PROPERTIES = (
    *("ActiveState", "SubState", "UnitFileState", "LoadState", "NeedDaemonReload"),
    *("MainPID", "NRestarts", "InvocationID", "StatusText", "Result"),
)

State = Mapping[str, str]


def states(fleet: Fleet, name: str, units: Iterable[str]) -> dict[str, State]:
    """Return properties of units of one host, with a single call; empty ones while its systemd does not answer."""
    wanted = list(units)
    command = ["systemctl", "show", f"--property={','.join(PROPERTIES)}", *wanted]
    blocks = fleet.execute(name, command).output.strip("\n").split("\n\n")
    found = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in blocks]
    return dict(zip(wanted, found + [{}] * (len(wanted) - len(found)), strict=True))


def state(fleet: Fleet, name: str, unit: str) -> State:
    """Return the properties of one unit."""
    return states(fleet, name, [unit])[unit]


def all_states(fleet: Fleet) -> dict[tuple[str, str], State]:
    """Return the properties of all units of the fleet, by host and unit."""
    return {
        (name, unit): found
        for name in fleet.hosts("fleet")
        for unit, found in states(fleet, name, fleet.expected[name]["units"]).items()
    }


@dataclass(frozen=True)
class Look:
    """All units of the fleet at one moment of the monotonic clock."""

    moment: float
    states: Mapping[tuple[str, str], State]

    @classmethod
    def at(cls, fleet: Fleet) -> Look:
        """Look now."""
        return cls(time.monotonic(), all_states(fleet))


def failed(fleet: Fleet, name: str) -> list[str]:
    """Return a host's failed units, without its health check, which fails to report that something else has failed."""
    listed = fleet.execute(name, "systemctl list-units --failed --plain --no-legend").output
    units = [line.split()[0] for line in listed.splitlines()]
    return [unit for unit in units if not unit.endswith("-health.service")]


def down(fleet: Fleet) -> list[str]:
    """Describe the units that are not up."""
    return [
        f"{unit} on {name}: {found.get('ActiveState')}, {found.get('StatusText')}"
        for (name, unit), found in all_states(fleet).items()
        if found.get("ActiveState") != "active"
    ]


def wait_until_up(fleet: Fleet, seconds: float) -> None:
    """Wait until every unit of the fleet is active."""
    wait_for(
        "all units are active",
        seconds,
        lambda: not down(fleet),
        pause=1,
        explain=lambda: "\n".join(down(fleet)),
    )


def main_pids(fleet: Fleet) -> dict[tuple[str, str], str]:
    """Return the main process of every service, by host and unit."""
    return {
        key: found["MainPID"]
        for key, found in all_states(fleet).items()
        if found.get("MainPID", "0") != "0"
    }


def now(fleet: Fleet, name: str) -> str:
    """Return the host's time, for `journal`."""
    return fleet.must(name, ["date", "+%Y-%m-%d %H:%M:%S.%6N"]).strip()


def journal(fleet: Fleet, name: str, unit: str, since: str) -> str:
    """Return what a unit, and systemd about it, wrote since a time of the host's clock."""
    command = ["journalctl", "--no-pager", "--quiet", "--output=cat", f"--since={since}"]
    return fleet.must(name, [*command, f"--unit={unit}"])
