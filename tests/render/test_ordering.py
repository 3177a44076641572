"""In which order units start at a boot and stop at a shutdown."""

from __future__ import annotations

import pytest

from tests.render.fleet import Fleet
from tests.render.units import SERVICES, parse, services, whole

BY_BROKER = ("beat.service", "worker@.service")


@pytest.mark.parametrize("template", BY_BROKER)
def test_at_a_shutdown_the_servers_of_its_host_stop_after_it(fleet: Fleet, template: str) -> None:
    for host, unit in services(fleet, template):
        target = f"{host.variables['celery_app_name']}-servers.target"
        assert target in parse(whole(host, unit))["Unit"]["After"]
        # systemd only stops what it has started.
        assert host.units[target].get("enabled", True)
        sections = parse(host.unit_files()[target])
        assert sections["Install"]["WantedBy"] == ["multi-user.target"]
        servers = {
            name
            for name in host.units
            if name.startswith("redis@") or name.endswith("-sentinel.service")
        }
        assert servers | {"postgresql.service"} <= set(sections["Unit"]["After"][0].split())


@pytest.mark.parametrize("template", SERVICES)
def test_a_server_starts_again_while_a_worker_of_its_host_drains(
    fleet: Fleet, template: str
) -> None:
    """systemd stops a unit before it starts another one that is ordered with it, in either direction."""
    for host, unit in services(fleet, template):
        words = parse(whole(host, unit))["Unit"]
        ordered = {
            name for key in ("After", "Before") for line in words[key] for name in line.split()
        }
        assert not [name for name in ordered if name.startswith(("redis@", "postgresql"))], unit
        assert not [name for name in ordered if name.endswith("-sentinel.service")], unit
