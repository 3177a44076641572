"""The exporter's units as systemd sees them, what it is told to collect, and who reaches it."""

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


def test_behind_nginx_only_it_reaches_the_socket(odd: Fleet) -> None:
    (host,) = odd.hosts.values()
    socket = sections(host, "socket")["Socket"]
    assert socket["ListenStream"] == ["/run/other-shop-exporter.sock"]
    assert (socket["SocketGroup"], socket["SocketMode"]) == (["www-data"], ["0660"])
    site = host.text("/etc/nginx/conf.d/other-shop-metrics.conf")
    assert "listen 9808 ssl;" in site
    assert "proxy_pass http://unix:/run/other-shop-exporter.sock:;" in site
    # Each location asks for the password.
    locations = re.findall(r"^\s*location (.*) \{", site, re.MULTILINE)
    assert locations == ["^~ /", "= /node"]
    assert site.count("auth_basic_user_file ") == 2
    assert "/etc/celery-fleet/other-shop/credentials-nginx/metrics.htpasswd" in host.files


def test_its_site_passes_other_exporters_on_without_the_password(odd: Fleet) -> None:
    (host,) = odd.hosts.values()
    site = host.text("/etc/nginx/conf.d/other-shop-metrics.conf")
    node = site[site.index("location = /node") :].partition("}\n}")[0]
    assert "proxy_pass http://127.0.0.1:9100/metrics;" in node
    assert 'proxy_set_header Authorization "";' in node


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


def test_it_logs_in_as_itself(odd: Fleet) -> None:
    (host,) = odd.hosts.values()
    login = host.files["/etc/celery-fleet/other-shop/credentials/exporter.json"]
    assert (login["mode"], login["secret"]) == ("0600", True)
    url = json.loads(login["content"])["celery"]["broker_url"]
    assert url.startswith("rediss://exporter:not-a-real-one-of-exporter@")


def test_it_may_do_nothing_but_read(odd: Fleet, tmp_path: Path) -> None:
    (host,) = odd.hosts.values()
    service = sections(host, "service")["Service"]
    assert service["User"] == ["other-shop-exporter"]
    assert service["SupplementaryGroups"] == ["other-shop"]
    # Another process of the fleet that fails must not take it along.
    assert "PartOf" not in sections(host, "service")["Unit"]
    for kind in ("service", "socket"):
        (tmp_path / unit(host, kind)).write_text(host.unit_files()[unit(host, kind)])
    path = tmp_path / unit(host, "service")
    done = systemd.analyze("security", "--offline=true", f"--threshold={EXPOSURE}", str(path))
    assert done.returncode == 0, done.stdout


def test_without_it_nothing_is_left(local: Fleet) -> None:
    for host in local.hosts.values():
        app = host.variables["celery_app_name"]
        wanted = host.parts["celery_exporter"]
        assert wanted.get("units", []) == wanted.get("files", []) == []
        assert wanted["owned"]["units"] == [f"{app}-exporter.socket", f"{app}-exporter.service"]
        assert f"/etc/celery-fleet/{app}/credentials/exporter.json" in wanted["owned"]["files"]
