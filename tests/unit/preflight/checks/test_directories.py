"""Preflight's checks of declared directories that contain the fleet's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Severity,
)

from tests.unit.preflight.inventory import problems, valid

VARIABLE = "celery_app_directories"
#: Variables with the fleet's directories, each with a value below /srv/shop.
OURS = {
    "celery_app_root": "/srv/shop/fleet/app",
    "redis_config_directory": "/srv/shop/redis",
}


def declaring(directory: Path, path: str, options: Any, **more: Any) -> dict[str, Any]:
    return {**valid(directory), VARIABLE: {path: options}, **more}


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("path", ["/srv/shop", "/srv/shop/"])
def test_a_directory_that_contains_one_of_the_fleets_is_refused(
    tmp_path: Path, path: str, name: str
) -> None:
    """Its owner could put a link in the place of the fleet's directory, which root would follow."""
    (one,) = problems(declaring(tmp_path, path, {}, **{name: OURS[name]}))
    assert one.variable == f"{VARIABLE}['{path}']"
    assert f"contains {OURS[name]} ({name})" in one.message
    assert 'owner: root and mode: "0755"' in one.remedy
    assert "/srv/shop/media" in one.remedy


def test_every_parent_counts(tmp_path: Path) -> None:
    (one,) = problems(declaring(tmp_path, "/srv/shop/fleet", {}, **OURS))
    assert "contains /srv/shop/fleet/app (celery_app_root)" in one.message


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "0755"},
        {"owner": "shop", "mode": "0755"},
        {"owner": "root", "mode": "0775"},
        {"owner": "root", "group": "root", "mode": "2770"},
        {"owner": "root", "mode": "0757"},
        {"owner": "root", "mode": "1777"},
    ],
    ids=str,
)
def test_one_to_which_others_than_root_may_write_is_refused(tmp_path: Path, options: Any) -> None:
    (one,) = problems(declaring(tmp_path, "/srv/shop", options, **OURS))
    assert "contains /srv/shop/fleet/app" in one.message


@pytest.mark.parametrize(
    "options", [{"owner": "root"}, {"owner": "root", "group": "shop", "mode": "2755"}], ids=str
)
def test_one_to_which_only_root_may_write_is_accepted(tmp_path: Path, options: Any) -> None:
    assert problems(declaring(tmp_path, "/srv/shop", options, **OURS)) == []


def test_a_directory_beside_the_fleets_is_accepted(tmp_path: Path) -> None:
    assert problems(declaring(tmp_path, "/srv/shop/app", {}, **OURS)) == []


def test_a_directory_in_that_of_redis_is_refused(tmp_path: Path) -> None:
    (one,) = problems(declaring(tmp_path, "/srv/shop/redis/extra", {}, **OURS))
    assert "belongs to the fleet (redis_config_directory)" in one.message


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"owner": "root", "mode": 755}, ".mode"),
        ({"owner": "root", "mode": "rwx"}, ".mode"),
        ({"owner": "{{ no }}"}, ".owner"),
        ({"owner": "root", "mode": "{{ no }}"}, ".mode"),
        ("{{ no }}", ""),
    ],
    ids=str,
)
def test_options_that_are_refused_anyway_are_one_mistake(
    tmp_path: Path, options: Any, wrong: str
) -> None:
    found = problems(declaring(tmp_path, "/srv/shop", options, **OURS))
    assert {one.variable for one in found} == {f"{VARIABLE}['/srv/shop']{wrong}"}
    assert not [one for one in found if "contains" in one.message]


@pytest.mark.parametrize("name", ["celery_app_root", "redis_config_directory"])
@pytest.mark.parametrize("path", ["/var/lib/shop/app", "/var/lib/shop"])
def test_roots_directories_are_not_in_the_applications(
    tmp_path: Path, name: str, path: str
) -> None:
    """The user who owns the state could rename the directory and put a link in its place."""
    (one,) = problems({**valid(tmp_path), name: path})
    assert (one.variable, one.value) == (name, path)
    assert "is in /var/lib/shop (celery_app_state_directory)" in one.message


@pytest.mark.parametrize("name", ["celery_app_root", "redis_config_directory"])
def test_a_directory_that_units_can_t_see_is_not_the_fleets(tmp_path: Path, name: str) -> None:
    (one,) = problems({**valid(tmp_path), name: "/home/admin/shop"})
    assert one.variable == name
    assert "below /home, which the fleet's processes can't see" in one.message
    assert "/srv/shop" in one.remedy


def test_a_warning_says_that_processes_can_t_see_a_directory(tmp_path: Path) -> None:
    """Release commands and nginx do, so it is no error."""
    given = declaring(tmp_path, "/home/admin/static", {})
    (one, *_) = found = problems(given)
    assert {(one.variable, one.severity) for one in found} == {
        (f"{VARIABLE}['/home/admin/static']", Severity.WARNING)
    }
    assert "ProtectHome=" in one.message
    assert "/srv/shop/media" in one.remedy
    visible = {"unit_lines": {"ProtectHome": False}}
    given["celery_worker_defaults"] = {**given.get("celery_worker_defaults", {}), **visible}
    # Hosts without workers have other processes.
    left = {host for one in problems(given) for host in one.hosts}
    assert left < {host for one in found for host in one.hosts}
