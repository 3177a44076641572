"""Which Debian packages a removal may take along: those that the fleet brought, and that nobody needs.

Runs on the host, as root. What the fleet brought stands in a note that each run writes when it installs something
(`scripts/packages.py`). A host whose fleet was installed before there was such a note keeps its packages.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import systemd
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.outcome import SettleError
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.footprint import STATE

NOTE = f"{STATE}/packages.json"
# Where a daemon's configuration lies that somebody may have added to, by the beginning of its packages' names.
_CONFIGURATION = {"nginx": "/etc/nginx", "redis": "/etc/redis", "valkey": "/etc/valkey"}
# Links that the packages' own scripts make.
_MADE = re.compile(r"/etc/nginx/(modules-enabled/[^/]+|sites-enabled/default)")
_ASK = ["apt-get", "--simulate", "--quiet", "--no-auto-remove"]
_REMOVED = re.compile(r"^(?:Remv|Purg) (\S+)", re.MULTILINE)


@dataclass
class Packages:
    """What becomes of the packages that the fleet brought.

    Attributes:
        purged: Those that go, with their configuration.
        kept: Those that stay, each with the reason.
    """

    purged: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


def going(
    brought: Iterable[str],
    reasons: Mapping[str, str],
    simulate: Callable[[Sequence[str]], set[str]],
) -> Packages:
    """Of the packages that were brought those that can go without taking any other along.

    Args:
        brought: Names of those that are still installed.
        reasons: Why some of them have to stay.
        simulate: Names of all packages that would go with the given ones.
    """
    found = Packages(kept=dict(reasons))
    left = [name for name in brought if name not in reasons]
    while left and simulate(left) - set(left):
        for name in left:
            others = simulate([name]) - set(left)
            if others:
                found.kept[name] = f"{', '.join(sorted(others))} needs it"
        rest = [name for name in left if name not in found.kept]
        if rest == left:
            # Together they would take another one along that none takes alone, such as one with alternatives.
            other = ", ".join(sorted(simulate(left) - set(left)))
            found.kept.update(dict.fromkeys(left, f"{other} needs one of them"))
            rest = []
        left = rest
    found.purged = left
    return found


class Dpkg:
    """Asks dpkg, apt and the processes of the host; `base` is for tests."""

    def __init__(self, run: systemd.Runner = systemd.run, base: str = "") -> None:
        self._run = run
        self._base = base

    def brought(self) -> dict[str, str]:
        """Installed packages that the note names, each with `asked` or `needed`.

        Raises:
            SettleError: The note can't be read.
        """
        path = f"{self._base}{NOTE}"
        try:
            note = json.loads(Path(path).read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise SettleError(
                f"{NOTE} can't be read ({error}): run again with -e fleet_remove_packages=false"
            ) from None
        listed = dict(note.get("installed", {}))
        now = self._installed()
        if "before" in note:
            # A run that was killed while it installed: what was asked for is its own.
            asked = set(note.get("asked", []))
            listed.update(
                {name: "asked" for name in asked & now if name not in set(note["before"])}
            )
        return {name: why for name, why in sorted(listed.items()) if name in now}

    def _installed(self) -> set[str]:
        done = self._run(["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\\n"])
        pairs = [line.split(" ", 1) for line in done.output.splitlines() if " " in line]
        return {name for status, name in pairs if status == "installed"}

    def simulate(self, names: Sequence[str]) -> set[str]:
        """All that a purge of these would take.

        Raises:
            SettleError: apt refuses; the message holds its words.
        """
        done = self._run([*_ASK, "purge", *names])
        if done.returncode != 0:
            raise SettleError(f"apt-get can't tell what a purge would take: {done.output.strip()}")
        return {name.partition(":")[0] for name in _REMOVED.findall(done.output)}

    def purge(self, names: Sequence[str]) -> None:
        """Remove packages with their configuration.

        Raises:
            SettleError: It did not come to its end.
        """
        options = ["--yes", "--quiet", "--no-auto-remove", "--option=DPkg::Lock::Timeout=300"]
        done = self._run(
            ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *options, "purge", *names]
        )
        if done.returncode != 0:
            words = "\n".join(f"  {line}" for line in done.output.strip().splitlines()[-10:])
            raise SettleError(
                f"apt-get could not remove {', '.join(names)}:\n{words}\nMend that on this host and run again."
            )

    def reasons(
        self,
        brought: Mapping[str, str],
        *,
        ours: Callable[[str], bool],
        own_units: Callable[[str], bool],
        needed: Mapping[str, str],
    ) -> dict[str, str]:
        """Why packages have to stay that no other package needs.

        Args:
            brought: As `brought` tells them.
            ours: Whether a path is the fleet's.
            own_units: Whether a unit's processes are no reason: they end with the removal.
            needed: Further reasons by package, such as data that are kept.
        """
        found = {name: why for name, why in needed.items() if name in brought}
        manual = {
            name.partition(":")[0] for name in self._run(["apt-mark", "showmanual"]).output.split()
        }
        files = {name: self._files(name) for name in brought}
        running = self._running()
        for name, mark in brought.items():
            reason = ""
            if mark == "needed" and name in manual:
                reason = "somebody has asked for it since (apt-mark)"
            reason = reason or self._configured(name, files, ours)
            reason = reason or next(
                (
                    f"{unit} runs {path}"
                    for path, unit in running
                    if path in files[name] and not own_units(unit)
                ),
                "",
            )
            if not reason and name == "nftables" and self._enabled("nftables.service"):
                reason = "nftables.service is enabled: somebody's rules are loaded by it"
            if reason:
                found.setdefault(name, reason)
        return found

    def _files(self, name: str) -> set[str]:
        return set(self._run(["dpkg-query", "--listfiles", name]).output.splitlines())

    def _enabled(self, unit: str) -> bool:
        return self._run(["systemctl", "is-enabled", unit]).output.strip() == "enabled"

    def _configured(
        self, name: str, files: Mapping[str, set[str]], ours: Callable[[str], bool]
    ) -> str:
        """Somebody's own configuration of a package, if it has any."""
        changed = self._changed(name)
        if changed:
            return f"somebody has changed {changed}"
        top = next((top for start, top in _CONFIGURATION.items() if name.startswith(start)), "")
        if not top:
            return ""
        owned: set[str] = set().union(*files.values())
        for directory, _, names in os.walk(f"{self._base}{top}"):
            for entry in sorted(names):
                path = os.path.join(directory, entry).removeprefix(self._base)
                if path not in owned and not _MADE.fullmatch(path) and not ours(path):
                    return f"{path} is somebody's own"
        return ""

    def _changed(self, name: str) -> str:
        """A configuration file of the package that is not as it came; empty where there is none."""
        done = self._run(["dpkg-query", "--show", "--showformat=${Conffiles}\\n", name])
        for line in done.output.splitlines():
            words = line.split()
            if len(words) < 2 or len(words[1]) != 32:
                continue
            try:
                content = Path(f"{self._base}{words[0]}").read_bytes()
            except OSError:
                continue
            if hashlib.md5(content, usedforsecurity=False).hexdigest() != words[1]:
                return words[0]
        return ""

    def _running(self) -> list[tuple[str, str]]:
        """Path of the program and unit of every process."""
        found = []
        for process in os.listdir(f"{self._base}/proc"):
            if not process.isdigit():
                continue
            try:
                if not at_home(process, self._base):
                    continue
                program = os.readlink(f"{self._base}/proc/{process}/exe")
                groups = Path(f"{self._base}/proc/{process}/cgroup").read_text()
            except OSError:
                continue  # it has just ended, or is the kernel's
            found.append((program.removesuffix(" (deleted)"), unit_of(groups)))
        return found


def at_home(process: str, base: str = "") -> bool:
    """Whether a process sees this host's files: one in a container has programs and users of its own.

    Raises:
        OSError: It has just ended.
    """
    try:
        return os.path.samestat(os.stat(f"{base}/proc/{process}/root"), os.stat(f"{base}/"))
    except PermissionError:
        # Root itself may be confined. Then it counts: better one thing too many that stays.
        return True


def unit_of(cgroups: str) -> str:
    """The innermost unit in the lines of /proc/…/cgroup."""
    for line in cgroups.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers in ("", "name=systemd"):
            names = [name for name in path.split("/") if name.endswith((".service", ".scope"))]
            if names:
                return names[-1]
    return "a process without a unit"
