"""Take an application off a host: look what it has there, stop it stage by stage, remove what was put there.

Runs on the host, inside the `fleet_removal` module, as root. What belongs to the application is told by `belongings`.
Each step may be repeated: one that was cut short is finished by the next run, and the owner's mark, by which the host
is known to have the application, goes last.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ansible_collections.celery_fleet.core.plugins.module_utils.names import (
    firewall_table,
    slice_unit,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import (
    fingerprint,
    redis_live,
    systemd,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.files import LEFT
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.lock import LOCK
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.outcome import SettleError
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.redis_live import (
    RedisError,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.wanted import RedisAccess
from ansible_collections.celery_fleet.core.plugins.module_utils.removal import (
    footprint as belongings,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.accounts import (
    Account,
    Accounts,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.footprint import (
    RUN,
    STATE,
    UNITS,
    Neighbours,
    Places,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.packages import (
    Dpkg,
    Packages,
    going,
)

_NGINX = "nginx.service"

# Celery's lists of a queue with priorities, where the settings say nothing else.
_STEPS = (0, 3, 6, 9)

_SEPARATOR = "\x06\x16"

# Seconds between two looks at units that are stopping.
_LOOK = 0.3

# What one call asks Redis at most.
_QUEUES_AT_ONCE = 200


@dataclass(frozen=True)
class Host:
    """The host as a removal reaches it; tests have one of their own, below a directory `base`."""

    run: systemd.Runner = systemd.run
    talk: redis_live.Talk = redis_live.talk
    accounts: Accounts = field(default_factory=Accounts)
    base: str = ""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class Options:
    """What is to stay.

    Attributes:
        keep: Names of `belongings.KEEP`.
        packages: Whether Debian packages that the fleet brought go.
    """

    keep: tuple[str, ...] = ()
    packages: bool = True


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
        stay: What stays although it lies among ours, each with the reason.
        tables: Tables of the firewall.
        messages: What Redis holds here, as `Remover.messages` tells it; nothing without a Redis.
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


class Remover:
    """Takes one application off one host; see the module's text."""

    def __init__(self, places: Places, options: Options, host: Host | None = None) -> None:
        self.places = places
        self.app = places.app
        self.options = options
        self.host = host or Host()
        self.dpkg = Dpkg(self.host.run, self.host.base)
        self.marks = self._read_marks()
        self.mark = self.marks.get(self.app)
        self.neighbours: Neighbours = belongings.neighbours(self.app, self.marks)
        self.removed: list[str] = []
        self.warnings: list[str] = []

    # -- looking -------------------------------------------------------------------------------------------

    def look(self) -> Found:
        """All that there is; changes nothing.

        Raises:
            SettleError: What the inventory says of its directories is not to be believed.
        """
        found = Found(present=self.present, neighbours=list(self.neighbours.names))
        if not self.present:
            return found
        self._refuse_other_places()
        found.owner = str((self.mark or {}).get("owner", ""))
        found.units = self._units(belongings.all_units(self.app))
        found.busy = [
            name
            for name, state in self._show(self._units(belongings.commands(self.app))).items()
            if state.active in ("active", "activating", "reloading", "deactivating")
        ]
        found.files = self._files()
        for tree, path in self._trees():
            size, foreign = self._measure(path, tree.whole)
            (found.kept if tree.keep in self.options.keep else found.trees)[path] = size
            if tree.keep not in self.options.keep:
                found.stay.update(dict.fromkeys(foreign, "is not the application's"))
        users, groups, stay = self._accounts()
        found.users = [f"user {one.name}" for one in users] + [
            f"group {one.name}" for one in groups
        ]
        found.stay.update(stay)
        if self._table():
            found.tables.append(f"inet {firewall_table(self.app)}")
        found.stay.update(self._strangers())
        if not self.neighbours.names:
            found.files += self._shared_files()
            packages = self._packages()
            found.packages = packages.purged
            found.stay.update({f"package {name}": why for name, why in packages.kept.items()})
            shared = [path for path in belongings.SHARED_TREES if self._exists(path)]
            found.trees.update({path: self._measure(path, True)[0] for path in shared})
        if self._units(belongings.units(self.app)["redis"]) or self._redis_data():
            found.messages = self.messages()
        return found

    @property
    def present(self) -> bool:
        """Whether the host has the application, or what a removal that was cut short has left of it."""
        return self.app in self.marks

    def _read_marks(self) -> dict[str, dict[str, Any] | None]:
        marks: dict[str, dict[str, Any] | None] = {}
        for path in self._glob(f"/etc/celery-fleet/*/{belongings.MARK}"):
            name = os.path.basename(os.path.dirname(path))
            try:
                mark = json.loads(Path(self._at(path)).read_text())
            except (OSError, ValueError):
                mark = None
            marks[name] = mark if isinstance(mark, dict) else None
        return marks

    def messages(self) -> dict[str, Any]:
        """How many messages the broker of this host holds.

        `state` is `counted`, `settled` (an earlier run was told what becomes of them), `none` (there is no data) or
        `unknown`; then `reason` says why. The numbers are `waiting`, `held`, `dead`, and `queues` by their names.
        """
        unit = f"redis@{self.app}-broker.service"
        if self._show([unit])[unit].active != "active":
            if self._exists(f"{self.places.directory}/{belongings.SETTLED}"):
                return {"state": "settled"}
            if not self._redis_data():
                return {"state": "none"}
            return {"state": "unknown", "reason": f"{unit} does not run"}
        try:
            return self._counted()
        except (RedisError, OSError, ValueError, KeyError, TypeError) as error:
            return {"state": "unknown", "reason": f"the broker does not tell: {error}"}

    def _counted(self) -> dict[str, Any]:
        etc = self.places.directory
        settings = json.loads(Path(self._at(f"{etc}/credentials/operator.json")).read_text())
        celery = settings["celery"]
        named = json.loads(Path(self._at(f"{etc}/cli.json")).read_text())
        options = celery.get("broker_transport_options") or {}
        prefix = options.get("global_keyprefix") or ""
        separator = options.get("sep") or _SEPARATOR
        steps = options.get("priority_steps") or _STEPS
        url = urlsplit(str(celery["broker_url"]))
        access = RedisAccess(
            url.hostname or "",
            url.port or 6379,
            str(named["redis"]["ca"]),
            unquote(url.username or ""),
            unquote(url.password or ""),
        )
        lists = [
            (str(queue), f"{prefix}{queue}{separator}{step}" if step else f"{prefix}{queue}")
            for queue in named["queues"]
            for step in steps
        ]
        queues: dict[str, int] = {}
        for first in range(0, len(lists), _QUEUES_AT_ONCE):
            some = lists[first : first + _QUEUES_AT_ONCE]
            lengths = self.host.talk(access, [["LLEN", key] for _, key in some])
            for (queue, _), length in zip(some, lengths, strict=True):
                queues[queue] = queues.get(queue, 0) + int(str(length))
        rest = [
            ["ZRANGE", f"{prefix}unacked_index", "0", "-1"],
            ["ZCARD", f"{prefix}fleet:dead-letters:index"],
        ]
        held, dead = self.host.talk(access, rest)
        return {
            "state": "counted",
            "waiting": sum(queues.values()),
            "held": len(held) if isinstance(held, list) else 0,
            "dead": int(str(dead)),
            "queues": {name: length for name, length in queues.items() if length},
        }

    # -- stopping ------------------------------------------------------------------------------------------

    def stop(self, stage: str, patience: float) -> dict[str, Any]:
        """Disable and stop the units of one stage, and wait for a while.

        systemd is told without waiting: should this run end here, what was begun ends by itself, and the next run waits
        for it.

        Returns:
            `stopped`, the units that have ended, and `waiting`, unit → what it says.
        """
        names = self._units(belongings.units(self.app)[stage])
        states = {name: state for name, state in self._show(names).items() if state.exists}
        enabled = [
            name
            for name, state in states.items()
            if state.file_state in ("enabled", "enabled-runtime", "linked")
        ]
        if enabled:
            self._command(["systemctl", "disable", "--quiet", *enabled])
        running = [name for name, state in states.items() if not _ended(state)]
        if running:
            self._command(["systemctl", "stop", "--no-block", *running])
        deadline = self.host.clock() + patience
        waiting = dict.fromkeys(running, "")
        while waiting:
            for name, state in self._show(list(waiting)).items():
                if _ended(state):
                    del waiting[name]
                else:
                    waiting[name] = state.described
            if not waiting or self.host.clock() >= deadline:
                break
            self.host.sleep(_LOOK)
        failed = [
            name for name, state in self._show(list(states)).items() if state.active == "failed"
        ]
        if failed:
            # They would be listed until the host restarts.
            self.host.run(["systemctl", "reset-failed", *failed])
        stopped = [name for name in running if name not in waiting]
        return {"stopped": stopped, "waiting": waiting, "changed": bool(enabled or stopped)}

    def settle_messages(self, number: int) -> None:
        """Write down that it was settled what becomes of the messages: Redis can't be asked any more afterwards."""
        path = Path(self._at(f"{self.places.directory}/{belongings.SETTLED}"))
        if self.present and not path.exists():
            path.write_text(json.dumps({"messages": number}) + "\n")
            path.chmod(0o600)

    # -- removing ------------------------------------------------------------------------------------------

    def remove(self) -> None:
        """Everything but what is kept; the mark last.

        Raises:
            SettleError: Something still runs, or could not be removed.
        """
        if self.present:
            self._refuse_other_places()
            self._refuse_what_runs()
            current = self._is_current()
            self._remove_table()
            self._remove_units()
            self._remove_files(self._files())
            self._reload_nginx(current)
            self._remove_trees()
            self._remove_empty(belongings.directories(self.places))
            self._remove_accounts()
            self._remove_half_shared()
            if not self.neighbours.names:
                self._remove_shared()
            self._remove_files([f"{self.places.directory}/{belongings.SETTLED}", self.places.mark])
        self._remove_empty([self.places.directory])
        if not self.neighbours.names:
            self._remove_empty(["/etc/celery-fleet/redis", "/etc/celery-fleet"])

    def finish(self) -> None:
        """What the run itself has left in /run: where it took its lease, and the lock of settling."""
        if self.present:
            return
        if not self._exists(f"{RUN}/{self.app}.lease.json"):
            self._remove_files([f"{RUN}/{self.app}.lease.lock", f"{RUN}/{self.app}.lease.new"])
        if self.marks:
            return
        if self._exists(RUN) and not self._glob(f"{RUN}/*.lease.json"):
            self._remove_tree(RUN)
        self._remove_files([str(LOCK)])

    def _refuse_other_places(self) -> None:
        words = self.places.wrong(self.mark)
        if words:
            raise SettleError("; ".join([*words, "Nothing was removed on this host."]))

    def _refuse_what_runs(self) -> None:
        names = self._units([*belongings.all_units(self.app), *belongings.commands(self.app)])
        running = [name for name, state in self._show(names).items() if not _ended(state)]
        if running:
            raise SettleError(
                f"{', '.join(running)}: started again meanwhile. Nothing was removed on this host; run again."
            )
        users, _, _ = self._accounts()
        left = self.host.accounts.processes(user.number for user in users)
        if left:
            who = " or ".join(user.name for user in users)
            raise SettleError(
                f"processes run as {who} that are none of its units: {', '.join(left)}. "
                "Nothing was removed on this host: end them and run again."
            )

    def _table(self) -> bool:
        if not any(self._exists(f"{place}/nft") for place in ("/usr/sbin", "/sbin")):
            return False
        command = ["nft", "list", "table", "inet", firewall_table(self.app)]
        return self.host.run(command).returncode == 0

    def _remove_table(self) -> None:
        if self._table():
            self._command(["nft", "delete", "table", "inet", firewall_table(self.app)])
            self.removed.append(f"table inet {firewall_table(self.app)}")

    def _remove_units(self) -> None:
        paths = [
            path for pattern in belongings.unit_files(self.app) for path in self._found(pattern)
        ]
        # Where a run was cut short between a unit's file and its links.
        paths += [
            path
            for path in self._glob(f"{UNITS}/*.wants/*") + self._glob(f"{UNITS}/*.requires/*")
            if self._is_ours(os.path.basename(path))
        ]
        around = {os.path.dirname(path) for path in paths} - {UNITS}
        self._remove_files(paths)
        self._remove_empty(sorted(around))
        if paths:
            self._stop_slice()
            self._command(["systemctl", "daemon-reload"])

    def _stop_slice(self) -> None:
        """It would be listed until the next boot. Not under a unit that somebody has put into it."""
        name = slice_unit(self.app)
        inside = self.host.run(["systemctl", "show", "--property=RequiredBy", "--value", name])
        units = inside.output.split() if inside.returncode == 0 else []
        if all(_ended(state) for state in self._show(units).values()):
            self.host.run(["systemctl", "stop", name])

    def _is_ours(self, unit: str) -> bool:
        return self._matches(unit, belongings.all_units(self.app)) and not self._matches(
            unit, self.neighbours.units
        )

    def _reload_nginx(self, current: bool) -> None:
        sites = any(path.startswith(f"{belongings.SITES}/") for path in self.removed)
        # By its mark, too: a run that was cut short may have removed them and gone no further.
        if not sites and not (self.mark or {}).get("nginx"):
            return
        if self._show([_NGINX])[_NGINX].active != "active":
            return
        done = self.host.run(["systemctl", "reload", _NGINX])
        if done.returncode != 0:
            self.warnings.append(
                f"nginx could not reload ({done.output.strip()}): it serves the removed sites on; look at nginx -t"
            )
        elif current and self.neighbours.nginx:
            # Or the next run of another application would reload it once more.
            state = self._show([_NGINX])[_NGINX]
            records = f"{self.host.base}{fingerprint.RECORDS}"
            if inputs := self._inputs(state):
                fingerprint.write_record(_NGINX, state.invocation, inputs, directory=records)

    def _is_current(self) -> bool:
        """Whether nginx runs with what lies there, as far as its record tells."""
        state, base = self._show([_NGINX])[_NGINX], self.host.base
        known, _ = fingerprint.known(_NGINX, state.invocation, f"{base}{fingerprint.RECORDS}")
        inputs = self._inputs(state)
        return known is not None and inputs is not None and fingerprint.compare(known, inputs) == []

    def _inputs(self, state: systemd.UnitState) -> dict[str, str] | None:
        """What nginx would be started with now."""
        base = self.host.base
        listed = fingerprint.read_object(f"{base}{fingerprint.LISTS}/{_NGINX}.json")
        key = fingerprint.read_key(f"{base}{fingerprint.KEY}")
        files, links, values = (listed.get(name) for name in ("files", "links", "values"))
        if key is None or not isinstance(files, list) or not isinstance(values, dict):
            return None
        further = {str(name): str(value) for name, value in values.items()}
        named = [str(link) for link in links] if isinstance(links, list) else []
        disk = fingerprint.Disk()
        return fingerprint.inputs(state.sources, map(str, files), named, further, key, disk)

    def _remove_trees(self) -> None:
        for tree, path in self._trees():
            if tree.keep in self.options.keep:
                continue
            if tree.whole:
                self._remove_tree(path)
            else:
                self._remove_own(path)
            self._remove_empty([path])

    def _remove_tree(self, path: str) -> None:
        real = self._at(path)
        if os.path.islink(real):
            if self._is_roots(real):
                # Somebody has moved it to another disk: what is behind goes, the place there stays.
                self._empty(os.path.realpath(real))
            os.unlink(real)
        else:
            shutil.rmtree(real)
        self.removed.append(path)

    @staticmethod
    def _is_roots(link: str) -> bool:
        """Whether root has put a link there: the application's user may lead one of its own anywhere."""
        root = os.geteuid()
        return os.lstat(link).st_uid == root == os.stat(os.path.dirname(link)).st_uid

    def _empty(self, real: str) -> None:
        for entry in os.scandir(real):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)

    def _remove_own(self, path: str) -> None:
        """What the application's users own; by handles, since such a user may put a link anywhere on the way."""
        owners, gone = self._numbers(), False
        real = self._at(path)
        # As with a whole tree: what root has moved to another disk is there.
        moved = os.path.islink(real) and self._is_roots(real)
        top = os.path.realpath(real) if moved else real
        for _, directories, names, handle in os.fwalk(top, topdown=False, follow_symlinks=False):
            for name in (*names, *directories):
                about = os.lstat(name, dir_fd=handle)
                if about.st_uid not in owners:
                    continue
                with contextlib.suppress(OSError):
                    if stat.S_ISDIR(about.st_mode):
                        # With somebody else's in it, it stays.
                        os.rmdir(name, dir_fd=handle)
                    else:
                        os.unlink(name, dir_fd=handle)
                    gone = True
        if moved and not os.listdir(top):
            os.unlink(real)
            gone = True
        if gone:
            self.removed.append(path)

    def _remove_accounts(self) -> None:
        users, groups, _ = self._accounts()
        for user in users:
            self._command(["userdel", user.name])
            self.removed.append(f"user {user.name}")
        for group in groups:
            # A user's own goes with it.
            if self.host.accounts.group(group.name) is not None:
                self._command(["groupdel", group.name])
                self.removed.append(f"group {group.name}")
        if users or groups or not self._users_are_kept():
            self._remove_files([belongings.sysusers(self.app)])

    def _remove_half_shared(self) -> None:
        paths: list[str] = []
        if not self.neighbours.redis:
            paths += belongings.REDIS_FILES
        if not self.neighbours.nginx:
            paths += belongings.NGINX_FILES
        there = [path for path in paths if self._exists(path)]
        self._remove_files(there)
        if not self.neighbours.nginx:
            self._remove_empty(belongings.NGINX_DIRECTORIES)
        if any(path.startswith(UNITS) for path in there):
            self._command(["systemctl", "daemon-reload"])

    def _remove_shared(self) -> None:
        packages = self._packages()
        if packages.purged:
            self._remove_welcome(packages.purged)
            self.dpkg.purge(packages.purged)
            self.removed += [f"package {name}" for name in packages.purged]
        for package, path in belongings.REDIS_MASKS.items():
            mask = self._at(path)
            masks = os.path.islink(mask) and os.readlink(mask) == "/dev/null"
            if masks and self._unmasked(package, packages):
                self._remove_files([path])
                self._command(["systemctl", "daemon-reload"])
        self._remove_files(list(belongings.SHARED_FILES))
        self._remove_empty(belongings.SHARED_DIRECTORIES)
        for path in belongings.SHARED_TREES:
            if self._exists(path):
                self._remove_tree(path)

    def _remove_welcome(self, purged: Iterable[str]) -> None:
        """The page that nginx's package leaves behind; not one that somebody has written there."""
        page, origin = (Path(self._at(path)) for path in belongings.WELCOME)
        if not any(name.startswith("nginx") for name in purged):
            return
        if page.is_file() and origin.is_file() and page.read_bytes() == origin.read_bytes():
            self._remove_files(belongings.WELCOME[:1])
            self._remove_empty(belongings.WELCOME_DIRECTORIES)

    def _unmasked(self, package: str, packages: Packages) -> bool:
        """Whether the link that keeps Debian's own server down may go: not where it would start at the next boot."""
        return package in packages.purged or not self._exists(f"/usr/bin/{package}")

    def _shared_files(self) -> list[str]:
        paths = [*belongings.SHARED_FILES]
        if not self.neighbours.redis:
            paths += belongings.REDIS_FILES
        if not self.neighbours.nginx:
            paths += belongings.NGINX_FILES
        return [path for path in paths if self._exists(path)]

    # -- what belongs to it --------------------------------------------------------------------------------

    def _units(self, patterns: Sequence[str]) -> list[str]:
        """Units on this host by patterns, but for those of other applications."""
        names = set(systemd.listed(patterns, self.host.run))
        # An instance that never started is listed nowhere else.
        for path in self._glob(f"{STATE}/inputs/*.json"):
            name = os.path.basename(path).removesuffix(".json")
            if self._matches(name, patterns):
                names.add(name)
        return sorted(name for name in names if not self._matches(name, self.neighbours.units))

    @staticmethod
    def _matches(name: str, patterns: Iterable[str]) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    def _files(self) -> list[str]:
        """Files and links of the application, units first; without the mark and the users' declaration."""
        patterns = [
            *belongings.unit_files(self.app),
            *belongings.site_files(self.places),
            *belongings.files(self.places, processes=self._had_processes()),
        ]
        return list(dict.fromkeys(path for pattern in patterns for path in self._found(pattern)))

    def _found(self, pattern: str) -> Iterator[str]:
        """Files and links by a pattern, and what a killed run has left beside their places."""
        for path in self._glob(pattern):
            if os.path.islink(self._at(path)) or not os.path.isdir(self._at(path)):
                yield path
        directory, name = os.path.split(pattern)
        for path in self._glob(f"{directory}/.*.fleet-*"):
            left = LEFT.fullmatch(os.path.basename(path))
            if left and fnmatch.fnmatchcase(left[1], name):
                yield path

    def _trees(self) -> list[tuple[belongings.Tree, str]]:
        all_of_them = self._had_processes()
        return [
            (tree, path)
            for tree in belongings.trees(self.places)
            if all_of_them or not tree.processes
            for path in self._glob(tree.path)
            if os.path.isdir(self._at(path)) and not self._matches(path, self.neighbours.paths)
        ]

    def _had_processes(self) -> bool:
        """Whether the host was ever for more than a Redis: then it has the application's users, who come first.

        Without, a directory of the application's name outside of ours is somebody else's.
        """
        users = (self.mark or {}).get("users")
        return bool(users) or self._exists(belongings.sysusers(self.app))

    def _redis_data(self) -> bool:
        path = self._at(f"{belongings.REDIS_DATA}/{self.app}-broker")
        return os.path.isdir(path) and bool(os.listdir(path))

    def _measure(self, path: str, whole: bool) -> tuple[int, list[str]]:
        """Bytes of a tree, and what in it is not the application's where that counts."""
        owners, size, foreign = self._numbers(), 0, []
        if os.path.islink(self._at(path)) and not self._is_roots(self._at(path)):
            # What is behind is not touched.
            return 0, []
        for directory, directories, names in os.walk(self._at(path)):
            for name in (*names, *directories):
                entry = os.path.join(directory, name)
                try:
                    about = os.lstat(entry)
                except FileNotFoundError:
                    # The application is at work.
                    continue
                size += about.st_blocks * 512
                inside = entry.removeprefix(self.host.base)
                if not whole and about.st_uid not in owners and not self._in_a_tree(inside):
                    foreign.append(inside)
        return size, sorted(foreign)

    def _in_a_tree(self, path: str) -> bool:
        """Whether a path is, or lies in, a directory that goes whole."""
        parts = [path, *map(str, Path(path).parents)]
        return any(
            tree.whole and any(fnmatch.fnmatchcase(part, tree.path) for part in parts)
            for tree in belongings.trees(self.places)
        )

    def _numbers(self) -> set[int]:
        """Of the application's users on this host, whoever made them."""
        own = (name for name in self._user_names() if name not in self.neighbours.users)
        found = (self.host.accounts.user(name) for name in own)
        return {account.number for account in found if account is not None}

    def _user_names(self) -> list[str]:
        user = str((self.mark or {}).get("user") or self.app)
        return [user, f"{self.app}-flower"]

    def _accounts(self) -> tuple[list[Account], list[Account], dict[str, str]]:
        """Users and groups that go, and what stays of them with the reason."""
        users: list[Account] = []
        stay: dict[str, str] = {}
        kept = self._users_are_kept()
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

    def _declared_groups(self) -> list[str]:
        """Groups that the application's own declaration has made."""
        try:
            text = Path(self._at(belongings.sysusers(self.app))).read_text()
        except OSError:
            return []
        lines = (line.split() for line in text.splitlines())
        return [words[1] for words in lines if len(words) > 1 and words[0] == "g"]

    def _users_are_kept(self) -> bool:
        """Whether something stays that belongs to them."""
        return any(
            tree.keep in self.options.keep and tree.keep in ("logs", "releases", "state")
            for tree, _ in self._trees()
        )

    def _strangers(self) -> dict[str, str]:
        """What lies in our directories and is nobody's that we know: it stays, and so does the directory."""
        ours = {
            *self._files(),
            self.places.mark,
            f"{self.places.directory}/{belongings.SETTLED}",
        }
        found: dict[str, str] = {}
        patterns = [
            *belongings.directories(self.places),
            self.places.directory,
            *(f"{UNITS}/{name}.d".replace("\\", "[\\]") for name in self._own_units()),
        ]
        inner = {path for pattern in patterns for path in self._glob(pattern)}
        for directory in sorted(inner):
            if not os.path.isdir(self._at(directory)):
                continue
            for name in sorted(os.listdir(self._at(directory))):
                path = f"{directory}/{name}"
                if path in ours or path in inner or self._in_a_tree(path):
                    continue
                if directory.endswith(".wants") and self._is_ours(name):
                    continue
                found[path] = "is not the fleet's"
        return found

    def _own_units(self) -> list[str]:
        """Names of units that may have drop-ins of a user's."""
        names = [os.path.basename(path) for path in belongings.unit_files(self.app)]
        files = [name.replace("[\\]", "\\") for name in names if name != "10-fleet.conf"]
        return list(dict.fromkeys([*files, *self._units(belongings.all_units(self.app))]))

    def _packages(self) -> Packages:
        if not self.options.packages:
            return Packages(
                kept=dict.fromkeys(self.dpkg.brought(), "fleet_remove_packages is false")
            )
        brought = self.dpkg.brought()
        if not brought:
            return Packages()
        needed = {}
        if "redis_data" in self.options.keep and self._redis_data():
            needed = dict.fromkeys(belongings.REDIS_MASKS, "its user owns the data that are kept")
        servers = (f"{name}.service" for name in belongings.REDIS_MASKS)
        own = [*belongings.all_units(self.app), "nginx.service", *servers]
        reasons = self.dpkg.reasons(
            brought,
            ours=lambda path: path in belongings.site_files(self.places),
            own_units=lambda unit: self._matches(unit, own),
            needed=needed,
        )
        return going(brought, reasons, self.dpkg.simulate)

    # -- small helpers -------------------------------------------------------------------------------------

    def _at(self, path: str) -> str:
        return f"{self.host.base}{path}"

    def _exists(self, path: str) -> bool:
        return os.path.lexists(self._at(path))

    def _glob(self, pattern: str) -> list[str]:
        found = glob.glob(self._at(pattern))
        return sorted(path.removeprefix(self.host.base) for path in found)

    def _show(self, names: Sequence[str]) -> dict[str, systemd.UnitState]:
        return systemd.show(names, self.host.run)

    def _command(self, command: Sequence[str]) -> None:
        done = self.host.run(command)
        if done.returncode != 0:
            raise SettleError(
                f"`{' '.join(command)}` failed: {done.output.strip()}. Mend that on this host and run again."
            )

    def _remove_files(self, paths: Iterable[str]) -> None:
        for path in paths:
            try:
                os.unlink(self._at(path))
            except FileNotFoundError:
                continue
            self.removed.append(path)

    def _remove_empty(self, patterns: Iterable[str]) -> None:
        """Directories without anything in them; one that somebody uses stays."""
        for pattern in patterns:
            for path in self._glob(pattern):
                real = self._at(path)
                if os.path.isdir(real) and not os.path.islink(real) and not os.listdir(real):
                    if self._packaged(path):
                        continue
                    os.rmdir(real)
                    self.removed.append(path)

    def _packaged(self, path: str) -> bool:
        """Whether an empty directory is some package's: Debian 12 has no /etc/sysusers.d, a later one may."""
        if path not in belongings.SHARED_DIRECTORIES:
            return False
        return self.host.run(["dpkg-query", "--search", path]).returncode == 0


def _ended(state: systemd.UnitState) -> bool:
    return state.active in ("inactive", "failed") and not state.job
