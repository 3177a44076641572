"""A Redis that the fleet does not run is given by URL; mistakes are refused before any host changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Severity,
)

from tests.unit.preflight.inventory import GROUPS, problems, valid

URL = "rediss://shop:n0t-a-real-secret-30@redis.example.org:6390/2"
BROKER = "celery_app_broker_url"
WITHOUT_REDIS = {
    name: [host for host in hosts if host != "redis1"] for name, hosts in GROUPS.items()
}


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, Any]:
    given = valid(tmp_path / "source") | {BROKER: URL, "celery_app_lease_host": "control1"}
    del given["redis_passwords"]
    return given


def test_a_fleet_without_redis_needs_only_url_and_lease_host(variables: dict[str, Any]) -> None:
    assert problems(variables, groups=WITHOUT_REDIS) == []


@pytest.mark.parametrize(
    ("change", "variable", "message"),
    [
        ({BROKER: "amqp://u:p@h/0"}, BROKER, "not the URL of a Redis"),
        ({BROKER: "rediss://u:p@h1,h2/0"}, BROKER, "not the URL of a Redis"),
        ({BROKER: "rediss://u:p@h:port/0"}, BROKER, "not the URL of a Redis"),
        ({BROKER: "rediss://u:p@h:0/0"}, BROKER, "not the URL of a Redis"),
        ({BROKER: "rediss://u:p@h/shop"}, BROKER, "not the URL of a Redis"),
        ({BROKER: f"{URL}?ssl_cert_reqs=none"}, BROKER, "has options"),
        ({BROKER: "rediss://u:CHANGE_ME@h/0"}, BROKER, "placeholder"),
        ({BROKER: "rediss://h/0"}, BROKER, "no password"),
        ({BROKER: URL.replace("rediss", "redis")}, BROKER, "not encrypted"),
        ({"celery_app_redis_ca": "/etc/ssl/ca.pem"}, "celery_app_redis_ca", "not in PEM form"),
        ({"celery_app_redis_ca": 5}, "celery_app_redis_ca", "not in PEM form"),
        ({"celery_app_cache": True}, "celery_app_cache", "needs a Redis of the fleet"),
        ({"pki_mode": "mutual"}, "pki_mode", "needs a Redis of the fleet"),
        ({"celery_app_broker_host": "other"}, "celery_app_broker_host", "also has the address"),
        (
            {"celery_app_clients": {"billing": {"queues": ["discounts"]}}},
            "celery_app_clients",
            "needs a Redis of the fleet",
        ),
        ({"celery_app_lease_host": "redis1"}, "celery_app_lease_host", "not a host of fleet"),
    ],
)
def test_mistakes_are_refused_or_warned_of(
    variables: dict[str, Any], change: dict[str, Any], variable: str, message: str
) -> None:
    (found,) = problems(variables | change, groups=WITHOUT_REDIS)
    assert (found.variable, message in found.message) == (variable, True), found.message
    warns = "no password" in message or "not encrypted" in message
    assert found.severity is (Severity.WARNING if warns else Severity.ERROR)
    assert "n0t-a-real" not in f"{found.message} {found.value} {found.remedy}"


def test_the_inventory_names_the_host_of_the_lease(variables: dict[str, Any]) -> None:
    del variables["celery_app_lease_host"]
    (found,) = problems(variables, groups=WITHOUT_REDIS)
    assert found.variable == "celery_app_lease_host"


def test_the_fleet_runs_both_instances_or_none(variables: dict[str, Any], tmp_path: Path) -> None:
    del variables["celery_app_lease_host"]
    found = {one.variable: one.message for one in problems(variables)}
    assert "the group redis has hosts" in found.pop(BROKER)
    # What would follow from it is not reported; the hosts of the group do lack their passwords.
    assert set(found) == {"redis_passwords"}
    own = valid(tmp_path / "source") | {"celery_app_results_url": URL}
    assert "celery_app_results_url" in [one.variable for one in problems(own)]
