"""Collects what to show before an application is removed: what there is, what stays and why.

Runs on the host, inside the `remove_application` module, as root. It changes nothing. Only in a fleet of an
earlier version, the user `admin` of Redis gives itself the right to see the names and lengths of lists.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import Any

from ..names import firewall_table
from .application import InstalledApplication
from .content import MOUNTED
from .messages import messages


@dataclass
class Footprint:
    """What an application has on the host.

    Attributes:
        present: Whether the application's mark is there.
        owner: Owner in the mark: the inventory that deployed it.
        neighbours: Other applications; if there are none, shared parts are removed too.
        units: Names of its units.
        busy: Units of running commands.
        files: Files and links.
        trees: Directories to remove with their content, each with its size in bytes.
        state: Those of `trees` in which the application itself may have written, unless they are empty.
        kept: The same as `trees` for those that are kept.
        users: Users and groups: names after `user` or `group`.
        purge: Command that purges Debian packages which runs have installed, to show.
        stay: Other things in our directories that stay, each with the reason.
        tables: Firewall tables.
        messages: Messages in Redis, from `messages.messages`; empty without a Redis.
    """

    present: bool = False
    owner: str = ""
    neighbours: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    trees: dict[str, int] = field(default_factory=dict)
    state: list[str] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)
    users: list[str] = field(default_factory=list)
    purge: str = ""
    stay: dict[str, str] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    messages: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-compatible data."""
        return asdict(self)


def find_footprint(there: InstalledApplication) -> Footprint:
    """Return everything that an application has on the host.

    Raises:
        ReconcileError: The inventory's directories can't be the application's.
    """
    found = Footprint(present=there.present, neighbours=there.neighbours)
    if not there.present:
        return found
    there.refuse_other_paths()
    found.owner = str((there.mark or {}).get("owner", ""))
    found.units = [name for name, state in there.host.show(there.units()).items() if state.exists]
    found.busy = [
        name
        for name, state in there.host.show(there.commands()).items()
        if state.active in ("active", "activating", "reloading", "deactivating")
    ]
    found.files = there.files()
    for path, keep in there.trees().items():
        if there.host.is_mount(path):
            found.stay[path] = MOUNTED
            continue
        size, stays = _measure(there, path)
        if keep in there.keep:
            found.kept[path] = size
        else:
            found.trees[path] = size
            found.stay.update(stays)
            found.state += [path] if keep == "state" and size else []
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


def _measure(there: InstalledApplication, path: str) -> tuple[int, dict[str, str]]:
    """Return the size of a path in bytes, and what of its content stays, each with the reason."""
    size, stays = 0, {}
    for entry in there.content(path):
        size += entry.size
        if entry.stays:
            stays[entry.path] = entry.stays
    return size, dict(sorted(stays.items()))


def _strangers(there: InstalledApplication) -> dict[str, str]:
    """Return files in our directories that we did not put there; they stay, and so do their directories.

    systemd's links to our units don't count, nor do compiled Python files: they are removed with what they belong to.
    """
    listed = there.manifest
    known = {*listed.files, *listed.directories, *listed.data, *there.own_marks}
    trees = tuple(f"{path}/" for path in there.trees())
    ours = {*there.units(), "__pycache__"}
    return {
        path: "is not the fleet's"
        for directory in there.directories()
        if directory not in listed.data
        for path in there.host.glob(f"{directory}/*")
        if path not in known and not path.startswith(trees) and os.path.basename(path) not in ours
    }
