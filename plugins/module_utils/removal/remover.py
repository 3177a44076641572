"""Removes what an application has on a host; the owner's mark, which says that the host has it, goes last.

Runs on the host, inside the `remove_application` module, as root, once all units have been stopped (`stop`). Each step
may be repeated: the next run finishes an interrupted one.
"""

from __future__ import annotations

from ..names import firewall_table, slice_unit
from ..reconcile import manifest
from ..reconcile.lock import LOCK
from ..reconcile.manifest import UNITS
from ..reconcile.report import ReconcileError
from .application import InstalledApplication
from .deletion import Deletion
from .host import ended

RUN = "/run/celery-fleet"
_NGINX = "nginx.service"

# The lock of builds that install packages; and what 0.1.0 called the lock. The next version drops it, like the list of
# names in `footprint`.
_OTHER_LOCKS = ("/run/celery-fleet-packages.lock", "/run/celery-fleet-settle.lock")


class Remover:
    """Removes one application from one host.

    Attributes:
        removed: What was removed: paths, and text such as `user shop`.
        warnings: Warnings to show.
    """

    def __init__(self, there: InstalledApplication) -> None:
        self.there = there
        self.app = there.app
        self.host = there.host
        self.deletion = Deletion(there.host)
        self.removed = self.deletion.removed
        self.warnings: list[str] = []

    def remove(self) -> None:
        """Remove everything that is not kept, the mark last.

        Raises:
            ReconcileError: Something still runs, or could not be removed.
        """
        there = self.there
        if not there.present:
            return
        there.refuse_other_paths()
        self._refuse_what_runs()
        directories = there.directories()
        self._remove_table()
        self._remove_files()
        self._reload_nginx()
        self._remove_trees()
        self._remove_accounts()
        self.deletion.empty_directories(directories)
        self._hand_packages_over()
        self.deletion.files(there.own_marks)
        self.deletion.empty_directories(directories)

    def finish(self) -> None:
        """Remove what the run itself has left in /run: its lease, and the lock of reconciling."""
        if self.there.present:
            return
        if not self.host.exists(f"{RUN}/{self.app}.lease.json"):
            self.deletion.files([f"{RUN}/{self.app}.lease.lock", f"{RUN}/{self.app}.lease.new"])
        if self.there.marks:
            return
        if self.host.exists(RUN) and not self.host.glob(f"{RUN}/*.lease.json"):
            self.deletion.tree(RUN, self.there.content(RUN))
        self.deletion.files([str(LOCK), *_OTHER_LOCKS])

    def _refuse_what_runs(self) -> None:
        states = self.host.show([*self.there.units(), *self.there.commands()])
        running = [name for name, state in states.items() if not ended(state)]
        if running:
            raise ReconcileError(
                f"{', '.join(running)}: started again in the meantime. Nothing was removed on this host; run again."
            )
        users, _, _ = self.there.accounts()
        left = self.host.accounts.processes(user.number for user in users)
        if left:
            who = " or ".join(user.name for user in users)
            raise ReconcileError(
                f"processes outside of its units run as {who}: {', '.join(left)}. "
                "Nothing was removed on this host: end them and run again."
            )

    def _remove_table(self) -> None:
        if self.there.has_table():
            self.host.command(["nft", "delete", "table", "inet", firewall_table(self.app)])
            self.removed.append(f"table inet {firewall_table(self.app)}")

    def _remove_files(self) -> None:
        files = self.there.files()
        self.deletion.files(files)
        if any(path.startswith(f"{UNITS}/") for path in files):
            self._stop_slice()
            self.host.command(["systemctl", "daemon-reload"])

    def _stop_slice(self) -> None:
        """Stop the slice unless an operator's unit runs in it; otherwise it is listed until the next boot."""
        name = slice_unit(self.app)
        inside = self.host.run(["systemctl", "show", "--property=RequiredBy", "--value", name])
        units = inside.output.split() if inside.returncode == 0 else []
        if all(ended(state) for state in self.host.show(units).values()):
            self.host.run(["systemctl", "stop", name])

    def _reload_nginx(self) -> None:
        """Make nginx drop the sites, even if an earlier run removed their files and was killed before this."""
        own = self.there.manifest.files - self.there.shared.files
        if not any(path.startswith("/etc/nginx/") or "/nginx-web/" in path for path in own):
            return
        if self.host.show([_NGINX])[_NGINX].active != "active":
            return
        done = self.host.run(["systemctl", "reload", _NGINX])
        if done.returncode != 0:
            self.warnings.append(
                f"nginx could not reload ({done.output.strip()}): it still serves the removed sites; check nginx -t"
            )

    def _remove_trees(self) -> None:
        for path, keep in self.there.trees().items():
            if keep not in self.there.keep and self.host.exists(path):
                self.deletion.tree(path, self.there.content(path))

    def _remove_accounts(self) -> None:
        users, groups, _ = self.there.accounts()
        for user in users:
            self.host.command(["userdel", user.name])
            self.removed.append(f"user {user.name}")
        for group in groups:
            # A user's own group is removed together with the user.
            if self.host.accounts.group(group.name) is not None:
                self.host.command(["groupdel", group.name])
                self.removed.append(f"group {group.name}")

    def _hand_packages_over(self) -> None:
        """Add our packages to another application's manifest, so that the last removal on the host shows them."""
        if not self.there.manifest.packages:
            return
        for name in self.there.neighbours:
            path = self.host.at(f"/etc/celery-fleet/{name}/{manifest.NAME}")
            other = manifest.read(path)
            if other is not None:
                other.packages |= self.there.manifest.packages
                manifest.write(path, other)
                return
