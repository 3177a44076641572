"""Only hosts of the fleet reach Redis and the web process, even after Debian's firewall was loaded again.

The machine that runs the tests is the stranger: it has an address on the test network, and no inventory names it. Each
check of a closed port comes with one of an open port, so that a dead server does not look like a firewall.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import documented
import means
import pytest
from support import fleets, resp, web
from support.waiting import wait_for

if TYPE_CHECKING:
    from support.inventory import Fleet

pytestmark = pytest.mark.stage(3)

RULES = "/etc/nftables.conf"
# A site's own rule, in Debian's file for such rules.
OWN = """
table inet the_site {
        chain input {
                type filter hook input priority 10; policy accept;
                tcp dport 9 drop comment "the site's own"
        }
}
"""


def address(fleet: Fleet, group: str) -> str:
    return str(fleet.of(group)["ansible_host"])


def closed(fleet: Fleet) -> list[means.Door]:
    """Return address and port of each service that is closed to strangers."""
    server = address(fleet, "redis")
    doors = [(server, resp.port_of(fleet, kind)) for kind in ("broker", "results")]
    if fleets.app_of(fleet) == "processing":
        doors.append((address(fleet, "celery_producers"), documented.WEB_PORT))
    return doors


def no_stranger_gets_in(*those: Fleet) -> None:
    """Check that every host of the fleet reaches these ports, and this machine none."""
    doors = [door for fleet in those for door in closed(fleet)]
    found = means.at_once(*(partial(means.open_to_strangers, door) for door in doors))
    assert found == [False] * len(doors), doors
    for host in those[0].hosts("fleet"):
        assert means.open_from(those[0], host, doors) == [True] * len(doors), (host, doors)


def tables(fleet: Fleet, host: str) -> set[str]:
    """Return the kernel's tables."""
    listed = json.loads(fleet.must(host, ["nft", "--json", "list", "tables"]))["nftables"]
    return {one["table"]["name"] for one in listed if "table" in one}


def ours(fleet: Fleet) -> str:
    """Return the name of an application's table."""
    return f"celery_fleet_{fleets.app_of(fleet)}"


def test_strangers_only_reach_what_is_for_users(fleet: Fleet) -> None:
    no_stranger_gets_in(fleet)
    assert means.open_to_strangers((address(fleet, "redis"), 22))
    assert web.flower(fleet, "/api/workers").status == 200


def test_gunicorn_is_only_reached_through_nginx(processing: Fleet) -> None:
    """It listens on every address, as documented."""
    host = processing.one("celery_producers")
    listening = processing.must(host, ["ss", "-Htln", "sport", "=", f":{documented.WEB_PORT}"])
    assert listening.split()[3] == f"0.0.0.0:{documented.WEB_PORT}", listening
    where = address(processing, "celery_producers")
    assert not means.open_to_strangers((where, documented.WEB_PORT))
    assert means.open_to_strangers((where, processing.expected[host]["celery_producer_web_port"]))


def back(fleet: Fleet, host: str, *more: str) -> None:
    """Wait until the tables of all applications are back, right after Debian's own, and the given ones."""
    wanted = {*more, *map(ours, map(fleets.load, fleets.NAMES))}
    wait_for("all tables are there", 30, lambda: wanted <= tables(fleet, host), pause=0.1)


@pytest.fixture
def own_rule(market: Fleet) -> Iterator[str]:
    """Put a site's rule into Debian's own file on the host of Redis; return its table."""
    host = market.one("redis")
    before = market.must(host, ["cat", RULES])
    market.must(host, ["tee", "--append", RULES], OWN)
    market.must(host, ["systemctl", "restart", "nftables.service"])
    back(market, host)
    yield "the_site"
    market.must(host, ["tee", RULES], before)
    market.must(host, ["systemctl", "restart", "nftables.service"])
    back(market, host)
    no_stranger_gets_in(*map(fleets.load, fleets.NAMES))


@pytest.mark.parametrize("verb", ["restart", "reload", "stop"])
def test_debians_firewall_flushes_and_ours_comes_back(
    market: Fleet, processing: Fleet, own_rule: str, verb: str
) -> None:
    """Debian's file begins with `flush ruleset`. The site's rules in it are loaded with both applications' tables."""
    host = market.one("redis")
    both = (market, processing)
    assert "flush ruleset" in market.must(host, ["cat", RULES])
    market.must(host, ["systemctl", verb, "nftables.service"])
    if verb == "stop":
        # A stop removes Debian's rules, so only ours come back.
        market.must(host, ["systemctl", "start", "nftables.service"])
    back(market, host, own_rule)
    no_stranger_gets_in(*both)
    for fleet in both:
        app = fleets.app_of(fleet)
        state = fleet.execute(host, ["systemctl", "is-active", f"{app}-firewall.service"])
        assert state.output.strip() == "active"


def test_rules_of_the_site_stay_when_ours_are_written_again(
    market: Fleet, processing: Fleet, own_rule: str, workshop: fleets.Workshop
) -> None:
    """One is in Debian's file, one was typed by hand; both survive a restart of our unit and a run of site.yml."""
    host, typed = market.one("redis"), "typed_by_hand"
    market.must(host, ["nft", "add", "table", "inet", typed])
    try:
        before = market.must(host, ["nft", "list", "table", "inet", own_rule])
        market.must(host, ["systemctl", "restart", f"{fleets.app_of(market)}-firewall.service"])
        # Add a client, which only changes our table.
        client = workshop.variables(firewall_redis_clients=["192.0.2.7/32"])
        run = workshop.site(market, "firewall-client", client)
        assert run.status == 0, run.end
        assert "192.0.2.7" in market.must(host, ["nft", "list", "table", "inet", ours(market)])
        workshop.settle(market, "firewall-settled")
        assert "192.0.2.7" not in market.must(host, ["nft", "list", "table", "inet", ours(market)])
        assert market.must(host, ["nft", "list", "table", "inet", own_rule]) == before
        assert {own_rule, typed, ours(market), ours(processing)} <= tables(market, host)
        no_stranger_gets_in(market)
    finally:
        market.must(host, ["nft", "delete", "table", "inet", typed])


def test_the_firewall_is_loaded_at_boot(fleet: Fleet) -> None:
    app = fleets.app_of(fleet)
    found = fleet.must(fleet.one("redis"), ["systemctl", "is-enabled", f"{app}-firewall.service"])
    assert found.strip() == "enabled"


def test_a_firewall_that_shuts_out_the_fleet_is_rolled_back(
    market: Fleet, workshop: fleets.Workshop
) -> None:
    """A host has another address than in the inventory: the run stops and names it; everything else continues."""
    host = market.one("celery_workers")
    wrong = "192.0.2.9"
    layer = workshop.directory / "wrong-address.json"
    layer.write_text(json.dumps({"all": {"hosts": {host: {"firewall_address": wrong}}}}))
    layer = layer.rename(layer.with_suffix(".yml"))
    run = workshop.site(market, "firewall-wrong", f"--inventory={layer}")
    assert run.status != 0
    words = (f"{host} gets no answer from", "Set firewall_address of the host")
    assert [word for word in words if word not in run.text] == [], run.end
    assert "Traceback (most recent call last)" not in run.text, run.end
    no_stranger_gets_in(market)
    means.run(market, "analytics.tasks.calculate_profitability_metrics")
    workshop.settle(market, "firewall-right")
