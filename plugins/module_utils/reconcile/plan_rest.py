"""Adds to a plan what concerns no unit: packages, releases and commands first, then files that no unit reads.

Runs on the host, inside the `reconcile` module, in check mode.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath

from ..release import note
from . import systemd
from .desired_state import Part, units_of
from .fingerprint import Disk
from .report import HostReport, PendingAction


def add_rest(
    parts: Sequence[Part],
    states: Mapping[str, systemd.UnitState],
    disk: Disk,
    unit_directory: str,
    report: HostReport,
) -> None:
    """Put actions that concern no unit before and after those that concern units.

    Args:
        parts: What roles want.
        states: systemd states of their units.
        disk: The disk after the run.
        unit_directory: Directory of unit files.
        report: Contains the changes and the pending actions of units; receives the rest.
    """
    concerned = _concerned(parts, states, disk, unit_directory, report)
    first: list[PendingAction] = []
    rest: list[PendingAction] = []
    for part, wanted in parts:
        if wanted.packages:
            first.append(PendingAction(part, "", "install", wanted.packages))
        for release in wanted.releases:
            if not note.built(release.path):
                name = f"{release.what} {os.path.basename(release.path)}{note.again(release.path)}"
                first.append(PendingAction(part, "", "build", (name,)))
        first += [
            PendingAction(part, command.subject, "run", (command.text,))
            for command in wanted.commands
        ]
        changes = [
            change
            for change in report.changes
            if change.part == part and not concerned(change.path)
        ]
        links = tuple(change.link for change in changes if change.link)
        paths = tuple(change.path for change in changes if not change.link)
        if paths:
            rest.append(PendingAction(part, "", "write", paths))
        if links:
            rest.append(PendingAction(part, "", "link", links))
    report.pending[:] = [*first, *report.pending, *rest]


def _concerned(
    parts: Sequence[Part],
    states: Mapping[str, systemd.UnitState],
    disk: Disk,
    unit_directory: str,
    report: HostReport,
) -> Callable[[str], bool]:
    """Return a function that says whether a pending unit reads a changed path, or one in that directory."""
    units = {unit.name: unit for _, unit in units_of(parts)}
    exact: set[str] = set()
    patterns: list[str] = []
    for item in report.pending:
        if item.unit not in units:
            continue
        unit, state = units[item.unit], states[item.unit]
        exact.add(f"enable {unit.name}")
        exact.update(unit.links)
        exact.update(systemd.sources_to_be(state, disk, unit_directory))
        patterns += unit.files
    around = {str(parent) for path in (*exact, *patterns) for parent in PurePosixPath(path).parents}

    def concerned(path: str) -> bool:
        return (
            path in exact
            or any(PurePosixPath(path).match(pattern) for pattern in patterns)
            or (path in around and path.endswith(".d"))
        )

    return concerned
