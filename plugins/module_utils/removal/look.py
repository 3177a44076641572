"""What a person has to know before an application goes: what there is of it, what stays and why.

Runs on the host, inside the `fleet_removal` module, as root. It changes nothing.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.names import firewall_table
from ansible_collections.celery_fleet.core.plugins.module_utils.removal import footprint
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.footprint import UNITS
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.host import is_roots
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
        packages: Debian packages that go.
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
    packages: list[str] = field(default_factory=list)
    stay: dict[str, str] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    messages: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Its form in JSON."""
        return asdict(self)


def look(there: InstalledApplication) -> Found:
    """Return all that there is of an application.

    Raises:
        SettleError: What the inventory says of its directories is not to be believed.
    """
    found = Found(present=there.present, neighbours=list(there.neighbours.names))
    if not there.present:
        return found
    there.refuse_other_places()
    found.owner = str((there.mark or {}).get("owner", ""))
    found.units = there.units(footprint.all_units(there.app))
    found.busy = [
        name
        for name, state in there.host.show(there.units(footprint.commands(there.app))).items()
        if state.active in ("active", "activating", "reloading", "deactivating")
    ]
    found.files = there.files()
    for tree, path in there.trees():
        size, foreign = _measure(there, path, tree.whole)
        (found.kept if tree.keep in there.options.keep else found.trees)[path] = size
        if tree.keep not in there.options.keep:
            found.stay.update(dict.fromkeys(foreign, "is not the application's"))
    users, groups, stay = there.accounts()
    found.users = [f"user {one.name}" for one in users] + [f"group {one.name}" for one in groups]
    found.stay.update(stay)
    if there.has_table():
        found.tables.append(f"inet {firewall_table(there.app)}")
    found.stay.update(_strangers(there))
    if not there.neighbours.names:
        found.files += there.shared_files()
        packages = there.packages()
        found.packages = packages.purged
        found.stay.update({f"package {name}": why for name, why in packages.kept.items()})
        shared = [path for path in footprint.SHARED_TREES if there.host.exists(path)]
        found.trees.update({path: _measure(there, path, True)[0] for path in shared})
    if there.units(footprint.units(there.app)["redis"]) or there.has_redis_data():
        found.messages = messages(there)
    return found


def _measure(there: InstalledApplication, path: str, whole: bool) -> tuple[int, list[str]]:
    """Return the bytes of a tree and, unless it goes whole, what in it is not the application's."""
    owners, size, foreign = there.user_numbers(), 0, []
    if os.path.islink(there.host.at(path)) and not is_roots(there.host.at(path)):
        # What is behind is not touched.
        return 0, []
    for directory, directories, names in os.walk(there.host.at(path)):
        for name in (*names, *directories):
            entry = os.path.join(directory, name)
            try:
                about = os.lstat(entry)
            except FileNotFoundError:
                # The application is at work.
                continue
            size += about.st_blocks * 512
            inside = entry.removeprefix(there.host.base)
            if not whole and about.st_uid not in owners and not there.is_in_a_tree(inside):
                foreign.append(inside)
    return size, sorted(foreign)


def _strangers(there: InstalledApplication) -> dict[str, str]:
    """Return what is in our directories and unknown to us: it stays, and so does the directory."""
    ours = {
        *there.files(),
        there.places.mark,
        f"{there.places.directory}/{footprint.SETTLED}",
    }
    found: dict[str, str] = {}
    patterns = [
        *footprint.directories(there.places),
        there.places.directory,
        *(f"{UNITS}/{name}.d".replace("\\", "[\\]") for name in _own_units(there)),
    ]
    inner = {path for pattern in patterns for path in there.host.glob(pattern)}
    for directory in sorted(inner):
        if not os.path.isdir(there.host.at(directory)):
            continue
        for name in sorted(os.listdir(there.host.at(directory))):
            path = f"{directory}/{name}"
            if path in ours or path in inner or there.is_in_a_tree(path):
                continue
            if directory.endswith(".wants") and there.owns_unit(name):
                continue
            found[path] = "is not the fleet's"
    return found


def _own_units(there: InstalledApplication) -> list[str]:
    """Return the names of units that may have drop-ins of a user's."""
    names = [os.path.basename(path) for path in footprint.unit_files(there.app)]
    files = [name.replace("[\\]", "\\") for name in names if name != "10-fleet.conf"]
    return list(dict.fromkeys([*files, *there.units(footprint.all_units(there.app))]))
