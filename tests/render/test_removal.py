"""Roles declare everything that systemd, builds and programs create on a host, because a removal only knows that."""

from __future__ import annotations

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.desired_state import parse
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.manifest import (
    KEEP,
    Manifest,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.application import SETTLED
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.stop import STAGES, stage_of

from scripts.on_a_host.things import directories
from tests.render.fleet import Fleet, Host


def manifest(host: Host) -> Manifest:
    """Return the manifest of all parts of a host."""
    found = Manifest()
    for part in host.parts.values():
        found.note(parse(part))
    return found


def test_directories_of_systemd_and_builds_are_removed_with_their_content(any_fleet: Fleet) -> None:
    for host in any_fleet.hosts.values():
        made = [path for text in host.unit_files().values() for path, _, _ in directories(text)]
        for part in host.parts.values():
            made += [item["path"] for item in part.get("releases", [])]
        # systemd removes these itself.
        lasting = [path for path in made if not path.startswith("/run/")]
        assert lasting, host.name
        data = manifest(host).data
        app = str(host.variables["celery_app_name"])
        named = [path.replace("/%i", f"/{app}-broker") for path in lasting]
        left = [p for p in named if not any(f"{p}/".startswith(f"{top}/") for top in data)]
        assert left == [], host.name


def test_only_declared_directories_stay_with_their_content(any_fleet: Fleet) -> None:
    """A removal can't tell a directory of ours from them unless it is data as well."""
    for host in any_fleet.hosts.values():
        found = manifest(host)
        kept = [f"{path}/" for path, keep in found.data.items() if keep]
        own = found.directories - found.data.keys() - set(host.variables["celery_app_directories"])
        assert [path for path in own if path.startswith(tuple(kept))] == [], host.name


def test_data_that_may_be_kept_has_a_name_of_fleet_remove_keep(any_fleet: Fleet) -> None:
    for host in any_fleet.hosts.values():
        assert set(manifest(host).data.values()) <= {"", *KEEP}


def test_users_are_recognised_by_their_comment(any_fleet: Fleet) -> None:
    """Otherwise a user who existed before the fleet would be removed."""
    for host in any_fleet.hosts.values():
        assert all(manifest(host).users.values())


def test_every_unit_is_stopped_in_the_right_stage(any_fleet: Fleet) -> None:
    kinds = {
        "-health.timer": "watch",
        "-health.service": "watch",
        "-backup.timer": "watch",
        "-backup.service": "watch",
        "-beat.service": "beat",
        "-web.socket": "web",
        "-web.service": "web",
        "-flower.service": "flower",
    }
    for host in any_fleet.hosts.values():
        app = str(host.variables["celery_app_name"])
        for unit in manifest(host).units - {"nginx.service"}:
            expected = kinds.get(unit.removeprefix(app), "rest")
            if unit.startswith(f"{app}-worker@"):
                expected = "workers"
            if unit.startswith("redis@"):
                expected = "redis"
            assert stage_of(app, unit) == expected, unit
            assert expected in STAGES


def test_a_deploy_removes_the_record_of_an_unfinished_removal(fleet: Fleet) -> None:
    """Otherwise a later removal would give up messages that came since."""
    for host in fleet.hosts.values():
        note = f"{host.variables['celery_app_config_directory']}/{SETTLED}"
        assert note in host.parts["fleet"]["owned"]["files"], host.name
