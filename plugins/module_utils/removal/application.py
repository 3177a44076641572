"""Lists what an application has on this host now, and what of it may be removed.

Runs on the host, as root, and changes nothing. The application's manifest lists what was put there. Anything in the
manifests of other applications stays.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..names import firewall_table
from ..reconcile import fingerprint, manifest, systemd
from ..reconcile.manifest import UNITS, Manifest
from ..reconcile.report import ReconcileError
from . import footprint
from .accounts import Account
from .content import TreeEntry, content
from .footprint import ApplicationPaths
from .host import RemovalHost
from .packages import purged

MARK = "fleet.json"
# File next to the mark during a removal: it was already decided what happens to the messages in Redis.
SETTLED = "removal.json"
# A run makes it a member of `celery_app_proxy_group`.
_NGINX_USER = "www-data"
# Directories with a JSON file for each unit.
_LISTS = (fingerprint.LISTS, f"{fingerprint.STATE}/ends", fingerprint.RECORDS)


class InstalledApplication:
    """One application on this host. Marks and manifests are read once, everything else on demand.

    Attributes:
        keep: What to keep, `fleet_remove_keep`.
        marks: Marks of all applications on the host, by name; None for one that can't be read.
        mark: The application's own mark.
        manifest: What was put on the host for the application.
        shared: What was put there for other applications.
    """

    def __init__(
        self, paths: ApplicationPaths, keep: tuple[str, ...], host: RemovalHost | None = None
    ) -> None:
        self.paths = paths
        self.app = paths.app
        self.keep = keep
        self.host = host or RemovalHost()
        self.marks = _marks(self.host)
        self.mark: Mapping[str, Any] | None = self.marks.get(self.app)
        self.manifest = self._listed(paths) if self.present else Manifest()
        self.shared = Manifest()
        for name in self.neighbours:
            self.shared.update(self._listed(ApplicationPaths.usual(name)))

    @property
    def present(self) -> bool:
        """Return whether the host has the application, or the rest of it after an interrupted removal."""
        return self.app in self.marks

    @property
    def neighbours(self) -> list[str]:
        """Return names of the other applications on the host."""
        return sorted(name for name in self.marks if name != self.app)

    @property
    def own_marks(self) -> list[str]:
        """Return the files to remove last, in this order; the host counts as having the application until then."""
        return [f"{self.paths.directory}/{name}" for name in (SETTLED, manifest.NAME, MARK)]

    def _listed(self, paths: ApplicationPaths) -> Manifest:
        found = manifest.read(self.host.at(f"{paths.directory}/{manifest.NAME}"))
        if found is not None and found.whole:
            return found
        derived = footprint.derive(paths, self.marks[paths.app], self.host)
        derived.update(found or Manifest())
        derived.whole = False
        return derived

    def refuse_other_paths(self) -> None:
        """Check the directories that the inventory names, if they are needed.

        Raises:
            ReconcileError: They can't belong to the application.
        """
        words = [] if self.manifest.whole else self.paths.wrong(self.mark)
        if words:
            raise ReconcileError("; ".join([*words, "Nothing was removed on this host."]))

    # -- units, the firewall -------------------------------------------------------------------------------

    def units(self) -> list[str]:
        """Return the application's own units, without its slice, which may contain an operator's units."""
        files = self.manifest.files - self.shared.files
        names_on_disk = [os.path.basename(path) for path in files if os.path.dirname(path) == UNITS]
        # Also a second instance of a worker, what timers start, and the rollback of an unconfirmed firewall table.
        patterns = [
            name.replace("@.", "@*.") for name in names_on_disk if name.startswith(f"{self.app}-")
        ]
        names = {*systemd.listed([*patterns, f"{self.app}-firewall-rollback.*"], self.host.run)}
        names |= {
            unit
            for unit in self.manifest.units
            if {f"{UNITS}/{unit}", f"{UNITS}/{systemd.template_of(unit)}"} & self.manifest.files
        }
        return sorted(unit for unit in names - self.shared.units if not unit.endswith(".slice"))

    def commands(self) -> list[str]:
        """Return the units in which an operator's command, or a release's, runs."""
        patterns = [f"{self.app}-exec-*.service", f"{self.app}-command.*.service"]
        return sorted({*systemd.listed(patterns, self.host.run)} - self.shared.units)

    def has_table(self) -> bool:
        """Return whether the kernel has the application's table of firewall rules."""
        if not any(self.host.exists(f"{place}/nft") for place in ("/usr/sbin", "/sbin")):
            return False
        command = ["nft", "list", "table", "inet", firewall_table(self.app)]
        return self.host.run(command).returncode == 0

    # -- files, directories --------------------------------------------------------------------------------

    def files(self) -> list[str]:
        """Return its files and links, with the records of its units, but without the files to remove last."""
        own = self.manifest.files - self.shared.files - {*self.own_marks, *self.masks()}
        units = self.manifest.units - self.shared.units
        own |= {f"{directory}/{unit}.json" for directory in _LISTS for unit in units}
        return sorted(path for path in own if self.host.exists(path))

    def masks(self) -> list[str]:
        """Return our links that keep Debian's own services from starting: they stay as long as the package."""
        own = self.manifest.files - self.shared.files
        links = (path for path in own if os.path.dirname(path) == UNITS)
        return sorted(
            path
            for path in links
            if os.path.islink(self.host.at(path))
            and os.readlink(self.host.at(path)) == "/dev/null"
            and self.host.exists(f"/usr/lib/systemd/system/{os.path.basename(path)}")
        )

    def trees(self) -> dict[str, str]:
        """Return the paths to remove with their content, each with the name by which it may be kept."""
        others = {*self.shared.files, *self.shared.directories, *self.shared.data}
        found = {
            path: keep
            for path, keep in sorted(self.manifest.data.items())
            if self.host.exists(path)
            and not any(f"{other}/".startswith(f"{path}/") for other in others)
        }
        # What is in one of them goes or stays with it.
        return {
            path: keep
            for path, keep in found.items()
            if not any(path.startswith(f"{outer}/") for outer in found)
        }

    def content(self, path: str) -> Iterator[TreeEntry]:
        """Yield the content of one of these paths, and say of each entry whether it stays."""
        # Preflight lets no directory be declared in the others, where only programs of the fleet write.
        declared = self._directories() if self.manifest.data.get(path) else set()
        return content(self.host, path, self._owners_of(path), declared)

    def _directories(self) -> set[str]:
        """Return directories that stay unless they are empty; of the application's user only declared ones."""
        own = self.manifest.directories - self.manifest.data.keys()
        # The fleet's own. Earlier manifests list it only among the directories. A later version drops this line.
        return own - {f"{self.paths.state}/metrics"}

    def directories(self) -> list[str]:
        """Return the directories to remove if they are empty; those of a package stay."""
        own = sorted(filter(self.host.exists, self.manifest.directories - self.shared.directories))
        asked = self.host.run(["dpkg-query", "--search", *own]).output.splitlines() if own else []
        packaged = {line.rpartition(": ")[2] for line in asked}
        return [path for path in own if path not in packaged]

    def has_redis_data(self) -> bool:
        """Return whether the broker has left data on this host."""
        path = self.host.at(f"{footprint.REDIS_DATA}/{self.app}-broker")
        return os.path.isdir(path) and bool(os.listdir(path))

    # -- users, groups -------------------------------------------------------------------------------------

    def _owners_of(self, path: str) -> set[int]:
        """Return the IDs of users: files of its owner, root and the application's users are removed with a path."""
        names = self.manifest.users.keys() - self.shared.users.keys()
        found = (self.host.accounts.user(name) for name in names)
        top = os.lstat(self.host.at(path)).st_uid
        return {os.geteuid(), top} | {account.number for account in found if account is not None}

    def _owns_what_stays(self, number: int) -> bool:
        """Return whether a user, by its ID, owns a directory of `celery_app_directories` that will stay."""
        listed = self._directories()
        return any(
            self.host.is_mount(path)
            or any(f"{path}/{name}" not in listed for name in os.listdir(self.host.at(path)))
            for path in listed
            if os.path.isdir(self.host.at(path)) and os.lstat(self.host.at(path)).st_uid == number
        )

    def accounts(self) -> tuple[list[Account], list[Account], dict[str, str]]:
        """Return users and groups to remove, and those that stay with the reason."""
        users: list[Account] = []
        stay: dict[str, str] = {}
        kept = any(keep in self.keep and keep != "redis_data" for keep in self.trees().values())
        for name in sorted(self.manifest.users.keys() - self.shared.users.keys()):
            account = self.host.accounts.user(name)
            if account is None:
                continue
            if account.comment != self.manifest.users[name]:
                stay[f"user {name}"] = "was there before the fleet"
            elif kept := kept or self._owns_what_stays(account.number):
                stay[f"user {name}"] = "owns what is kept"
            else:
                users.append(account)
        theirs = {*self.shared.groups, *(self.manifest.users.keys() - {one.name for one in users})}
        groups: list[Account] = []
        for name in [] if kept else sorted(self.manifest.groups - theirs):
            group = self.host.accounts.group(name)
            if group is None:
                continue
            reason = self._needed_by_others(group, {user.name for user in users})
            if reason:
                stay[f"group {name}"] = reason
            else:
                groups.append(group)
        return users, groups, stay

    def _needed_by_others(self, group: Account, leaving: set[str]) -> str:
        """Return why a group has to stay; an empty string if only the fleet uses it.

        It may be older than the fleet: systemd-sysusers does not say whether it made a group or found it.
        """
        others = sorted({*self.host.accounts.primary_users(group)} - leaving)
        if others:
            return f"is the primary group of {', '.join(others)}"
        others = sorted({*self.host.accounts.members(group)} - leaving - {_NGINX_USER})
        return f"has other members: {', '.join(others)}" if others else ""

    # -- packages ------------------------------------------------------------------------------------------

    def purge(self) -> str:
        """Return the command that purges packages which runs have installed, to show; empty if there are none."""
        names = self.manifest.packages
        if self.neighbours:
            return ""
        if "redis_data" in self.keep and self.has_redis_data():
            # The package's user owns the data.
            names = {name for name in names if not name.startswith(("redis", "valkey"))}
        going = purged(self.host, names, self.manifest.files)
        masks = [
            path for path in self.masks() if os.path.basename(path)[: -len(".service")] in going
        ]
        words = ["apt purge", *going, *(["&& rm", *masks] if masks else [])]
        return " ".join(words) if going else ""


def _marks(host: RemovalHost) -> dict[str, dict[str, Any] | None]:
    marks: dict[str, dict[str, Any] | None] = {}
    for path in host.glob(f"/etc/celery-fleet/*/{MARK}"):
        try:
            mark = json.loads(Path(host.at(path)).read_text())
        except (OSError, ValueError):
            mark = None
        name = os.path.basename(os.path.dirname(path))
        marks[name] = mark if isinstance(mark, dict) else None
    return marks
