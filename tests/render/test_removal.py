"""Roles name in their data all that systemd, builds and programs make on a host: a removal goes by nothing else."""

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
    """What a host's parts list together."""
    found = Manifest()
    for part in host.parts.values():
        found.note(parse(part))
    return found


def test_what_systemd_and_builds_make_goes_with_what_is_in_it(any_fleet: Fleet) -> None:
    for host in any_fleet.hosts.values():
        made = [path for text in host.unit_files().values() for path, _, _ in directories(text)]
        for part in host.parts.values():
            made += [item["path"] for item in part.get("releases", [])]
        # systemd takes these away itself.
        lasting = [path for path in made if not path.startswith("/run/")]
        assert lasting, host.name
        data = manifest(host).data
        app = str(host.variables["celery_app_name"])
        named = [path.replace("/%i", f"/{app}-broker") for path in lasting]
        left = [p for p in named if not any(f"{p}/".startswith(f"{top}/") for top in data)]
        assert left == [], host.name


def test_what_may_be_kept_has_a_name_of_fleet_remove_keep(any_fleet: Fleet) -> None:
    for host in any_fleet.hosts.values():
        assert set(manifest(host).data.values()) <= {"", *KEEP}


def test_users_are_known_by_their_comment(any_fleet: Fleet) -> None:
    """Without one, a user who was there before the fleet would go."""
    for host in any_fleet.hosts.values():
        assert all(manifest(host).users.values())


def test_every_unit_is_stopped_in_the_stage_of_its_kind(any_fleet: Fleet) -> None:
    kinds = {
        "-health.timer": "watch",
        "-health.service": "watch",
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


def test_a_deploy_forgets_what_a_removal_had_settled(fleet: Fleet) -> None:
    """Else a later removal would take messages for given up that came since."""
    for host in fleet.hosts.values():
        note = f"{host.variables['celery_app_config_directory']}/{SETTLED}"
        assert note in host.parts["fleet"]["owned"]["files"], host.name
