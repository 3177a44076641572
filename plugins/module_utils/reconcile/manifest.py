"""Keeps the list of what an application has on a host. Reconciling writes it first; a removal deletes what it lists.

Runs on the host, as root, inside the modules `reconcile` and `remove_application`. The list is next to the owner's
mark. A file stays in the list until it is gone from the host, even if the inventory no longer has it. All other entries
stay permanently. So even an interrupted run leaves a list that contains at least everything on the host.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .desired_state import DesiredState
from .files import replace

NAME = "manifest.json"
FORMAT = 1
UNITS = "/etc/systemd/system"
# What `fleet_remove_keep` may name.
KEEP = ("logs", "redis_data", "releases", "state")


@dataclass
class Manifest:
    """What an application has on a host.

    Attributes:
        files: Paths of files and links.
        directories: Directories to remove if they are empty.
        data: Paths to remove with their content, each with the name by which `fleet_remove_keep` keeps it.
        units: Names of units, including those that several applications or the host share, such as nginx.service.
        users: Unix users, each with the comment that identifies the application's own user.
        groups: Unix groups.
        packages: Debian packages that runs have installed for it.
        whole: Whether the list was started before anything was on the host. If not, an earlier version of Celery Fleet,
            which kept no list, may have put more there.
    """

    files: set[str] = field(default_factory=set)
    directories: set[str] = field(default_factory=set)
    data: dict[str, str] = field(default_factory=dict)
    units: set[str] = field(default_factory=set)
    users: dict[str, str] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)
    packages: set[str] = field(default_factory=set)
    whole: bool = True

    def update(self, other: Manifest) -> None:
        """Add everything from another manifest."""
        for item in fields(self):
            if item.name != "whole":
                getattr(self, item.name).update(getattr(other, item.name))

    def note(self, wanted: DesiredState) -> bool:
        """Add what a role wants; return whether any of it was not listed yet."""
        before = self.as_dict()
        files = [file.dest for file in (*wanted.sysusers, *wanted.files)]
        self.files.update(files, (link.path for link in wanted.links))
        self.directories.update(directory.path for directory in wanted.directories)
        self.directories.update(os.path.dirname(file.dest) for file in wanted.sysusers)
        self.directories.update(data.path for data in wanted.data if not data.whole)
        self.data.update({data.path: data.keep for data in wanted.data if data.whole})
        names = (os.path.basename(path) for path in files if os.path.dirname(path) == UNITS)
        self.units.update(unit.name for unit in wanted.units)
        self.units.update(name for name in names if "@." not in name)
        for file in wanted.sysusers:
            self._note_accounts(file.content or "")
        self.packages.update(wanted.packages)
        return self.as_dict() != before

    def _note_accounts(self, sysusers: str) -> None:
        for words in (shlex.split(line, comments=True) for line in sysusers.splitlines()):
            if words[:1] == ["u"]:
                self.users[words[1]] = words[3] if len(words) > 3 else ""
                self.groups.add(words[1])
            elif words[:1] == ["g"]:
                self.groups.add(words[1])

    def forget_gone(self) -> None:
        """Drop the files that are no longer on the host."""
        self.files = {path for path in self.files if os.path.lexists(path)}

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON-compatible data."""
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        lists = {name: sorted(value) for name, value in found.items() if isinstance(value, set)}
        return {
            "format": FORMAT,
            **found,
            **lists,
            "data": dict(self.data),
            "users": dict(self.users),
        }


def read(path: str) -> Manifest | None:
    """Return the manifest at a path; None if it is missing or can't be read."""
    try:
        raw = json.loads(Path(path).read_text())
        return Manifest(**{item.name: _typed(raw[item.name]) for item in fields(Manifest)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _typed(value: Any) -> Any:
    return set(value) if isinstance(value, list) else value


def write(path: str, manifest: Manifest) -> None:
    """Write a manifest atomically, readable only by root; create its directory if it is missing."""
    content = (json.dumps(manifest.as_dict(), indent=1, sort_keys=True) + "\n").encode()
    place = Path(path)
    if place.is_file() and place.read_bytes() == content:
        return
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    replace(place, content, 0o600, os.geteuid(), os.getegid())
