"""The firewall of the delivered fleets: which hosts have a table, what is in it, and when its unit starts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests import systemd
from tests.render.conftest import RENDERS
from tests.render.fleet import Fleet, Host
from tests.render.units import ONCE, parse
from tests.support.networks import OWN, tool

# Highest score of `systemd-analyze security`, times ten: it runs as root, with one capability.
EXPOSURE = 50


@pytest.fixture(scope="session", params=["production", "odd"])
def closed(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Fleet:
    """Return each fleet that has a firewall."""
    return pytestconfig.stash[RENDERS][str(request.param)].result()


def table(host: Host) -> str:
    app = host.variables["celery_app_name"]
    return host.text(f"/etc/celery-fleet/{app}/firewall.nft")


def with_table(fleet: Fleet) -> list[Host]:
    return [host for host in fleet.hosts.values() if host.parts["firewall"].get("files")]


def test_hosts_with_ports_to_close_have_a_table(closed: Fleet) -> None:
    found = with_table(closed)
    assert found
    assert [host.name for host in found] == [
        host.name for host in closed.hosts.values() if "redis" in host.parts
    ]
    for host in found:
        app, variables = host.variables["celery_app_name"], host.variables
        text = table(host)
        assert f"table inet celery_fleet_{app} {{" in text
        ports = [variables["redis_broker_port"], variables["redis_results_port"]]
        if variables["celery_app_cache"]:
            ports.append(variables["celery_app_cache_port"])
        listed = ", ".join(str(port) for port in sorted(map(int, ports)))
        assert f"tcp dport {{ {listed} }} jump redis" in text
        done = subprocess.run(
            [*OWN, tool("nft"), "--check", "--file", "-"],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_only_the_fleet_is_let_in(production: Fleet) -> None:
    (host,) = with_table(production)
    # Each host has its own table; the host itself uses its loopback.
    others = ", ".join(f"192.0.2.{number}" for number in range(2, len(production.hosts) + 1))
    assert len(production.hosts) == 9
    assert f"ip saddr {{ {others} }} return" in table(host)
    assert "jump web" not in table(host)


def test_the_port_of_a_web_process_is_closed(odd: Fleet) -> None:
    (host,) = odd.hosts.values()
    text = table(host)
    assert "tcp dport { 5000 } jump web" in text
    assert "saddr" not in text.split("chain web")[1], "a fleet of one host lets nobody in"
    claim = host.text("/etc/celery-fleet/other-shop/fleet.json")
    assert '"backend": 5000' in claim
    assert "other-shop-firewall.service" in claim


def test_a_client_outside_of_the_fleet_is_let_in_to_redis(odd: Fleet) -> None:
    (host,) = odd.hosts.values()
    assert "ip saddr { 198.51.100.7 } return" in table(host).split("chain web")[0]


def test_an_unused_socket_of_the_web_process_is_removed(
    odd: Fleet, local: Fleet, flower_alone: Fleet
) -> None:
    path = "/run/other-shop-web.sock"
    (host,) = odd.hosts.values()
    assert path in host.parts["celery_producer"]["owned"]["files"]
    (host,) = flower_alone.hosts.values()
    assert path in host.parts["celery_runtime_surplus"]["owned"]["files"]
    for other in local.hosts.values():
        for part in ("celery_producer", "celery_runtime_surplus"):
            files = other.parts.get(part, {}).get("owned", {}).get("files", [])
            wanted = part == "celery_runtime_surplus" and "celery_producer" not in other.parts
            assert ("/run/flexiprice-web.sock" in files) is wanted, (other.name, part)


def test_without_a_firewall_all_of_it_is_removed(local: Fleet, odd: Fleet) -> None:
    (whole,) = odd.hosts.values()
    for host in local.hosts.values():
        wanted = host.parts["firewall"]
        assert set(wanted) == {"owned"}
        app = host.variables["celery_app_name"]
        owned = {path.replace(app, "other-shop") for path in wanted["owned"]["files"]}
        assert owned > {item["dest"] for item in whole.parts["firewall"]["files"]}
        units = {name.replace(app, "other-shop") for name in wanted["owned"]["units"]}
        assert units > {item["name"] for item in whole.parts["firewall"]["units"]}
        assert "firewall" not in host.text(f"/etc/celery-fleet/{app}/fleet.json")


def test_its_unit_starts_after_debians_and_before_the_guarded_services(closed: Fleet) -> None:
    for host in with_table(closed):
        app = host.variables["celery_app_name"]
        sections = parse(host.unit_files()[f"{app}-firewall.service"])
        unit = sections["Unit"]
        debian = ["nftables.service"]
        # It follows a restart, a reload and a start of Debian's unit, each of which flushes all tables.
        assert unit["PartOf"] == unit["ReloadPropagatedFrom"] == unit["After"] == debian
        assert sections["Install"]["WantedBy"] == ["multi-user.target nftables.service"]
        guarded = {
            f"redis@{app}-broker.service",
            f"redis@{app}-results.service",
            f"{app}-web.socket",
        }
        assert guarded | {"network-pre.target"} <= set(unit["Before"][0].split())
        assert unit["DefaultDependencies"] == ["no"]
        service = sections["Service"]
        assert service["RemainAfterExit"] == ["yes"]
        assert service["ExecStart"] == service["ExecReload"]
        assert service["ExecStart"][0].split()[-1] in host.files
        assert service["ExecStop"] == [f"-/usr/sbin/nft delete table inet celery_fleet_{app}"]
        assert host.units[f"{app}-firewall.service"]["on_change"] == "reload"


@pytest.mark.parametrize("name", ["odd", "local"])
def test_the_watch_of_an_earlier_version_is_removed(pytestconfig: pytest.Config, name: str) -> None:
    fleet = pytestconfig.stash[RENDERS][name].result()
    for host in fleet.hosts.values():
        watch = f"{host.variables['celery_app_name']}-firewall-watch"
        names = [f"{watch}.timer", f"{watch}.service"]
        wanted = host.parts["firewall"]
        assert wanted["owned"]["units"][:2] == names
        assert {f"/etc/systemd/system/{one}" for one in names} <= set(wanted["owned"]["files"])
        assert not [unit for unit in wanted.get("units", []) if unit["name"] in names]


def test_the_firewall_is_set_up_before_redis(closed: Fleet) -> None:
    for host in with_table(closed):
        names = list(host.parts)
        assert names.index("firewall") < names.index("redis")


def test_nft_checks_the_table_before_it_is_used(closed: Fleet) -> None:
    for host in with_table(closed):
        (check,) = host.parts["firewall"]["checks"]
        assert check["command"] == ["nft", "--check", "--file", *check["files"]]
        assert host.parts["firewall"]["packages"] == ["nftables"]


def test_systemd_accepts_all_of_its_units(odd: Fleet, tmp_path: Path) -> None:
    (host,) = odd.hosts.values()
    for name, text in host.unit_files().items():
        if "/" not in name:
            (tmp_path / name).write_text(text)
    names = sorted(path for path in tmp_path.iterdir() if "-firewall" in path.name)
    assert len(names) == 1
    done = systemd.analyze(
        "verify", "--man=no", "--recursive-errors=no", *(str(path) for path in names)
    )
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("template", ONCE)
def test_its_units_are_sandboxed(odd: Fleet, template: str, tmp_path: Path) -> None:
    (host,) = odd.hosts.values()
    path = tmp_path / template
    path.write_text(host.unit_files()[f"other-shop-{template}"])
    done = systemd.analyze("security", "--offline=true", f"--threshold={EXPOSURE}", str(path))
    assert done.returncode == 0, done.stdout.splitlines()[-1:]
    service = parse(path.read_text())["Service"]
    assert service["CapabilityBoundingSet"] == ["CAP_NET_ADMIN"]
    # It must come back if nft fails once, and systemd must not refuse a start after many attempts.
    assert parse(path.read_text())["Unit"]["StartLimitIntervalSec"] == ["0"]
