"""The configuration of needrestart, evaluated by Perl as needrestart does."""

from __future__ import annotations

import subprocess

import pytest

from tests.render.fleet import Fleet, Host
from tests.render.units import SHARED

# Evaluates a file of conf.d as needrestart.conf does, with the existing %nrconf. Then prints a line for each unit that
# the first matching expression overrides.
PROGRAM = r"""
use strict;
use warnings FATAL => 'all';
my %nrconf = (override_rc => {});
my $text = do { local $/ = \(shift @ARGV); <STDIN> };
eval $text;
die $@ if $@;
foreach my $unit (@ARGV) {
    foreach my $re (keys %{$nrconf{override_rc}}) {
        print "$unit $nrconf{override_rc}{$re}\n" if $unit =~ /$re/;
    }
}
"""


def path(host: Host) -> str:
    return f"/etc/needrestart/conf.d/celery-fleet-{host.variables['celery_app_name']}.conf"


def overridden(text: str, units: list[str]) -> list[str]:
    """Return the units that needrestart does not restart by itself."""
    done = subprocess.run(
        ["perl", "-e", PROGRAM, str(len(text.encode())), *units],
        input=text,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    found = [line.split() for line in done.stdout.splitlines()]
    assert {value for _, value in found} <= {"0"}
    return [unit for unit, _ in found]


def test_upgrades_restart_no_service_of_a_host(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        app = host.variables["celery_app_name"]
        ours = sorted(
            {
                unit
                for unit in (*host.units, *host.unit_files())
                if unit.endswith(".service") and "@." not in unit and "/" not in unit
            }
            # Units that applications share, and Debian's own, which never runs.
            - {*SHARED, "redis-server.service"}
        )
        assert any(unit.startswith(f"redis@{app}-") for unit in ours) == ("redis" in host.parts)
        ours += [
            f"{app}-worker@discounts.next.service",
            f"{app}-exec-1f2e3d4c.service",
            f"{app}-command.migrate.service",
            f"{app}-command.migrate.1f2e3d.service",
        ]
        assert overridden(host.text(path(host)), ours) == ours


@pytest.mark.parametrize(
    "unit",
    [
        "nginx.service",
        "redis-server.service",
        "ssh.service",
        "{app}.service",
        "{app}-admin.service",
        "my-{app}-beat.service",
        "{app}-other-beat.service",
        "redis@{app}2-broker.service",
        "redis@my-{app}-broker.service",
    ],
)
def test_other_units_are_left_to_needrestart(local: Fleet, unit: str) -> None:
    host = next(iter(local.hosts.values()))
    name = unit.format(app=host.variables["celery_app_name"])
    assert overridden(host.text(path(host)), [name]) == []


def test_all_users_may_read_it_and_it_is_written_before_the_units(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        assert next(iter(host.parts)) == "fleet"
        file = host.parts["fleet"]["files"][-1]
        assert (file["dest"], file.get("mode", "0644")) == (path(host), "0644")


def test_without_it_the_file_is_removed(flower_alone: Fleet) -> None:
    """Only the file is removed, because others may have files in that directory."""
    for host in flower_alone.hosts.values():
        assert path(host) not in host.files
        assert path(host) in host.parts["fleet"]["owned"]["files"]
        assert not [d for d in host.parts["fleet"]["directories"] if "needrestart" in d["path"]]
