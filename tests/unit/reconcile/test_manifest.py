"""The manifest of what an application has on a host always lists at least everything that is there."""

from __future__ import annotations

import getpass
import grp
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import manifest
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.desired_state import parse
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.files import Files
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.host import (
    Host,
    HostPaths,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.manifest import Manifest
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.reconciler import (
    HostReconciler,
    ReconcileOptions,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.report import (
    ReconcileError,
)

from tests.support.fake_systemd import FakeSystemd

UNIT = "# Written by Celery Fleet.\n[Service]\n"
ME = getpass.getuser()
MY_GROUP = grp.getgrgid(os.getgid()).gr_name


class Ground:
    """A host below a directory, with the manifest of one application."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.path = base / "etc/shop/manifest.json"
        places = HostPaths(f"{base}/units/", f"{base}/x", f"{base}/k", f"{base}/l", f"{base}/r")
        self.host = Host(run=FakeSystemd(), paths=places)

    def reconcile(self, *parts: dict[str, Any], check: bool = False) -> list[str]:
        """Reconcile these parts; return what changed, or would change."""
        named = [(f"part{number}", parse(part)) for number, part in enumerate(parts)]
        options = ReconcileOptions(manifest=str(self.path))
        made = HostReconciler(named, options, check=check, host=self.host)
        made.apply_files()
        made.plan_units()
        return made.report.changed

    def file(self, name: str, content: str = "x\n") -> dict[str, Any]:
        """Return a file of the desired state."""
        path = str(self.base / name)
        return {"dest": path, "content": content, "owner": ME, "group": MY_GROUP}

    @property
    def listed(self) -> Manifest:
        found = manifest.read(str(self.path))
        assert found is not None
        return found


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


def test_everything_that_a_role_wants_is_listed() -> None:
    sysusers = 'g shop-proxy - -\nu shop - "shop Celery" /var/lib/shop\nm www-data shop-proxy\n'
    wanted = parse(
        {
            "sysusers": [{"dest": "/etc/sysusers.d/shop.conf", "content": sysusers}],
            "directories": [{"path": "/opt/shop"}],
            "files": [
                {"dest": "/etc/systemd/system/shop-health.service", "content": ""},
                {"dest": "/etc/systemd/system/shop-worker@.service", "content": ""},
                {"dest": "/etc/systemd/system/shop.slice", "content": ""},
            ],
            "links": [{"path": "/opt/shop/current", "target": "releases/1"}],
            "units": [{"name": "shop-worker@a.service"}, {"name": "nginx.service"}],
            "packages": ["nginx-light"],
            "data": [
                {"path": "/var/log/shop", "keep": "logs"},
                {"path": "/var/log/celery-fleet", "whole": False},
            ],
        }
    )
    found = Manifest()
    assert found.note(wanted)
    assert not found.note(wanted)
    units = "/etc/systemd/system"
    assert found == Manifest(
        files={
            "/etc/sysusers.d/shop.conf",
            "/opt/shop/current",
            *(f"{units}/{name}" for name in ("shop-health.service", "shop-worker@.service")),
            f"{units}/shop.slice",
        },
        directories={"/etc/sysusers.d", "/opt/shop", "/var/log/celery-fleet"},
        data={"/var/log/shop": "logs"},
        units={"shop-health.service", "shop.slice", "shop-worker@a.service", "nginx.service"},
        users={"shop": "shop Celery"},
        groups={"shop", "shop-proxy"},
        packages={"nginx-light"},
    )


def test_only_root_may_read_it_and_it_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "new/manifest.json"
    given = Manifest({"/a"}, {"/b"}, {"/c": "logs"}, {"d"}, {"e": "f"}, {"g"}, {"h"}, False)
    manifest.write(str(path), given)
    assert manifest.read(str(path)) == given
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["manifest.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', ""])
def test_a_malformed_manifest_counts_as_missing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    assert manifest.read(str(path)) is None


def test_a_run_that_is_killed_has_listed_what_it_wrote(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Files, "_apply_link", killed)
    link = {"path": str(ground.base / "link"), "target": "a"}
    with pytest.raises(KeyboardInterrupt):
        ground.reconcile({"files": [ground.file("a")], "links": [link]})
    assert (ground.base / "a").exists()
    assert ground.listed.files == {str(ground.base / "a"), link["path"]}


def test_files_that_left_the_inventory_stay_listed_until_they_are_removed(ground: Ground) -> None:
    ground.reconcile({"files": [ground.file("a")], "data": [{"path": "/var/lib/shop/a"}]})
    ground.reconcile({"files": [ground.file("b")]})
    assert ground.listed.files == {str(ground.base / name) for name in ("a", "b")}
    assert ground.listed.data == {"/var/lib/shop/a": ""}
    (ground.base / "a").unlink()
    ground.reconcile({"files": [ground.file("b")]})
    assert ground.listed.files == {str(ground.base / "b")}


def test_all_roles_list_the_files_of_a_host_of_an_earlier_version(ground: Ground) -> None:
    """Their files are as desired, so there is no other reason to reconcile them."""
    ground.path.parent.mkdir(parents=True)
    (ground.path.parent / "fleet.json").touch()
    one, two = {"files": [ground.file("a")]}, {"files": [ground.file("b")]}
    for name in ("a", "b"):
        (ground.base / name).write_text("x\n")
        (ground.base / name).chmod(0o644)
    assert ground.reconcile(one, two, check=True) == [str(ground.path)] * 2
    assert not ground.path.exists()
    assert ground.reconcile(one) == [str(ground.path)]
    assert ground.reconcile(two) == [str(ground.path)]
    assert ground.reconcile(one, two, check=True) == []
    assert ground.reconcile(one) == ground.reconcile(two) == []
    assert not ground.listed.whole


def test_a_plan_only_names_the_manifest_if_nothing_else_changes(ground: Ground) -> None:
    part = {"files": [ground.file("a")]}
    assert ground.reconcile(part, check=True) == [str(ground.base / "a")]
    assert ground.reconcile(part) == [str(ground.path), str(ground.base / "a")]
    assert ground.listed.whole


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("link", [True, False])
def test_a_file_that_no_run_has_written_is_not_replaced(
    ground: Ground, check: bool, link: bool
) -> None:
    """If the run is repeated, too; otherwise the first one would have listed the file as ours."""
    path, elsewhere = ground.base / "units/shop-web.service", ground.base / "elsewhere"
    path.parent.mkdir()
    elsewhere.write_text("[Service]\nExecStart=/usr/bin/gunicorn\n")
    if link:
        path.symlink_to(elsewhere)
    else:
        path.write_bytes(elsewhere.read_bytes())
    wanted = {"files": [ground.file("other"), ground.file("units/shop-web.service", UNIT)]}
    for _ in range(2):
        with pytest.raises(ReconcileError, match=r"shop-web\.service exists, and Celery Fleet has"):
            ground.reconcile(wanted, check=check)
    assert path.read_bytes() == elsewhere.read_bytes()
    assert not (ground.base / "other").exists()
    assert not ground.path.exists()
    path.unlink()
    ground.reconcile(wanted)
    # Once it is ours, a run repairs it.
    path.write_text("")
    ground.reconcile(wanted)
    assert path.read_text() == UNIT


def test_a_file_of_an_earlier_version_is_replaced(ground: Ground) -> None:
    """It kept no list, but said in each file who wrote it."""
    path = ground.base / "shop-web.service"
    path.write_text(UNIT)
    ground.reconcile({"files": [ground.file(path.name, f"{UNIT}Nice=1\n")]})
    assert path.read_text() == f"{UNIT}Nice=1\n"


@pytest.mark.parametrize("listed", [True, False])
def test_an_unwanted_file_without_our_words_goes_only_if_it_is_listed(
    ground: Ground, listed: bool
) -> None:
    path = ground.base / "units/shop-web.service"
    path.parent.mkdir()
    if listed:
        ground.reconcile({"files": [ground.file("units/shop-web.service", UNIT)]})
    path.write_text("[Service]\n")
    wanted = {"owned": {"files": [str(path)]}}
    named = [("part", parse(wanted))]
    made = HostReconciler(named, ReconcileOptions(manifest=str(ground.path)), host=ground.host)
    made.apply_files()
    made.plan_units()
    made.apply_units()
    assert path.exists() != listed
