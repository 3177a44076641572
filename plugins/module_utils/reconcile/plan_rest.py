"""What a plan shows beside units: packages, releases and commands first, then files that no unit takes up.

Runs on the host, inside the `settle` module, in check mode.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import systemd
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.fingerprint import Disk
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.outcome import (
    Pending,
    Report,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.wanted import (
    Part,
    units_of,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.release import note


def add_rest(
    parts: Sequence[Part],
    states: Mapping[str, systemd.UnitState],
    disk: Disk,
    unit_directory: str,
    report: Report,
) -> None:
    """Put what concerns no unit around what is pending for units.

    Args:
        parts: What roles want.
        states: What systemd says of their units.
        disk: What will be on disk.
        unit_directory: Where unit files are.
        report: Has what is pending for units, and what changed; gets the rest.
    """
    concerned = _concerned(parts, states, disk, unit_directory, report)
    first: list[Pending] = []
    rest: list[Pending] = []
    for part, wanted in parts:
        if wanted.packages:
            first.append(Pending(part, "", "install", wanted.packages))
        for release in wanted.releases:
            if not note.built(release.path):
                name = f"{release.what} {os.path.basename(release.path)}{note.again(release.path)}"
                first.append(Pending(part, "", "build", (name,)))
        first += [
            Pending(part, command.subject, "run", (command.text,)) for command in wanted.commands
        ]
        changes = [
            change
            for change in report.changes
            if change.part == part and not concerned(change.path)
        ]
        links = tuple(change.link for change in changes if change.link)
        paths = tuple(change.path for change in changes if not change.link)
        if paths:
            rest.append(Pending(part, "", "write", paths))
        if links:
            rest.append(Pending(part, "", "link", links))
    report.pending[:] = [*first, *report.pending, *rest]


def _concerned(
    parts: Sequence[Part],
    states: Mapping[str, systemd.UnitState],
    disk: Disk,
    unit_directory: str,
    report: Report,
) -> Callable[[str], bool]:
    """Return what tells whether a pending unit takes a changed path up, or one in that directory."""
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
