"""The list of what an application has on a host: it names at least all that is there, at any time."""

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

from tests.support.fake_systemd import FakeSystemd

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
        """Settle what these parts want; return what changed, or would."""
        named = [(f"part{number}", parse(part)) for number, part in enumerate(parts)]
        options = ReconcileOptions(manifest=str(self.path))
        settler = HostReconciler(named, options, check=check, host=self.host)
        settler.apply_files()
        settler.plan_units()
        return settler.report.changed

    def file(self, name: str) -> dict[str, Any]:
        """A file that a role wants."""
        path = str(self.base / name)
        return {"dest": path, "content": "x\n", "owner": ME, "group": MY_GROUP}

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


def test_it_is_roots_and_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new/manifest.json"
    given = Manifest({"/a"}, {"/b"}, {"/c": "logs"}, {"d"}, {"e": "f"}, {"g"}, {"h"}, False)
    manifest.write(str(path), given)
    assert manifest.read(str(path)) == given
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["manifest.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', ""])
def test_one_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    assert manifest.read(str(path)) is None


def test_a_run_that_is_killed_has_listed_what_it_put_there(
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


def test_what_left_the_inventory_stays_listed_until_it_is_gone(ground: Ground) -> None:
    ground.reconcile({"files": [ground.file("a")], "data": [{"path": "/var/lib/shop/a"}]})
    ground.reconcile({"files": [ground.file("b")]})
    assert ground.listed.files == {str(ground.base / name) for name in ("a", "b")}
    assert ground.listed.data == {"/var/lib/shop/a": ""}
    (ground.base / "a").unlink()
    ground.reconcile({"files": [ground.file("b")]})
    assert ground.listed.files == {str(ground.base / "b")}


def test_a_host_of_an_earlier_version_is_listed_by_all_its_roles(ground: Ground) -> None:
    """Their files are there as wanted, so nothing else brings a run to reconcile them."""
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


def test_a_plan_names_it_only_if_nothing_else_is_to_do(ground: Ground) -> None:
    part = {"files": [ground.file("a")]}
    assert ground.reconcile(part, check=True) == [str(ground.base / "a")]
    assert ground.reconcile(part) == [str(ground.path), str(ground.base / "a")]
    assert ground.listed.whole
