"""Every unit of every host is up, starts at boot, stays up and is sandboxed."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

import pytest
from support import units
from support.inventory import Fleet
from support.units import Look
from support.waiting import wait_for
from testinfra.host import Host

SETTLED = 8.0  # seconds between two looks; a failing unit is restarted after two
WORST_SCORE = 1.3


@pytest.fixture(scope="module")
def second_look(fleet: Fleet, first_look: Look) -> Look:
    """Look again once enough time has passed."""
    time.sleep(max(0.0, first_look.moment + SETTLED - time.monotonic()))
    return Look.at(fleet)


@pytest.mark.hosts("fleet", each="units")
@pytest.mark.unit("{each}")
def test_a_unit_is_up_and_stays_up(
    host_name: str, each: str, first_look: Look, second_look: Look
) -> None:
    before, after = (look.states[host_name, each] for look in (first_look, second_look))
    wanted = {"ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}
    assert {key: after[key] for key in wanted} == wanted
    assert after.get("NRestarts", "0") == "0"
    assert after["InvocationID"] == before["InvocationID"]
    assert after.get("MainPID") == before.get("MainPID")


@pytest.mark.hosts("fleet")
def test_a_host_runs_no_other_unit_of_the_fleet(
    host: Host, variables: Mapping[str, list[str]]
) -> None:
    app = variables["celery_app_name"]
    listed = host.check_output(
        f"systemctl list-units --all --plain --no-legend '{app}*' 'redis*' 'celery*'"
    )
    found = {line.split()[0] for line in listed.splitlines() if " not-found " not in line}
    # A slice exists only while something is in it, and a unit that a timer starts only while it runs.
    others = {name for name in found if name.endswith((".slice", "-health.service"))}
    if variables["firewall_enabled"]:
        others.add(f"{app}-firewall.service")
    assert found - others == {name for name in variables["units"] if name != "nginx.service"}


@pytest.mark.hosts("fleet")
def test_services_are_sandboxed(host: Host, variables: Mapping[str, list[str]]) -> None:
    listed = host.check_output("systemd-analyze security --no-pager")
    scores = dict(re.findall(r"^\s*(\S+\.service)\s+(\d+\.\d)", listed, re.MULTILINE))
    found = {name: float(scores[name]) for name in variables["services"]}
    assert {name: score for name, score in found.items() if score > WORST_SCORE} == {}


@pytest.mark.hosts("fleet")
def test_units_only_have_directives_that_systemd_knows(
    host: Host, variables: Mapping[str, list[str]]
) -> None:
    ours = [name for name in variables["units"] if name != "nginx.service"]
    run = host.run(f"systemd-analyze verify --recursive-errors=no {' '.join(ours)}")
    assert (run.rc, run.stderr) == (0, "")


@pytest.mark.stage(1)
def test_the_target_stops_and_starts_the_whole_application(fleet: Fleet) -> None:
    hosts = sorted({*fleet.hosts("celery_workers"), *fleet.hosts("celery_beat")})
    app = fleet.of("fleet")["celery_app_name"]
    target = f"{app}.target"
    # Redis, which may be on one of these hosts, is not one of these units: results are read while the application is
    # down.
    parts = {
        name: [unit for unit in fleet.expected[name]["services"] if unit.startswith(f"{app}-")]
        for name in hosts
    }

    def active() -> set[str]:
        return {
            f"{unit} on {name}"
            for name in hosts
            for unit, found in units.states(fleet, name, parts[name]).items()
            if found["ActiveState"] not in ("inactive", "failed")
            # Redis belongs to no target, because it may serve other hosts.
            and not unit.startswith("redis@")
        }

    assert all(parts.values())
    for name in hosts:
        fleet.must(name, ["systemctl", "stop", target])
    # systemd stops the units with the target, but does not wait for them.
    wait_for("all services have stopped", 30, lambda: not active())
    for name in hosts:
        fleet.must(name, ["systemctl", "start", target])
    units.wait_until_up(fleet, 30)
