"""Ports, users and names that another application or program already has on a host are refused."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.names import slice_unit
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.claims import claims
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.nginx import site_file
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.surplus import surplus
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.hosts.owners import (
    BEHIND_NGINX,
    socket_files,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.hosts.reachability import (
    check_facts,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Problem,
    Severity,
)

from tests.facts import facts
from tests.unit.preflight.hosts.test_reachability import GOOD

EVERY = ["redis", "worker", "beat", "producer", "web", "web_site", "flower", "flower_site"]
PORTS = {"broker": 6379, "results": 6380, "web": 443, "flower": 5555}
OTHERS = {"broker": 6381, "results": 6382, "web": 8443, "flower": 5556}


def claim(app: str, components: list[str] | None = None, **given: Any) -> dict[str, Any]:
    ports = given.pop("ports", PORTS)
    options = {"owner": app, "components": EVERY if components is None else components, **given}
    return claims(facts(app, **options), ports)


def found(wanted: dict[str, Any], *marks: dict[str, Any], **facts: Any) -> list[Problem]:
    placed = [{"path": f"/etc/celery-fleet/{m.get('app')}/fleet.json", **m} for m in marks]
    return check_facts({"a": {**GOOD, "claims": wanted, "marks": placed, **facts}}, {})


def test_two_applications_that_share_nothing_pass() -> None:
    shop = claim("shop")
    assert found(shop) == []
    assert found(shop, shop) == []
    assert found(claim("flash", ports=OTHERS), shop) == []
    assert found(claim("flash", ports=OTHERS), claim("flash-promos")) == []
    # Both use the same port, but on a host where the other one lacks that part.
    assert found(claim("flash", ["worker"]), claim("shop", ["redis"])) == []


def test_the_application_of_another_inventory_is_not_taken_over() -> None:
    (problem,) = found(claim("shop", owner="staging"), claim("shop", owner="production"))
    assert problem.variable == "celery_app_name"
    for text in ("/etc/celery-fleet/shop/fleet.json", "production", "staging"):
        assert text in problem.message
    assert "celery_app_inventory_name to production" in problem.remedy


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("broker", "celery_app_broker_port"),
        ("results", "celery_app_results_port"),
        ("web", "celery_producer_web_port"),
        ("flower", "flower_port"),
    ],
)
def test_a_port_of_another_application_is_refused(name: str, variable: str) -> None:
    (problem,) = found(claim("flash", ports={**OTHERS, name: 6379}), claim("shop"))
    assert (problem.variable, problem.value, problem.hosts) == (variable, "6379", ("a",))
    assert "application shop (owner shop)" in problem.message


def test_sites_with_different_names_share_ports() -> None:
    def site(app: str, *names: str, port: int = 443) -> dict[str, Any]:
        given = claims(
            facts(app, owner=app, components=["web_site"]), {"web": port}, names, redirects=True
        )
        return {**given, "users": [app]}

    nginx = {port: listener("nginx", "nginx.service") for port in ("80", "443")}
    shop = site("shop", "shop.org")
    assert found(site("flash", "flash.org"), shop, listeners=nginx) == []
    variables = ["celery_producer_web_port", "celery_producer_web_redirect_http"]
    for other in (site("flash", "shop.org"), site("flash")):
        assert sorted(p.variable for p in found(other, shop, listeners=nginx)) == variables
    # Another site, whose names only nginx knows.
    assert found(site("flash", "flash.org"), listeners=nginx) == []
    assert sorted(p.variable for p in found(site("flash"), listeners=nginx)) == variables


def test_a_user_of_another_application_is_refused() -> None:
    (problem,) = found(claim("flash", ports=OTHERS, user="shop"), claim("shop"))
    assert (problem.variable, problem.value) == ("celery_app_user", "shop")


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        # Flower of one has the same user as the other application.
        ("shop", "shop-flower", "shop-flower"),
        # A worker `web` of one has the runtime directory of the other's web process.
        ("shop", "shop-worker", "/run/shop-worker-"),
        # nginx's variables can't have a dash.
        ("flash-promos", "flash_promos", "flash_promos_web"),
    ],
)
def test_colliding_names_are_refused_in_both_directions(one: str, other: str, what: str) -> None:
    for mine, theirs in ((one, other), (other, one)):
        problems = found(claim(mine, ports=OTHERS), claim(theirs))
        assert problems
        assert {problem.variable for problem in problems} == {"celery_app_name"}
        assert any(what in problem.message for problem in problems)


def test_a_renamed_application_is_recognised() -> None:
    listeners = {"6379": listener("redis-server", "redis@shop-broker.service")}
    old, new = claim("shop", owner="production"), claim("store", owner="production")
    (problem,) = found(new, old, listeners=listeners)
    assert (problem.variable, problem.value) == ("celery_app_name", "store")
    for text in ("owner production", "which is shop", "a second beat"):
        assert text in problem.message
    assert "set it back to shop" in problem.remedy
    assert "celery_fleet.core.remove_fleet -e celery_app_name=shop;" in problem.remedy
    assert "change celery_app_broker_port, celery_app_results_port, " in problem.remedy
    # Two applications of one inventory that share nothing are allowed.
    assert found(claim("store", owner="production", ports=OTHERS), old) == []


def test_a_mark_that_can_not_be_read_is_named() -> None:
    (problem,) = found(claim("shop"), {"path": "/etc/celery-fleet/x/fleet.json", "error": "broken"})
    assert problem.variable == "host"
    assert problem.value == "/etc/celery-fleet/x/fleet.json"


def test_an_own_unreadable_mark_has_a_remedy() -> None:
    broken = {"path": "/etc/celery-fleet/shop/fleet.json", "error": "broken"}
    (problem,) = found(claim("shop"), broken)
    assert problem.severity is Severity.WARNING
    assert "this run writes again: broken" in problem.message
    (problem,) = found(claim("shop"), {**broken, "path": "/etc/celery-fleet/shop2/fleet.json"})
    assert problem.severity is Severity.ERROR


def listener(command: str, unit: str) -> list[dict[str, str]]:
    return [{"command": command, "unit": unit}]


def test_a_port_on_which_a_stranger_listens_is_refused() -> None:
    shop = claim("shop")
    ours = {
        "443": listener("nginx", "nginx.service"),
        "6379": listener("redis-server", "redis@shop-broker.service"),
        "5555": [],
    }
    assert found(shop, listeners=ours, files=[SITE]) == []
    stranger = {**ours, "6379": listener("redis-server", "redis-server.service")}
    (problem,) = found(shop, listeners=stranger, files=[SITE])
    assert (problem.variable, problem.value) == ("celery_app_broker_port", "6379")
    assert "redis-server (redis-server.service)" in problem.message
    (problem,) = found(shop, listeners={"443": listener("apache2", "apache2.service")})
    assert problem.variable == "celery_producer_web_port"


SITE = "/etc/nginx/conf.d/shop-web.conf"


def test_a_port_on_which_nginx_serves_another_site_is_refused() -> None:
    """A host has one nginx, which would keep answering with the site that was there first."""
    shop = claim("shop")
    taken = {"443": listener("nginx", "nginx.service")}
    (problem,) = found(shop, listeners=taken)
    assert (problem.variable, problem.value) == ("celery_producer_web_port", "443")
    assert "nginx (nginx.service)" in problem.message
    # Flower's file says nothing about the web site.
    assert found(shop, listeners=taken, files=["/etc/nginx/conf.d/shop-flower.conf"]) == [problem]
    # Any host of the fleet may have an exporter, so its role removes its site itself.
    removed = {*surplus("shop", [], "", "", "")["files"], site_file("shop", "metrics")}
    assert {site_file("shop", kind) for kind in BEHIND_NGINX} <= removed
    # One is from a version without marks, the other is in its mark.
    assert found(shop, listeners=taken, files=[SITE]) == []
    assert found(shop, shop, listeners=taken) == []


def test_an_application_may_swap_its_own_ports() -> None:
    swapped = claim("shop", ports={**PORTS, "broker": 443, "web": 6379})
    listeners = {
        "443": listener("nginx", "nginx.service"),
        "6379": listener("redis-server", "redis@shop-broker.service"),
    }
    assert found(swapped, claim("shop"), listeners=listeners) == []


def test_a_host_with_only_redis_has_no_users() -> None:
    mark = claim("shop", ["redis"])
    assert mark["users"] == []
    assert mark["ports"] == {"broker": 6379, "results": 6380}
    assert mark["paths"] == ["/etc/celery-fleet/shop"]


def test_only_ports_on_which_a_component_listens_are_claimed() -> None:
    within = [name for name in EVERY if name != "flower_site"] + ["flower_location"]
    assert set(claim("shop", within)["ports"]) == {"broker", "results", "web"}


def test_a_dash_in_the_name_does_not_nest_a_slice() -> None:
    assert slice_unit("shop") == "shop.slice"
    assert slice_unit("flash-promos") == r"flash\x2dpromos.slice"


BACKEND = ["producer", "web", "web_site", "web_backend", "firewall"]


def test_a_web_process_on_tcp_has_its_port() -> None:
    mine = claim("shop", BACKEND, ports={**PORTS, "backend": 5000})
    assert mine["ports"] == {"web": 443, "backend": 5000}
    assert {"shop-firewall.service", "shop-firewall-rollback.*"} <= set(mine["units"])
    # With a Unix socket there is no port.
    assert "backend" not in claim("shop", EVERY, ports={**PORTS, "backend": 0})["ports"]
    theirs = claim("other", BACKEND, ports={**OTHERS, "backend": 5000})
    (one,) = [p for p in found(mine, theirs) if p.variable == "celery_producer_web_listen"]
    assert "is already the port of backend of the application other" in one.message


def test_the_listener_on_the_port_of_a_web_process_is_recognised() -> None:
    mine = claim("shop", BACKEND, ports={**PORTS, "backend": 5000})
    systemd = {"command": "systemd", "unit": "init.scope"}
    process = {"command": "python", "unit": "shop-web.service"}
    own = {"listeners": {"5000": [systemd, process]}, "files": socket_files("shop")}
    assert found(mine, **own) == []
    exporter = claim("shop", ("exporter", "exporter_listen"), ports={**PORTS, "exporter": 5000})
    assert found(exporter, listeners={"5000": [systemd]}, files=socket_files("shop")) == []
    (one,) = found(exporter, listeners={"5000": [systemd]})
    assert (one.variable, one.value) == ("celery_exporter_listen", "5000")
    # systemd also listens for other programs.
    (one,) = found(mine, listeners={"5000": [systemd]})
    assert (one.variable, one.value) == ("celery_producer_web_listen", "5000")
    (one,) = found(mine, listeners={"5000": [{"command": "nc", "unit": "x.scope"}]})
    assert "nc (x.scope)" in one.message


def test_applications_of_a_host_share_the_exporter_of_the_host() -> None:
    parts = ["exporter", "exporter_site", "node_exporter", "redis_exporter"]
    ports = {"metrics": 9808, "node": 9100, "redis_exporter": 9121}
    shop = claim("shop", parts, ports=ports)
    both = {
        "9100": listener("prometheus-node", "celery-fleet-node-exporter.service"),
        "9121": listener("prometheus-redi", "shop-redis-exporter.service"),
    }
    assert found(shop, listeners=both) == []
    flash = claim("flash", parts, ports={**ports, "metrics": 9809})
    (one,) = found(flash, shop, listeners=both)
    assert (one.variable, one.value) == ("celery_exporter_redis_port", "9121")
    assert (
        found(claim("flash", parts, ports={**flash["ports"], "redis_exporter": 9122}), shop) == []
    )


def test_a_foreign_exporter_is_not_replaced() -> None:
    theirs = listener("prometheus-node", "prometheus-node-exporter.service")
    shop = claim("shop", ["exporter", "node_exporter"], ports={"node": 9100})
    (one,) = found(shop, listeners={"9100": theirs})
    assert one.variable == "celery_exporter_node_enabled"
    assert "celery_exporter_others" in one.remedy
