"""Which of several hosts of Redis Sentinels prefer, while these have different servers or versions."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.replication import (
    replica_priority,
)


def variables(server: str) -> dict[str, Any]:
    """Return a host's variables with the facts of a server such as `redis 5:7.0.15-1`."""
    flavor, _, version = server.partition(" ")
    versions = {f"{flavor}-server": version} if version else {}
    return {"ansible_facts": {"fleet": {"redis_flavor": flavor, "versions": versions}}}


SEVEN, EIGHT, VALKEY = "redis 5:7.0.15-1~deb12u5", "redis 5:8.0.2-3+deb13u1", "valkey 8.1.1+dfsg1-3"


@pytest.mark.parametrize(
    ("servers", "priorities"),
    [
        ((SEVEN, SEVEN, SEVEN), (100, 100, 100)),
        ((SEVEN, "redis 5:7.0.16-1", SEVEN), (100, 100, 100)),
        ((SEVEN, SEVEN, EIGHT), (100, 100, 200)),
        ((EIGHT, SEVEN, EIGHT), (100, 200, 100)),
        ((SEVEN, VALKEY, SEVEN), (100, 200, 100)),
        ((VALKEY, VALKEY, EIGHT), (100, 100, 200)),
        # A host that was not reached, or whose package sources are not known yet.
        ((SEVEN, "", SEVEN), (100, 100, 100)),
        (("redis", "redis", "redis"), (100, 100, 100)),
    ],
)
def test_what_most_hosts_have_is_preferred(
    servers: tuple[str, ...], priorities: tuple[int, ...]
) -> None:
    hosts = [f"redis{number}" for number in range(len(servers))]
    hostvars = {
        host: variables(server) if server else {}
        for host, server in zip(hosts, servers, strict=True)
    }
    found = tuple(replica_priority(hostvars, hosts, host) for host in hosts)
    assert found == priorities
