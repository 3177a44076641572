"""The health check: its units as systemd sees them, and what each host has to check."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests import systemd
from tests.render.fleet import Fleet, Host
from tests.render.units import parse

#: Highest score of `systemd-analyze security`, times ten: it runs as root, and changes to the application's user.
EXPOSURE = 40
RELEASE = {"celery_workers", "celery_beat", "celery_producers"}


def unit(host: Host, kind: str) -> str:
    return f"{host.variables['celery_app_name']}-health.{kind}"


def setup(host: Host) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        host.text(f"{host.variables['celery_app_config_directory']}/health.json")
    )
    return document


def groups(host: Host) -> set[str]:
    """Return the groups that determine what the host runs."""
    path = f"{host.variables['celery_app_config_directory']}/cli.json"
    return set(json.loads(host.text(path))["hosts"][host.name])


def test_every_host_has_a_timer_and_the_service_that_it_starts(
    fleet: Fleet, tmp_path: Path
) -> None:
    for host in fleet.hosts.values():
        app = host.variables["celery_app_name"]
        assert unit(host, "timer") in host.units
        assert host.units[unit(host, "timer")]["on_change"] == "nothing"
        # The service ends by itself, and only the timer starts it.
        assert unit(host, "service") not in host.units
        directory = tmp_path / host.name
        directory.mkdir()
        for kind in ("service", "timer"):
            text = host.unit_files()[unit(host, kind)]
            text = re.sub(
                r"^(Exec\w+=[-+]*)/usr/bin/python3 ", r"\1/bin/sh ", text, flags=re.MULTILINE
            )
            (directory / unit(host, kind)).write_text(text)
        (slice_unit,) = [name for name in host.unit_files() if name.endswith(".slice")]
        (directory / slice_unit).write_text(host.unit_files()[slice_unit])
        paths = [str(directory / unit(host, kind)) for kind in ("service", "timer")]
        done = systemd.analyze("verify", "--man=no", "--recursive-errors=no", *paths)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
        service = parse(host.unit_files()[unit(host, "service")])["Service"]
        assert service["Slice"] == [slice_unit]
        script = f"{host.variables['celery_app_runtime']}/celery_fleet/health/program.py"
        assert script in host.files, f"no part installs the runtime on {host.name}"
        (command,) = service["ExecStart"]
        assert command.endswith(f" {script} check {app}")
        (command,) = service["ExecStopPost"]
        assert command.startswith("-+")
        assert command.endswith(f" {script} tell {app}")


def test_a_check_is_limited_and_sandboxed(local: Fleet, tmp_path: Path) -> None:
    host = local.hosts["worker1"]
    text = host.unit_files()[unit(host, "service")]
    service = parse(text)["Service"]
    assert service["Type"] == ["oneshot"]
    assert parse(text)["Unit"]["StartLimitIntervalSec"] == ["0"]
    assert service["TimeoutStartSec"] == ["60s"]
    # The threshold below leaves room for all capabilities of root.
    allowed = "CAP_DAC_READ_SEARCH CAP_SETUID CAP_SETGID CAP_KILL"
    assert service["CapabilityBoundingSet"] == [allowed]
    path = tmp_path / unit(host, "service")
    path.write_text(text)
    done = systemd.analyze("security", "--offline=true", f"--threshold={EXPOSURE}", str(path))
    assert done.returncode == 0, f"{done.stdout.splitlines()[-1:]}{done.stderr}"


def test_the_timer_keeps_the_interval(local: Fleet) -> None:
    host = local.hosts["redis1"]
    timer = parse(host.unit_files()[unit(host, "timer")])["Timer"]
    assert timer["OnUnitActiveSec"] == [f"{host.variables['celery_health_interval']}s"] == ["300s"]
    assert timer["RandomizedDelaySec"] == ["30s"]
    assert host.units[unit(host, "timer")]["name"] == unit(host, "timer")


def test_each_host_checks_what_it_runs(fleet: Fleet) -> None:
    lookouts = set()
    for host in fleet.hosts.values():
        found, member = setup(host), groups(host)
        release = bool(member & RELEASE)
        assert {"redis", "disk", "memory", "cpu", "certificates", "logs"} <= set(found["checks"])
        assert ("database" in found["checks"]) is release
        assert ("beat" in found["checks"]) is ("celery_beat" in member)
        assert (found["beat"] is not None) is ("celery_beat" in member)
        assert ("queues" in found["checks"]) is found["fleet"]
        if "workers" in found["checks"]:
            assert release
        else:
            assert not member & {"celery_workers", "celery_beat"}
        if found["fleet"]:
            lookouts.add(host.name)
            # How it checks the fleet.
            path = f"{host.variables['celery_app_config_directory']}/credentials/operator.json"
            assert path in host.files
        for path in found["certificates"]:
            assert path in host.files
    every = {host.name: groups(host) for host in fleet.hosts.values()}
    redis = next(name for name, member in every.items() if "redis" in member)
    beat = next(name for name, member in every.items() if "celery_beat" in member)
    assert lookouts == {redis, beat}


def test_checks_follow_the_inventory(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        known = json.loads(host.text(f"{host.variables['celery_app_config_directory']}/cli.json"))
        found = setup(host)
        assert set(found["workers"]) == set(known["workers"])
        assert found["queues"] == known["queues"]
        others = [name for name in known["units"] if not re.search(r"-worker@|-beat\.", name)]
        assert found["units"] == others
        assert ("units" in found["checks"]) is bool(others)


def test_only_root_reads_what_is_checked(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        item = host.files[f"{host.variables['celery_app_config_directory']}/health.json"]
        # The command for changes of state may contain a secret.
        assert (item["mode"], item["secret"]) == ("0600", True)
        for secret in fleet.secrets.values():
            assert secret not in item["content"]


@pytest.mark.parametrize("template", ["worker", "beat", "web"])
def test_every_process_of_the_application_knows_where_the_result_is(
    fleet: Fleet, template: str
) -> None:
    seen = 0
    for host in fleet.hosts.values():
        directory = host.variables["celery_app_config_directory"]
        result = f"/var/lib/celery-fleet/health/{host.variables['celery_app_name']}.json"
        for path in host.files:
            if re.fullmatch(rf"{re.escape(directory)}/{template}(-.*)?\.env", path):
                seen += 1
                assert f'CELERY_FLEET_HEALTH="{result}"\n' in host.text(path)
    assert seen


def test_only_a_host_with_a_site_watches_its_certificate(outside: Fleet) -> None:
    seen = set()
    for host in outside.hosts.values():
        path = setup(host)["site_certificate"]
        service = parse(host.unit_files()[unit(host, "service")])["Service"]
        # Such a certificate may be in root's home.
        assert service["ProtectHome"] == ["read-only" if path else "yes"]
        assert bool(path) is ("celery_producers" in groups(host))
        exporter = host.text(f"{host.variables['celery_app_config_directory']}/exporter.json")
        assert json.loads(exporter)["site_certificate"] == path
        seen.add(path)
    assert seen == {"", "/etc/letsencrypt/live/shop.example.org/fullchain.pem"}


def test_without_health_checks_nothing_of_them_is_left(flower_alone: Fleet) -> None:
    (host,) = flower_alone.hosts.values()
    assert "celery_health" in host.parts
    assert host.parts["celery_health"].get("units", []) == []
    assert host.parts["celery_health"].get("files", []) == []
    owned = host.parts["celery_health"]["owned"]
    assert owned["units"] == ["other-shop-health.timer", "other-shop-health.service"]
    assert set(owned["files"]) == {
        "/etc/systemd/system/other-shop-health.timer",
        "/etc/systemd/system/other-shop-health.service",
        "/etc/celery-fleet/other-shop/health.json",
        "/var/lib/celery-fleet/health/other-shop.json",
        "/run/celery-fleet/other-shop.health.json",
    }
