"""Remove what an application has on a host; the owner's mark, by which the host is known to have it, goes last.

Runs on the host, inside the `fleet_removal` module, as root, once all units have been stopped (`stop`). Each step
may be repeated: what was cut short is finished by the next run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ansible_collections.celery_fleet.core.plugins.module_utils.names import (
    firewall_table,
    slice_unit,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.lock import LOCK
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.outcome import SettleError
from ansible_collections.celery_fleet.core.plugins.module_utils.removal import footprint, nginx
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.deletion import Deletion
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.footprint import RUN, UNITS
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.host import ended
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.installed import (
    InstalledApplication,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.packages import Packages


class Remover:
    """Removes one application from one host.

    Attributes:
        removed: What was there and is gone: paths, and words such as `user shop`.
        warnings: What a person should look at.
    """

    def __init__(self, there: InstalledApplication) -> None:
        self.there = there
        self.app = there.app
        self.places = there.places
        self.host = there.host
        self.deletion = Deletion(there.host)
        self.removed = self.deletion.removed
        self.warnings: list[str] = []

    def remove(self) -> None:
        """Remove everything that is not kept; the mark last.

        Raises:
            SettleError: Something still runs, or could not be removed.
        """
        there = self.there
        if there.present:
            there.refuse_other_places()
            self._refuse_what_runs()
            current = nginx.is_current(self.host)
            self._remove_table()
            self._remove_units()
            self.deletion.files(there.files())
            self._reload_nginx(current)
            self._remove_trees()
            self.deletion.empty_directories(footprint.directories(self.places))
            self._remove_accounts()
            self._remove_half_shared()
            if not there.neighbours.names:
                self._remove_shared()
            settled = f"{self.places.directory}/{footprint.SETTLED}"
            self.deletion.files([settled, self.places.mark])
        self.deletion.empty_directories([self.places.directory])
        if not there.neighbours.names:
            self.deletion.empty_directories(["/etc/celery-fleet/redis", "/etc/celery-fleet"])

    def finish(self) -> None:
        """Remove what the run itself has left in /run: where it took its lease, and the lock of settling."""
        if self.there.present:
            return
        if not self.host.exists(f"{RUN}/{self.app}.lease.json"):
            self.deletion.files([f"{RUN}/{self.app}.lease.lock", f"{RUN}/{self.app}.lease.new"])
        if self.there.marks:
            return
        if self.host.exists(RUN) and not self.host.glob(f"{RUN}/*.lease.json"):
            self.deletion.tree(RUN)
        self.deletion.files([str(LOCK)])

    def _refuse_what_runs(self) -> None:
        names = self.there.units([*footprint.all_units(self.app), *footprint.commands(self.app)])
        running = [name for name, state in self.host.show(names).items() if not ended(state)]
        if running:
            raise SettleError(
                f"{', '.join(running)}: started again meanwhile. Nothing was removed on this host; run again."
            )
        users, _, _ = self.there.accounts()
        left = self.host.accounts.processes(user.number for user in users)
        if left:
            who = " or ".join(user.name for user in users)
            raise SettleError(
                f"processes run as {who} that are none of its units: {', '.join(left)}. "
                "Nothing was removed on this host: end them and run again."
            )

    def _remove_table(self) -> None:
        if self.there.has_table():
            self.host.command(["nft", "delete", "table", "inet", firewall_table(self.app)])
            self.removed.append(f"table inet {firewall_table(self.app)}")

    def _remove_units(self) -> None:
        paths = [
            path for pattern in footprint.unit_files(self.app) for path in self.there.found(pattern)
        ]
        # If a run was cut short between a unit's file and its links.
        paths += [
            path
            for path in self.host.glob(f"{UNITS}/*.wants/*")
            + self.host.glob(f"{UNITS}/*.requires/*")
            if self.there.owns_unit(os.path.basename(path))
        ]
        around = {os.path.dirname(path) for path in paths} - {UNITS}
        self.deletion.files(paths)
        self.deletion.empty_directories(sorted(around))
        if paths:
            self._stop_slice()
            self.host.command(["systemctl", "daemon-reload"])

    def _stop_slice(self) -> None:
        """Stop the slice, or it would be listed until the next boot; not if an operator's unit runs in it."""
        name = slice_unit(self.app)
        inside = self.host.run(["systemctl", "show", "--property=RequiredBy", "--value", name])
        units = inside.output.split() if inside.returncode == 0 else []
        if all(ended(state) for state in self.host.show(units).values()):
            self.host.run(["systemctl", "stop", name])

    def _reload_nginx(self, current: bool) -> None:
        sites = any(path.startswith(f"{footprint.SITES}/") for path in self.removed)
        # By its mark, too: a run that was cut short may have removed them and gone no further.
        if not sites and not (self.there.mark or {}).get("nginx"):
            return
        if self.host.show([nginx.UNIT])[nginx.UNIT].active != "active":
            return
        done = self.host.run(["systemctl", "reload", nginx.UNIT])
        if done.returncode != 0:
            self.warnings.append(
                f"nginx could not reload ({done.output.strip()}): it serves the removed sites on; look at nginx -t"
            )
        elif current and self.there.neighbours.nginx:
            nginx.write_record(self.host)

    def _remove_trees(self) -> None:
        for tree, path in self.there.trees():
            if tree.keep in self.there.options.keep:
                continue
            if tree.whole:
                self.deletion.tree(path)
            else:
                self.deletion.owned(path, self.there.user_numbers())
            self.deletion.empty_directories([path])

    def _remove_accounts(self) -> None:
        users, groups, _ = self.there.accounts()
        for user in users:
            self.host.command(["userdel", user.name])
            self.removed.append(f"user {user.name}")
        for group in groups:
            # A user's own goes with it.
            if self.host.accounts.group(group.name) is not None:
                self.host.command(["groupdel", group.name])
                self.removed.append(f"group {group.name}")
        if users or groups or not self.there.keeps_users():
            self.deletion.files([footprint.sysusers(self.app)])

    # -- what applications share ---------------------------------------------------------------------------

    def _remove_half_shared(self) -> None:
        """Remove what the applications with a Redis share, or those with a site, if none of them is left."""
        paths: list[str] = []
        if not self.there.neighbours.redis:
            paths += footprint.REDIS_FILES
        if not self.there.neighbours.nginx:
            paths += footprint.NGINX_FILES
        there = [path for path in paths if self.host.exists(path)]
        self.deletion.files(there)
        if not self.there.neighbours.nginx:
            self.deletion.empty_directories(footprint.NGINX_DIRECTORIES)
        if any(path.startswith(UNITS) for path in there):
            self.host.command(["systemctl", "daemon-reload"])

    def _remove_shared(self) -> None:
        """Remove what all applications share."""
        packages = self.there.packages()
        if packages.purged:
            self._remove_welcome(packages.purged)
            self.there.dpkg.purge(packages.purged)
            self.removed += [f"package {name}" for name in packages.purged]
        for package, path in footprint.REDIS_MASKS.items():
            mask = self.host.at(path)
            masks = os.path.islink(mask) and os.readlink(mask) == "/dev/null"
            if masks and self._is_unmasked(package, packages):
                self.deletion.files([path])
                self.host.command(["systemctl", "daemon-reload"])
        self.deletion.files(list(footprint.SHARED_FILES))
        self.deletion.empty_directories(footprint.SHARED_DIRECTORIES)
        for path in footprint.SHARED_TREES:
            if self.host.exists(path):
                self.deletion.tree(path)

    def _remove_welcome(self, purged: Iterable[str]) -> None:
        """Remove the page that nginx's package leaves behind, unless an operator has written to it."""
        page, origin = (Path(self.host.at(path)) for path in footprint.WELCOME)
        if not any(name.startswith("nginx") for name in purged):
            return
        if page.is_file() and origin.is_file() and page.read_bytes() == origin.read_bytes():
            self.deletion.files(footprint.WELCOME[:1])
            self.deletion.empty_directories(footprint.WELCOME_DIRECTORIES)

    def _is_unmasked(self, package: str, packages: Packages) -> bool:
        """Return whether the link that keeps Debian's own server down may go: it can't start at the next boot."""
        return package in packages.purged or not self.host.exists(f"/usr/bin/{package}")
