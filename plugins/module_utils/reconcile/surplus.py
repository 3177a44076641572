"""Removes surplus units and files: by name they belong to a role, but the role no longer wants them.

Runs on the host, inside the `reconcile` module, as root.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from ..text import count
from . import fingerprint, ours, systemd
from .desired_state import DesiredState, Part, Unit
from .files import open_directory, replace
from .host import Host
from .report import Change, HostReport, PendingAction

_NGINX = "nginx.service"
#: Directories that it reads, the second one for what sites include.
_SITES = ("/etc/nginx/conf.d/", "/nginx-web/")


class Surplus:
    """Finds surplus, plans its removal and carries it out; `report` receives both.

    Attributes:
        units: Surplus units, each with its part; `find` fills it.
    """

    def __init__(
        self, parts: Sequence[Part], host: Host, report: HostReport, listed: Collection[str]
    ) -> None:
        """Prepare for a host.

        Args:
            parts: What roles want.
            host: Access to the host.
            report: Receives what is done.
            listed: Paths of files and links that runs have written for the application.
        """
        self.parts = parts
        self.host = host
        self.report = report
        self.listed = listed
        self.units: dict[str, str] = {}

    def find(self, wanted: Iterable[str]) -> None:
        """Find the units that are ours by name and not wanted.

        systemd also lists a name that another unit only mentions (After=): see `keep_existing`.
        """
        patterns = [(part, p) for part, wanted in self.parts for p in wanted.owned.units]
        names = systemd.listed([pattern for _, pattern in patterns], self.host.run)
        surplus = set(names) - set(wanted)
        # Timers and sockets come first, because they could start their services again.
        self.units = {
            name: next(part for part, p in patterns if fnmatch.fnmatchcase(name, p))
            for name in sorted(surplus, key=lambda name: (name.endswith(".service"), name))
        }

    def keep_existing(self, states: Mapping[str, systemd.UnitState]) -> None:
        """Drop names of units that don't exist, and units of others that have such a name."""
        self.units = {
            name: part
            for name, part in self.units.items()
            if states[name].exists and not ours.is_of_others(states[name].fragment, self.listed)
        }

    def files(self, wanted: DesiredState) -> list[str]:
        """Return files and links on disk that are ours by name and not wanted, with the records of such units.

        No pattern matches a directory, because a user's drop-ins may be in it; only `trees` names directories. In a
        directory that we share, a file of that name may be another's.
        """
        paths = self.host.paths
        own = {item.dest for item in wanted.files} | {link.path for link in wanted.links}
        found = {
            path
            for pattern in wanted.owned.files
            for path in glob.glob(pattern)
            if (os.path.islink(path) or not os.path.isdir(path))
            and not (path.startswith(paths.shared) and ours.is_of_others(path, self.listed))
        }
        found |= {path for path in wanted.owned.trees if os.path.lexists(path)}
        units = {unit.name for unit in wanted.units}
        for directory in paths.notes:
            for path in glob.glob(f"{directory}/*.json"):
                name = os.path.basename(path).removesuffix(".json")
                if name not in units and any(
                    fnmatch.fnmatchcase(name, pattern) for pattern in wanted.owned.units
                ):
                    found.add(path)
        return sorted(found - own)

    def plan(self, states: Mapping[str, systemd.UnitState]) -> None:
        """Report what will be removed, each unit with its files."""
        paths = self.host.paths
        for part, wanted in self.parts:
            rest = self.files(wanted)
            for name in (name for name, owner in self.units.items() if owner == part):
                notes = [f"{d}/{name}.json" for d in paths.notes]
                listed = fingerprint.read_object(notes[0])
                own = {*states[name].sources, *_texts(listed, "files"), *_texts(listed, "links")}
                gone = [path for path in rest if path in own]
                rest = [path for path in rest if path not in own and path not in notes]
                delete = f", delete {count(len(gone), 'file')}" if gone else ""
                why = f"not in the inventory: drain, stop{delete}"
                self.report.pending.append(PendingAction(part, name, "remove", (why,)))
            if rest:
                why = f"not in the inventory: delete {count(len(rest), 'file')}"
                self.report.pending.append(PendingAction(part, "", "remove", (why, *rest)))

    def remove_unit(self, name: str) -> None:
        """Stop and disable a unit, and remove its list of inputs, its record and its counters."""
        # Stopping drains. It may take as long as the unit's own TimeoutStopSec.
        self.host.command(["systemctl", "stop", name])
        if self.host.show([name])[name].active == "failed":
            # Otherwise it is listed as failed until the next boot. If this fails, systemd has already forgotten it.
            self.host.run(["systemctl", "reset-failed", name])
        self.host.command(["systemctl", "disable", "--quiet", name])
        self.report.changes.append(Change(self.units[name], f"remove {name}"))
        for directory in self.host.paths.notes:
            Path(f"{directory}/{name}.json").unlink(missing_ok=True)

    def remove_files(self) -> None:
        """Remove the files, and reload systemd if some are unit files, and nginx if some are its sites."""
        paths = self.host.paths
        surplus = [(part, path) for part, wanted in self.parts for path in self.files(wanted)]
        sites = [path for _, path in surplus if any(part in path for part in _SITES)]
        if sites and (nginx := self.host.show([_NGINX])[_NGINX]).active == "active":
            # It would go on listening for them. If this is interrupted, the next run finds them empty and repeats it.
            for path in sites:
                replace(Path(path), b"# %b\n" % ours.HEADER, 0o644, -1, -1)
            self.host.reload(Unit(_NGINX), nginx)
        for part, path in surplus:
            _delete(path)
            self.report.changes.append(Change(part, path))
            parent = os.path.dirname(path)
            # A unit's drop-in directory is removed with the last file in it; it stays if a user's own drop-in is in it.
            # Elsewhere such a directory, for example nginx's conf.d, belongs to a package.
            drop_in = parent.startswith(paths.units) and parent.endswith(".d")
            if drop_in and not os.listdir(parent):
                os.rmdir(parent)
        if any(path.startswith(paths.units) for _, path in surplus):
            self.host.command(["systemctl", "daemon-reload"])


def _delete(path: str) -> None:
    """Delete a file, a link or a directory; follow links in its path only if no other user could have made them.

    Raises:
        ReconcileError: A user other than root may write to a directory in the path, and a part of the path is a link.
    """
    whole = os.path.isdir(path) and not os.path.islink(path)
    delete = shutil.rmtree if whole else os.unlink
    if not _others_write(path):
        delete(path)
        return
    directory, name = os.path.split(path)
    handle = open_directory(directory, make=False)
    if handle is not None:
        try:
            delete(name, dir_fd=handle)
        finally:
            os.close(handle)


def _others_write(path: str) -> bool:
    """Return whether users other than root may write to one of the directories in a path."""
    found = (os.stat(directory) for directory in Path(path).parents)
    return any(about.st_uid != 0 or about.st_mode & 0o022 for about in found)


def _texts(content: Mapping[str, object], key: str) -> list[str]:
    value = content.get(key)
    return [str(item) for item in value] if isinstance(value, list) else []
