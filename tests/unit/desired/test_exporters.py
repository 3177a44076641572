"""Addresses of other exporters, and the passwords for the exporter of Redis."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.exporters import (
    addresses,
    redis_logins,
)

from tests.facts import facts

GROUPS = {"redis": ["redis1"], "flower": ["control1"]}


def known(host: str, *names: str, **variables: Any) -> dict[str, str]:
    enabled = {f"celery_exporter_{name}_enabled": True for name in names}
    return addresses(facts(host=host, groups=GROUPS), {**enabled, **variables})


def test_an_exporter_is_only_where_it_has_something_to_show() -> None:
    every = ("node", "redis", "flower")
    assert set(known("worker1", *every)) == {"node"}
    assert set(known("redis1", *every)) == {"node", "redis-broker", "redis-results"}
    assert set(known("control1", *every)) == {"node", "flower"}
    assert known("redis1") == {}


def test_each_instance_of_redis_is_a_target_of_one_exporter() -> None:
    found = known("redis1", "redis", celery_exporter_redis_port=9122)
    scrape = "http://127.0.0.1:9122/scrape?target=rediss://redis1"
    assert found == {"redis-broker": f"{scrape}:6379", "redis-results": f"{scrape}:6380"}


def test_of_several_servers_each_host_shows_its_own() -> None:
    sentinels = [{"host": host, "port": 26379} for host in ("redis1", "redis2", "redis3")]
    broker = {"host": "redis1", "port": 6379, "name": "shop-broker", "sentinels": sentinels}
    cache = {"host": "redis1", "port": 6381}
    groups = {"redis": ["redis1", "redis2", "redis3"]}
    given = {"broker": broker, "results": {**broker, "port": 6380}, "cache": cache}
    for host, kinds in (("redis1", "broker results cache"), ("redis2", "broker results")):
        found = addresses(
            facts(host=host, groups=groups, **given), {"celery_exporter_redis_enabled": True}
        )
        assert set(found) == {f"redis-{kind}" for kind in kinds.split()}
        assert f"rediss://{host}:6379" in found["redis-broker"]
        logins = redis_logins(facts(host=host, groups=groups, **given), "p")
        assert f"rediss://redis_exporter@{host}:6380" in logins


@pytest.mark.parametrize(
    ("prefix", "path"),
    [(None, "/metrics"), ("", "/metrics"), ("/tools/flower/", "/tools/flower/metrics")],
)
def test_flowers_prefix_is_part_of_its_path(prefix: str | None, path: str) -> None:
    found = known("control1", "flower", flower_url_prefix=prefix)
    assert found == {"flower": f"http://unix:/run/shop-flower/flower.sock:{path}"}


def test_each_address_has_the_password_with_and_without_the_user() -> None:
    address = {"host": "2001:db8::1", "port": 6379}
    assert redis_logins(facts(broker=address, results=address), "p") == {
        "rediss://[2001:db8::1]:6379": "p",
        "rediss://redis_exporter@[2001:db8::1]:6379": "p",
    }
