"""What a host has of a role and must not have any more: units and files that are the role's by name, and not wanted.

Runs on the host, inside the `settle` module, as root.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import (
    fingerprint,
    systemd,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.host import Host, Places
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.outcome import (
    Change,
    Pending,
    Report,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.wanted import Part, Wanted
from ansible_collections.celery_fleet.core.plugins.module_utils.text import count


class Surplus:
    """Finds what has to go, plans and carries out its removal; `report` gets both.

    Attributes:
        units: Units that have to go, each with its part; `find` fills it.
    """

    def __init__(self, parts: Sequence[Part], host: Host, report: Report) -> None:
        self.parts = parts
        self.host = host
        self.report = report
        self.units: dict[str, str] = {}

    def find(self, wanted: Iterable[str]) -> None:
        """Find the units that are ours by name and not wanted.

        A name that another unit only mentions (After=) is listed as well: see `keep_existing`.
        """
        patterns = [(part, p) for part, wanted in self.parts for p in wanted.owned.units]
        names = systemd.listed([pattern for _, pattern in patterns], self.host.run)
        self.units = {
            name: next(part for part, p in patterns if fnmatch.fnmatchcase(name, p))
            for name in names
            if name not in set(wanted)
        }

    def keep_existing(self, states: Mapping[str, systemd.UnitState]) -> None:
        """Forget names that are no units."""
        self.units = {name: part for name, part in self.units.items() if states[name].exists}

    def plan(self, states: Mapping[str, systemd.UnitState]) -> None:
        """Report what has to go, each unit with its files."""
        places = self.host.places
        for part, wanted in self.parts:
            rest = surplus_files(wanted, places)
            for name in (name for name, owner in self.units.items() if owner == part):
                notes = [f"{d}/{name}.json" for d in (places.lists, places.records)]
                listed = fingerprint.read_object(notes[0])
                own = {*states[name].sources, *_texts(listed, "files"), *_texts(listed, "links")}
                gone = [path for path in rest if path in own]
                rest = [path for path in rest if path not in own and path not in notes]
                delete = f", delete {count(len(gone), 'file')}" if gone else ""
                why = f"not in the inventory: drain, stop{delete}"
                self.report.pending.append(Pending(part, name, "remove", (why,)))
            if rest:
                why = f"not in the inventory: delete {count(len(rest), 'file')}"
                self.report.pending.append(Pending(part, "", "remove", (why, *rest)))

    def remove_unit(self, name: str) -> None:
        """Stop and disable a unit, and remove what is noted of it."""
        # Stopping drains; it lasts as long as the unit's own TimeoutStopSec allows.
        self.host.command(["systemctl", "stop", name])
        if self.host.show([name])[name].active == "failed":
            # It would be listed as such until the host restarts. If that fails, systemd has forgotten it already.
            self.host.run(["systemctl", "reset-failed", name])
        self.host.command(["systemctl", "disable", "--quiet", name])
        self.report.changes.append(Change(self.units[name], f"remove {name}"))
        for directory in (self.host.places.lists, self.host.places.records):
            Path(f"{directory}/{name}.json").unlink(missing_ok=True)

    def remove_files(self) -> None:
        """Remove the files, and reload systemd if units are among them."""
        places = self.host.places
        surplus = [
            (part, path) for part, wanted in self.parts for path in surplus_files(wanted, places)
        ]
        for part, path in surplus:
            os.unlink(path)
            self.report.changes.append(Change(part, path))
            parent = os.path.dirname(path)
            # A unit's drop-in directory goes with our last file in it; with a user's own drop-in it stays. Elsewhere
            # such a directory, as nginx's conf.d, is its package's.
            drop_in = parent.startswith(places.units) and parent.endswith(".d")
            if drop_in and not os.listdir(parent):
                os.rmdir(parent)
        if any(path.startswith(places.units) for _, path in surplus):
            self.host.command(["systemctl", "daemon-reload"])


def surplus_files(wanted: Wanted, places: Places) -> list[str]:
    """Return files and links on disk that are ours by name and not wanted, and what we note of such units.

    Never a directory: we own none by name, and a user's drop-ins may be in it.
    """
    ours = {item.dest for item in wanted.files} | {link.path for link in wanted.links}
    found = {
        path
        for pattern in wanted.owned.files
        for path in glob.glob(pattern)
        if os.path.islink(path) or not os.path.isdir(path)
    }
    units = {unit.name for unit in wanted.units}
    for directory in (places.lists, places.records):
        for path in glob.glob(f"{directory}/*.json"):
            name = os.path.basename(path).removesuffix(".json")
            if name not in units and any(
                fnmatch.fnmatchcase(name, pattern) for pattern in wanted.owned.units
            ):
                found.add(path)
    return sorted(found - ours)


def _texts(content: Mapping[str, object], key: str) -> list[str]:
    value = content.get(key)
    return [str(item) for item in value] if isinstance(value, list) else []
