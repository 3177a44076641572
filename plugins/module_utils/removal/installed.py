"""What an application has on this host just now: its units, files, directories, users, packages.

Runs on the host, as root, and changes nothing. `footprint` says which names are the application's; here the host is
searched for them, without what belongs to its neighbours, the other applications there.
"""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.names import firewall_table
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import systemd
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.files import LEFT
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.outcome import SettleError
from ansible_collections.celery_fleet.core.plugins.module_utils.removal import footprint
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.accounts import Account
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.footprint import (
    STATE,
    Neighbours,
    Places,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.host import Host
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.packages import (
    Dpkg,
    Packages,
    going,
)


@dataclass(frozen=True)
class Options:
    """What is to stay.

    Attributes:
        keep: Names of `footprint.KEEP`.
        packages: Whether Debian packages that the fleet brought go.
    """

    keep: tuple[str, ...] = ()
    packages: bool = True


class InstalledApplication:
    """One application on this host, and what of it may go; the marks are read once, all else when it is asked for."""

    def __init__(self, places: Places, options: Options, host: Host | None = None) -> None:
        self.places = places
        self.app = places.app
        self.options = options
        self.host = host or Host()
        self.dpkg = Dpkg(self.host.run, self.host.base)
        self.marks = _marks(self.host)
        self.mark: Mapping[str, Any] | None = self.marks.get(self.app)
        self.neighbours: Neighbours = footprint.neighbours(self.app, self.marks)

    @property
    def present(self) -> bool:
        """Whether the host has the application, or what a removal that was cut short has left of it."""
        return self.app in self.marks

    def refuse_other_places(self) -> None:
        """Check the directories that the inventory names.

        Raises:
            SettleError: They can't be the application's.
        """
        words = self.places.wrong(self.mark)
        if words:
            raise SettleError("; ".join([*words, "Nothing was removed on this host."]))

    # -- units, the firewall -------------------------------------------------------------------------------

    def units(self, patterns: Sequence[str]) -> list[str]:
        """Return the units on this host that match patterns, without those of other applications."""
        names = set(systemd.listed(patterns, self.host.run))
        # An instance that never started is listed nowhere else.
        for path in self.host.glob(f"{STATE}/inputs/*.json"):
            name = os.path.basename(path).removesuffix(".json")
            if matches(name, patterns):
                names.add(name)
        return sorted(name for name in names if not matches(name, self.neighbours.units))

    def owns_unit(self, name: str) -> bool:
        """Return whether a unit's name is one of the application's and of no neighbour's."""
        return matches(name, footprint.all_units(self.app)) and not matches(
            name, self.neighbours.units
        )

    def has_table(self) -> bool:
        """Return whether the kernel has the application's table of firewall rules."""
        if not any(self.host.exists(f"{place}/nft") for place in ("/usr/sbin", "/sbin")):
            return False
        command = ["nft", "list", "table", "inet", firewall_table(self.app)]
        return self.host.run(command).returncode == 0

    # -- files, directories --------------------------------------------------------------------------------

    def files(self) -> list[str]:
        """Return its files and links, units first; without the mark and the declaration of its users."""
        patterns = [
            *footprint.unit_files(self.app),
            *footprint.site_files(self.places),
            *footprint.files(self.places, processes=self._had_processes()),
        ]
        return list(dict.fromkeys(path for pattern in patterns for path in self.found(pattern)))

    def found(self, pattern: str) -> Iterator[str]:
        """Yield files and links that match a pattern, and what a killed run has left beside them."""
        for path in self.host.glob(pattern):
            if os.path.islink(self.host.at(path)) or not os.path.isdir(self.host.at(path)):
                yield path
        directory, name = os.path.split(pattern)
        for path in self.host.glob(f"{directory}/.*.fleet-*"):
            left = LEFT.fullmatch(os.path.basename(path))
            if left and fnmatch.fnmatchcase(left[1], name):
                yield path

    def trees(self) -> list[tuple[footprint.Tree, str]]:
        """Return its directories that go with what is in them, those that are kept included."""
        all_of_them = self._had_processes()
        return [
            (tree, path)
            for tree in footprint.trees(self.places)
            if all_of_them or not tree.processes
            for path in self.host.glob(tree.path)
            if os.path.isdir(self.host.at(path)) and not matches(path, self.neighbours.paths)
        ]

    def is_in_a_tree(self, path: str) -> bool:
        """Return whether a path is, or is in, a directory that goes whole."""
        parts = [path, *map(str, Path(path).parents)]
        return any(
            tree.whole and any(fnmatch.fnmatchcase(part, tree.path) for part in parts)
            for tree in footprint.trees(self.places)
        )

    def shared_files(self) -> list[str]:
        """Return the files that the last application of a host takes along."""
        paths = [*footprint.SHARED_FILES]
        if not self.neighbours.redis:
            paths += footprint.REDIS_FILES
        if not self.neighbours.nginx:
            paths += footprint.NGINX_FILES
        return [path for path in paths if self.host.exists(path)]

    def has_redis_data(self) -> bool:
        """Return whether the broker has left data on this host."""
        path = self.host.at(f"{footprint.REDIS_DATA}/{self.app}-broker")
        return os.path.isdir(path) and bool(os.listdir(path))

    def _had_processes(self) -> bool:
        """Return whether the host was ever for more than a Redis: then it has the application's users, who come first.

        Otherwise a directory of the application's name outside of ours is not the fleet's.
        """
        users = (self.mark or {}).get("users")
        return bool(users) or self.host.exists(footprint.sysusers(self.app))

    # -- users, groups -------------------------------------------------------------------------------------

    def user_numbers(self) -> set[int]:
        """Return the numbers of the application's users on this host, also of those that the fleet has not made."""
        own = (name for name in self._user_names() if name not in self.neighbours.users)
        found = (self.host.accounts.user(name) for name in own)
        return {account.number for account in found if account is not None}

    def accounts(self) -> tuple[list[Account], list[Account], dict[str, str]]:
        """Return users and groups that go, and what stays of them with the reason."""
        users: list[Account] = []
        stay: dict[str, str] = {}
        kept = self.keeps_users()
        for name, comment in zip(
            self._user_names(), (f"{self.app} Celery", f"{self.app} Flower"), strict=True
        ):
            account = self.host.accounts.user(name)
            if account is None or name in self.neighbours.users:
                continue
            if account.comment != comment:
                stay[f"user {name}"] = "was there before the fleet"
            elif kept:
                stay[f"user {name}"] = "owns what is kept"
            else:
                users.append(account)
        groups: list[Account] = []
        declared = self._declared_groups()
        names = [*(user.name for user in users), *declared]
        for name in dict.fromkeys(names):
            group = self.host.accounts.group(name)
            if group is None or name in self.neighbours.users:
                continue
            if kept:
                stay[f"group {name}"] = "owns what is kept"
            else:
                groups.append(group)
        return users, groups, stay

    def keeps_users(self) -> bool:
        """Return whether something stays that belongs to the application's users."""
        return any(
            tree.keep in self.options.keep and tree.keep in ("logs", "releases", "state")
            for tree, _ in self.trees()
        )

    def _user_names(self) -> list[str]:
        user = str((self.mark or {}).get("user") or self.app)
        return [user, f"{self.app}-flower"]

    def _declared_groups(self) -> list[str]:
        """Return the groups that the application's own declaration has made."""
        try:
            text = Path(self.host.at(footprint.sysusers(self.app))).read_text()
        except OSError:
            return []
        lines = (line.split() for line in text.splitlines())
        return [words[1] for words in lines if len(words) > 1 and words[0] == "g"]

    # -- packages ------------------------------------------------------------------------------------------

    def packages(self) -> Packages:
        """Return what becomes of the Debian packages that the fleet brought, if no application is left."""
        if not self.options.packages:
            return Packages(
                kept=dict.fromkeys(self.dpkg.brought(), "fleet_remove_packages is false")
            )
        brought = self.dpkg.brought()
        if not brought:
            return Packages()
        needed = {}
        if "redis_data" in self.options.keep and self.has_redis_data():
            needed = dict.fromkeys(footprint.REDIS_MASKS, "its user owns the data that are kept")
        servers = (f"{name}.service" for name in footprint.REDIS_MASKS)
        own = [*footprint.all_units(self.app), "nginx.service", *servers]
        reasons = self.dpkg.reasons(
            brought,
            ours=lambda path: path in footprint.site_files(self.places),
            own_units=lambda unit: matches(unit, own),
            needed=needed,
        )
        return going(brought, reasons, self.dpkg.simulate)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a name matches one of the patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _marks(host: Host) -> dict[str, dict[str, Any] | None]:
    """Return the marks of all applications of a host; None for one that can't be read."""
    marks: dict[str, dict[str, Any] | None] = {}
    for path in host.glob(f"/etc/celery-fleet/*/{footprint.MARK}"):
        name = os.path.basename(os.path.dirname(path))
        try:
            mark = json.loads(Path(host.at(path)).read_text())
        except (OSError, ValueError):
            mark = None
        marks[name] = mark if isinstance(mark, dict) else None
    return marks
