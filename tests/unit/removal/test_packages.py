"""Which packages a removal may take along: those that the fleet brought and nobody needs, and no other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.outcome import SettleError
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.systemd import Completed
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.packages import (
    NOTE,
    Dpkg,
    going,
    unit_of,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.scripts import packages

# What each package needs.
NEEDS = {
    "redis-server": {"redis-tools"},
    "redis-tools": {"libjemalloc2", "liblzf1"},
    "nginx-light": {"nginx-common"},
    "mail-server": {"liblzf1"},
}


def simulation(there: Mapping[str, set[str]]) -> Callable[[Sequence[str]], set[str]]:
    """What apt would remove: the given, and all that needs one of them."""

    def simulate(names: Sequence[str]) -> set[str]:
        found = set(names)
        while more := {name for name, needs in there.items() if needs & found} - found:
            found |= more
        return found

    return simulate


def without(*names: str) -> dict[str, set[str]]:
    return {name: needs for name, needs in NEEDS.items() if name not in names}


BROUGHT = ["libjemalloc2", "liblzf1", "redis-server", "redis-tools"]


def test_all_that_came_goes_together() -> None:
    assert going(BROUGHT, {}, simulation(without("mail-server"))).purged == BROUGHT


def test_what_somebody_elses_package_needs_stays_and_only_that() -> None:
    found = going(BROUGHT, {}, simulation(NEEDS))
    assert found.purged == ["libjemalloc2", "redis-server", "redis-tools"]
    assert found.kept == {"liblzf1": "mail-server needs it"}


def test_what_one_that_stays_needs_stays_as_well() -> None:
    found = going(
        [*BROUGHT, "nginx-light"], {"redis-tools": "asked for"}, simulation(without("mail-server"))
    )
    assert found.purged == ["redis-server", "nginx-light"]
    assert found.kept == {
        "redis-tools": "asked for",
        "libjemalloc2": "redis-tools needs it",
        "liblzf1": "redis-tools needs it",
    }


def test_a_package_that_needs_either_of_two_keeps_both() -> None:
    def either(names: Sequence[str]) -> set[str]:
        return {*names, "mail-server"} if {"a", "b"} <= set(names) else set(names)

    found = going(["a", "b"], {}, either)
    assert found.purged == []
    assert found.kept == dict.fromkeys(("a", "b"), "mail-server needs one of them")


# -- on a host ------------------------------------------------------------------------------------------------


class Debian:
    """dpkg and apt as far as they are asked; nothing else on the host."""

    def __init__(self, base: Path) -> None:
        self.base = base
        (base / "proc").mkdir()
        self.installed = ["nginx-light", "nftables", "libx"]
        self.answers: dict[str, str] = {}
        self.commands: list[str] = []
        self.refused = ""

    def __call__(self, command: Sequence[str]) -> Completed:
        text = " ".join(command)
        self.commands.append(text)
        if self.refused and text.startswith(self.refused):
            return Completed(100, "E: Could not get lock")
        if text.startswith("dpkg-query --show --showformat=${db"):
            return Completed(0, "".join(f"installed {name}\n" for name in self.installed))
        for beginning, answer in self.answers.items():
            if text.startswith(beginning):
                return Completed(0, answer)
        return Completed(0, "")

    @property
    def dpkg(self) -> Dpkg:
        return Dpkg(self, str(self.base))

    def note(self, **note: Any) -> None:
        path = self.base / NOTE.lstrip("/")
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"format": 1, **note}))

    def write(self, path: str, text: str = "x") -> Path:
        place = self.base / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place

    def reasons(self, brought: dict[str, str], **given: Any) -> dict[str, str]:
        options = {
            "ours": lambda path: path == "/etc/nginx/conf.d/shop-web.conf",
            "own_units": lambda unit: unit == "nginx.service",
            "needed": {},
        }
        return self.dpkg.reasons(brought, **{**options, **given})


@pytest.fixture
def debian(tmp_path: Path) -> Debian:
    return Debian(tmp_path)


def test_without_a_note_nothing_was_brought(debian: Debian) -> None:
    assert debian.dpkg.brought() == {}


def test_what_is_gone_since_is_not_brought(debian: Debian) -> None:
    debian.note(installed={"nginx-light": "asked", "redis-server": "asked"})
    assert debian.dpkg.brought() == {"nginx-light": "asked"}


def test_of_a_run_that_was_killed_only_what_it_asked_for_counts(debian: Debian) -> None:
    debian.note(installed={}, before=["nftables"], asked=["nginx-light", "nftables"])
    assert debian.dpkg.brought() == {"nginx-light": "asked"}


def test_a_note_that_cannot_be_read_removes_nothing(debian: Debian) -> None:
    debian.write(NOTE, "{")
    with pytest.raises(SettleError, match="fleet_remove_packages=false"):
        debian.dpkg.brought()


def test_nothing_speaks_for_a_package_that_nobody_uses(debian: Debian) -> None:
    for path in ("conf.d/shop-web.conf", "sites-enabled/default", "modules-enabled/50-x.conf"):
        debian.write(f"/etc/nginx/{path}")
    debian.answers["dpkg-query --listfiles nginx-light"] = "/usr/sbin/nginx\n"
    assert debian.reasons({"nginx-light": "asked", "libx": "needed", "nftables": "asked"}) == {}


def test_somebodys_own_site_keeps_nginx(debian: Debian) -> None:
    debian.write("/etc/nginx/sites-available/blog")
    found = debian.reasons({"nginx-light": "asked"})
    assert found == {"nginx-light": "/etc/nginx/sites-available/blog is somebody's own"}


def test_a_configuration_that_was_changed_keeps_its_package(debian: Debian) -> None:
    text = debian.write("/etc/nftables.conf", "as it came").read_bytes()
    known = hashlib.md5(text, usedforsecurity=False).hexdigest()
    debian.answers["dpkg-query --show --showformat=${Conffiles}"] = f" /etc/nftables.conf {known}\n"
    assert debian.reasons({"nftables": "asked"}) == {}
    debian.write("/etc/nftables.conf", "own rules")
    assert debian.reasons({"nftables": "asked"}) == {
        "nftables": "somebody has changed /etc/nftables.conf"
    }


def test_rules_that_are_loaded_at_boot_keep_nftables(debian: Debian) -> None:
    debian.answers["systemctl is-enabled nftables.service"] = "enabled\n"
    assert "nftables" in debian.reasons({"nftables": "asked"})


def test_what_came_along_and_was_asked_for_since_stays(debian: Debian) -> None:
    debian.answers["apt-mark showmanual"] = "libx:amd64\nnginx-light\n"
    found = debian.reasons({"libx": "needed", "nginx-light": "asked"})
    assert found == {"libx": "somebody has asked for it since (apt-mark)"}


@pytest.mark.parametrize(("unit", "stays"), [("nginx.service", False), ("own.service", True)])
def test_a_program_that_somebody_runs_stays(debian: Debian, unit: str, stays: bool) -> None:
    debian.answers["dpkg-query --listfiles nginx-light"] = "/usr/sbin/nginx\n"
    debian.write("/proc/12/cgroup", f"1:name=systemd:/system.slice/{unit}\n")
    (debian.base / "proc/12/exe").symlink_to("/usr/sbin/nginx")
    (debian.base / "proc/12/root").symlink_to(debian.base)
    found = debian.reasons({"nginx-light": "asked"})
    assert found == ({"nginx-light": "own.service runs /usr/sbin/nginx"} if stays else {})


def test_a_container_runs_a_program_of_its_own(debian: Debian, tmp_path: Path) -> None:
    debian.answers["dpkg-query --listfiles nginx-light"] = "/usr/sbin/nginx\n"
    debian.write("/proc/12/cgroup", "1:name=systemd:/docker/1\n")
    (debian.base / "proc/12/exe").symlink_to("/usr/sbin/nginx")
    (debian.base / "proc/12/root").symlink_to(tmp_path.parent)
    assert debian.reasons({"nginx-light": "asked"}) == {}


def test_what_is_kept_speaks_for_its_package(debian: Debian) -> None:
    found = debian.reasons({"libx": "asked"}, needed={"libx": "data", "redis-server": "data"})
    assert found == {"libx": "data"}


def test_apts_own_words_are_read(debian: Debian) -> None:
    answer = "NOTE: This is only a simulation!\nPurg nginx-light [1.22]\nRemv mail:amd64 [2]\n"
    debian.answers["apt-get --simulate"] = answer
    assert debian.dpkg.simulate(["nginx-light"]) == {"nginx-light", "mail"}


@pytest.mark.parametrize("step", ["simulate", "purge"])
def test_an_apt_that_refuses_is_told_in_its_words(debian: Debian, step: str) -> None:
    debian.refused = "apt-get" if step == "simulate" else "env DEBIAN_FRONTEND"
    with pytest.raises(SettleError, match="Could not get lock"):
        getattr(debian.dpkg, step)(["nginx-light"])


def test_the_innermost_unit_counts() -> None:
    assert unit_of("0::/system.slice/a.service/b.scope\n") == "b.scope"
    assert unit_of("2:cpu:/x.service\n") == "a process without a unit"


# -- the note -------------------------------------------------------------------------------------------------


def test_what_came_in_between_is_noted_by_who_wanted_it() -> None:
    note: dict[str, Any] = {"installed": {"old": "asked"}, "before": ["a"], "asked": ["nginx"]}
    new = packages.folded(note, ["a", "nginx", "nginx-common", "mine"], {"nginx-common"})
    assert new == {"nginx": "asked", "nginx-common": "needed"}
    assert note == {"installed": {"old": "asked", **new}}


def test_without_a_beginning_nothing_is_noted() -> None:
    note: dict[str, Any] = {"installed": {}, "asked": ["nginx"]}
    assert packages.folded(note, ["nginx"], set()) == {}


def test_the_note_is_written_whole_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "state/packages.json"
    assert packages.read(path) == {"format": 1, "installed": {}}
    packages.write(path, {"format": 1, "installed": {"nginx": "asked"}})
    assert packages.read(path) == {"format": 1, "installed": {"nginx": "asked"}}
    assert [one.name for one in path.parent.iterdir()] == ["packages.json"]


def test_only_installed_packages_count(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text(
        "Package: a\nStatus: install ok installed\n\nPackage: b\nStatus: deinstall ok config-files\n"
    )
    assert packages.installed(str(status)) == ["a"]
