"""What a person has to know before an application goes: what there is of it, what stays and why.

Runs on the host, inside the `fleet_removal` module, as root. It changes nothing.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.names import firewall_table
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.installed import (
    InstalledApplication,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.messages import messages


@dataclass
class Found:
    """What there is on the host; all that a person has to know before it goes.

    Attributes:
        present: Whether the application's mark is there.
        owner: Of the mark: the inventory that deployed it.
        neighbours: The other applications; without any the shared parts go, too.
        units: Names of its units.
        busy: Units of commands that run just now.
        files: Files and links.
        trees: Directories that go with what is in them, each with its bytes.
        kept: The same of those that are kept.
        users: Users, groups: names with `user` or `group` before.
        purge: The command that purges Debian packages that runs have installed, for a person.
        stay: What stays although it is among ours, each with the reason.
        tables: Tables of the firewall.
        messages: What Redis holds here, as `messages.messages` tells it; nothing without a Redis.
    """

    present: bool = False
    owner: str = ""
    neighbours: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    trees: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    users: list[str] = field(default_factory=list)
    purge: str = ""
    stay: dict[str, str] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    messages: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Its form in JSON."""
        return asdict(self)


def look(there: InstalledApplication) -> Found:
    """Return all that there is of an application.

    Raises:
        ReconcileError: What the inventory says of its directories is not to be believed.
    """
    found = Found(present=there.present, neighbours=there.neighbours)
    if not there.present:
        return found
    there.refuse_other_places()
    found.owner = str((there.mark or {}).get("owner", ""))
    found.units = [name for name, state in there.host.show(there.units()).items() if state.exists]
    found.busy = [
        name
        for name, state in there.host.show(there.commands()).items()
        if state.active in ("active", "activating", "reloading", "deactivating")
    ]
    found.files = there.files()
    for path, keep in there.trees().items():
        size, foreign = _measure(there, path)
        (found.kept if keep in there.keep else found.trees)[path] = size
        if keep not in there.keep:
            found.stay.update(dict.fromkeys(foreign, "is not the application's"))
    users, groups, stay = there.accounts()
    found.users = [f"user {one.name}" for one in users] + [f"group {one.name}" for one in groups]
    found.stay.update(stay)
    found.stay.update(dict.fromkeys(there.masks(), "keeps Debian's own server from starting"))
    if there.has_table():
        found.tables.append(f"inet {firewall_table(there.app)}")
    found.stay.update(_strangers(there))
    found.purge = there.purge()
    redis = any(name.startswith("redis@") for name in there.units())
    if redis or there.has_redis_data():
        found.messages = messages(there)
    return found


def _measure(there: InstalledApplication, path: str) -> tuple[int, list[str]]:
    """Return the bytes of what is at a path, and what in it is another user's and stays."""
    owners, size, foreign = there.owners_of(path), 0, []
    for directory, directories, names in os.walk(there.host.at(path)):
        for name in (*names, *directories):
            entry = os.path.join(directory, name)
            try:
                about = os.lstat(entry)
            except FileNotFoundError:
                # The application is at work.
                continue
            size += about.st_blocks * 512
            if about.st_uid not in owners:
                foreign.append(entry.removeprefix(there.host.base))
    return size, sorted(foreign)


def _strangers(there: InstalledApplication) -> dict[str, str]:
    """Return what is in our directories and in no list of ours: it stays, and so does the directory."""
    listed = there.manifest
    known = {*listed.files, *listed.directories, *listed.data, *there.own_marks}
    return {
        path: "is not the fleet's"
        for directory in there.directories()
        if directory not in listed.data
        for path in there.host.glob(f"{directory}/*")
        if path not in known
    }
