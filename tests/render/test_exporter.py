"""The exporter's units as systemd sees them, what it has to collect, and who can reach it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests import systemd
from tests.render.fleet import Fleet, Host
from tests.render.units import parse

pytestmark = pytest.mark.slow

#: Highest score of `systemd-analyze security`, times ten.
EXPOSURE = 20


def unit(host: Host, kind: str) -> str:
    return f"{host.variables['celery_app_name']}-exporter.{kind}"


def setup(host: Host) -> dict[str, Any]:
    path = f"{host.variables['celery_app_config_directory']}/exporter.json"
    document: dict[str, Any] = json.loads(host.text(path))
    return document


def sections(host: Host, kind: str) -> dict[str, dict[str, list[str]]]:
    return parse(host.unit_files()[unit(host, kind)])


def test_only_nginx_reaches_the_socket(odd: Fleet) -> None:
    (host,) = odd.hosts.values()
    socket = sections(host, "socket")["Socket"]
    assert socket["ListenStream"] == ["/run/other-shop-exporter.sock"]
    assert (socket["SocketGroup"], socket["SocketMode"]) == (["www-data"], ["0660"])
    site = host.text("/etc/nginx/conf.d/other-shop-metrics.conf")
    assert "listen 9808 ssl;" in site
    assert "proxy_pass http://unix:/run/other-shop-exporter.sock:;" in site
    # Each location requires the password.
    locations = re.findall(r"^\s*location (.*) \{", site, re.MULTILINE)
    exporters = ["node", "redis-broker", "redis-results", "redis-cache", "flower", "postgres"]
    assert locations == ["^~ /", *(f"= /{name}" for name in exporters)]
    assert site.count("auth_basic_user_file ") == len(locations)
    assert "/etc/celery-fleet/other-shop/credentials-nginx/metrics.htpasswd" in host.files


def test_its_site_passes_other_exporters_on_without_the_password(odd: Fleet) -> None:
    (host,) = odd.hosts.values()
    site = host.text("/etc/nginx/conf.d/other-shop-metrics.conf")
    redis = f"http://127.0.0.1:9121/scrape?target=rediss://{host.name}"
    pattern = r'location = /(\S+) {[^}]*}[^}]*proxy_pass (\S+);[^}]*Authorization "";'
    assert dict(re.findall(pattern, site)) == {
        "node": "http://127.0.0.1:9100/metrics",
        "redis-broker": f"{redis}:6379",
        "redis-results": f"{redis}:6380",
        "redis-cache": f"{redis}:6381",
        "flower": "http://unix:/run/other-shop-flower/flower.sock:/tools/flower/metrics",
        "postgres": "http://127.0.0.1:9187/metrics",
    }


def test_for_an_agent_on_the_host_there_is_no_site(outside: Fleet) -> None:
    for host in outside.hosts.values():
        assert sections(host, "socket")["Socket"]["ListenStream"] == ["127.0.0.1:9808"]
        assert "/etc/nginx/conf.d/flexiprice-metrics.conf" not in host.files
        owned = host.parts["celery_exporter"]["owned"]["files"]
        assert "/etc/nginx/conf.d/flexiprice-metrics.conf" in owned


def test_one_host_asks_redis(odd: Fleet, outside: Fleet) -> None:
    (host,) = odd.hosts.values()
    assert setup(host)["exporter"] == {
        "interval": 15,
        "asks_redis": True,
        "state": "/var/lib/other-shop",
    }
    asking = [host.name for host in outside.hosts.values() if setup(host)["exporter"]["asks_redis"]]
    assert asking == ["control1"]


def test_a_worker_may_start_for_as_long_as_the_inventory_allows(odd: Fleet) -> None:
    (host,) = odd.hosts.values()
    assert setup(host)["thresholds"]["starting_seconds"] == {"warning": 0, "bad": 240}


def test_the_exporter_logs_in_as_its_own_user(odd: Fleet) -> None:
    (host,) = odd.hosts.values()
    login = host.files["/etc/celery-fleet/other-shop/credentials/exporter.json"]
    assert (login["mode"], login["secret"]) == ("0600", True)
    url = json.loads(login["content"])["celery"]["broker_url"]
    assert url.startswith("rediss://exporter:not-a-real-one-of-exporter@")


def test_the_exporter_is_sandboxed(odd: Fleet, tmp_path: Path) -> None:
    (host,) = odd.hosts.values()
    service = sections(host, "service")["Service"]
    assert service["User"] == ["other-shop-exporter"]
    assert service["SupplementaryGroups"] == ["other-shop"]
    # It must not stop if another process of the fleet fails.
    assert "PartOf" not in sections(host, "service")["Unit"]
    # While the service runs, its socket can't start again with another address.
    for word in ("Requires", "After"):
        assert unit(host, "socket") in sections(host, "service")["Unit"][word]
    for kind in ("service", "socket"):
        (tmp_path / unit(host, kind)).write_text(host.unit_files()[unit(host, kind)])
    path = tmp_path / unit(host, "service")
    done = systemd.analyze("security", "--offline=true", f"--threshold={EXPOSURE}", str(path))
    assert done.returncode == 0, done.stdout


def test_debians_exporters_run_in_units_of_the_fleet(odd: Fleet) -> None:
    (host,) = odd.hosts.values()
    node = parse(host.unit_files()["celery-fleet-node-exporter.service"])["Service"]
    assert "--web.listen-address=127.0.0.1:9100 " in node["ExecStart"][0]
    # All applications of a host share this exporter.
    assert "other-shop" not in host.unit_files()["celery-fleet-node-exporter.service"]
    redis = parse(host.unit_files()["other-shop-redis-exporter.service"])["Service"]
    assert "-web.listen-address=127.0.0.1:9121 " in redis["ExecStart"][0]
    assert redis["DynamicUser"] == ["yes"]
    logins = host.files["/etc/celery-fleet/other-shop/credentials/redis-exporter.json"]
    assert (logins["mode"], logins["secret"]) == ("0600", True)
    found = json.loads(logins["content"])
    assert set(found.values()) == {"not-a-real-one-of-redis-exporter"}
    assert {f"rediss://{user}{host.name}:6379" for user in ("", "redis_exporter@")} <= found.keys()
    for name in ("node", "redis"):
        package = f"prometheus-{name}-exporter"
        assert package in host.parts["celery_exporter"]["packages"]
        # The package's own unit would listen on all addresses.
        assert host.links[f"/etc/systemd/system/{package}.service"] == "/dev/null"


def test_exporters_show_redis_a_certificate_if_it_asks_for_one(flower_alone: Fleet) -> None:
    (host,) = flower_alone.hosts.values()
    redis = parse(host.unit_files()["other-shop-redis-exporter.service"])["Service"]
    assert "client.key:/etc/celery-fleet/other-shop/pki/client.key" in redis["LoadCredential"]
    options = " -tls-client-cert-file=%d/client.crt -tls-client-key-file=%d/client.key"
    assert redis["ExecStart"][0].endswith(options)


def test_without_a_redis_of_the_fleet_there_is_no_redis_exporter(outside: Fleet) -> None:
    for host in outside.hosts.values():
        assert "celery-fleet-node-exporter.service" in host.units
        assert "flexiprice-redis-exporter.service" not in host.units
        owned = host.parts["celery_exporter"]["owned"]["units"]
        assert owned == ["flexiprice-redis-exporter.service"]


def test_without_the_exporter_nothing_of_it_is_left(local: Fleet) -> None:
    for host in local.hosts.values():
        app = host.variables["celery_app_name"]
        wanted = host.parts["celery_exporter"]
        assert wanted.get("units", []) == wanted.get("files", []) == []
        exporters = [f"{app}-exporter.socket", f"{app}-exporter.service"]
        exporters += ["celery-fleet-node-exporter.service", f"{app}-redis-exporter.service"]
        assert wanted["owned"]["units"] == exporters
        for name in ("exporter", "redis-exporter"):
            assert f"/etc/celery-fleet/{app}/credentials/{name}.json" in wanted["owned"]["files"]
