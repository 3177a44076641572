"""What the control node writes for a host's health check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import health

from celery_fleet.health import checks
from celery_fleet.health import setup as health_setup
from tests.facts import facts

GROUPS = {
    "fleet": ["redis1", "worker1", "worker2", "control1", "web1"],
    "redis": ["redis1"],
    "celery_workers": ["worker1", "worker2"],
    "celery_beat": ["control1"],
    "celery_producers": ["control1"],
    "flower": ["web1"],
}
NODES = {
    "mail@worker1": {
        "host": "worker1",
        "worker": "mail",
        "unit": "shop-worker@mail.service",
        "queues": ["mail"],
    },
    "solo@worker2": {
        "host": "worker2",
        "worker": "solo",
        "unit": "shop-worker@solo.service",
        "pool": "solo",
        "queues": ["solo"],
    },
}


def made(host: str, **more: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "interval": 300,
        "checks": list(checks.CHECKS),
        "thresholds": {},
        "on_change": [],
        "beat_interval": 5,
    }
    seen = {"groups": GROUPS, "units": ["shop-worker@mail.service"], "nodes": NODES}
    seen |= {"queues": ["mail"], **{key: more.pop(key) for key in [*more] if key not in options}}
    return health.setup(facts(host=host, **seen), **{**options, **more})


ALWAYS = {"redis", "disk", "memory", "cpu", "certificates", "logs"}


@pytest.mark.parametrize(
    ("host", "units", "more"),
    [
        ("redis1", ["redis@shop-broker.service"], {"units", "queues", "dead_letters", "kernel"}),
        ("worker1", ["shop-worker@mail.service"], {"database", "workers", "clock"}),
        (
            "control1",
            ["shop-beat.service", "shop-web.service"],
            {"database", "workers", "canary", "clock", "units", "beat", "queues", "dead_letters"},
        ),
        ("web1", ["shop-flower.service"], {"units"}),
    ],
)
def test_a_host_checks_what_it_runs(host: str, units: list[str], more: set[str]) -> None:
    assert set(made(host, units=units)["checks"]) == ALWAYS | more


def test_only_a_host_that_backs_redis_up_checks_its_backup() -> None:
    assert "backup" not in made("redis1")
    found = made("redis1", backup=21600.0)
    assert "backup" in found["checks"]
    assert found["backup"] == 21600


def test_the_web_sites_own_certificate_is_checked_once() -> None:
    assert made("control1")["site_certificate"] == ""
    path = "/etc/letsencrypt/live/shop.example.org/fullchain.pem"
    found = made("control1", site_certificate=path)
    assert (found["site_certificate"], path in found["certificates"]) == (path, False)
    (own,) = [one for one in found["certificates"] if one.endswith("host.crt")]
    assert made("control1", site_certificate=own)["site_certificate"] == ""


def test_redis_is_asked_as_its_url_says() -> None:
    """A host with only Flower has no other login than this."""
    address = {"host": "redis.example.com", "port": 6379}
    for scheme, ca in (("rediss", "/etc/ca.crt"), ("redis", "")):
        broker = {**address, "url": f"{scheme}://shop@redis.example.com:6379/0"}
        assert made("web1", broker=broker, redis_ca="/etc/ca.crt")["ca"] == ca


def test_without_beat_a_worker_host_checks_the_fleet() -> None:
    groups = {**GROUPS, "celery_beat": []}
    fleet = {host for host in GROUPS["fleet"] if made(host, groups=groups)["fleet"]}
    assert fleet == {"redis1", "worker1"}


def test_disabled_checks_are_left_out() -> None:
    assert made("worker1", checks=["disk", "beat"])["checks"] == ["disk"]


def test_thresholds_of_the_inventory_override_the_defaults_one_by_one() -> None:
    given = {"queue_length": {"bad": 50}, "queues": {"mail": {"warning": None}}}
    found = made("redis1", thresholds=given)["thresholds"]
    assert found["queue_length"] == {"warning": 1000, "bad": 50}
    assert found["queues"] == {"mail": {"warning": None}}
    assert set(found) == {*health.THRESHOLDS, "queues"}
    # The defaults must not change.
    assert made("redis1")["thresholds"]["queue_length"] == {"warning": 1000, "bad": 10000}


def test_host_and_control_side_agree_for_which_thresholds_less_is_worse() -> None:
    low = {name for name, threshold in health.THRESHOLDS.items() if threshold.low}
    assert low == set(health_setup.LOW)


def test_the_host_reads_the_setup(tmp_path: Path) -> None:

    path = tmp_path / "health.json"
    path.write_text(json.dumps(made("worker2", on_change=["/bin/tell", "a"])))
    setup = checks.read(path)
    assert (setup.app, setup.host, setup.on_change) == ("shop", "worker2", ("/bin/tell", "a"))
    assert setup.workers["solo@worker2"].pool == "solo"
    assert setup.workers["mail@worker1"].pool == "prefork"
    assert setup.state_of("disk_free_percent", 4) == "bad"
    path.write_text(json.dumps({**made("worker2"), "format": 2}))
    with pytest.raises(health_setup.CheckError, match="its format is 2, this runtime reads 1"):
        checks.read(path)
