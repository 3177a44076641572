"""Computes what the exporter's site passes on besides its own metrics: other exporters of the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .facts import Address, Facts, instances
from .nginx import path_prefix

NODE: Final = "celery_exporter_node_enabled"
REDIS: Final = "celery_exporter_redis_enabled"
FLOWER: Final = "celery_exporter_flower_enabled"
# The exporter's user in Redis.
REDIS_USER: Final = "redis_exporter"
# All applications of a host share this exporter, so its port is no variable.
NODE_UNIT: Final = "celery-fleet-node-exporter.service"
NODE_PORT: Final = 9100
REDIS_PORT: Final = 9121


@dataclass(frozen=True)
class OtherExporter:
    """One path of the site.

    Attributes:
        address: The address to which nginx passes requests.
        labels: Labels of the target, besides those that all targets have.
    """

    address: str
    labels: Mapping[str, str] = field(default_factory=dict)


def others(facts: Facts, host: str, variables: Mapping[str, Any]) -> dict[str, OtherExporter]:
    """Return the other exporters of a host by their path on its site.

    Args:
        facts: The application's facts.
        host: The host's name in the inventory.
        variables: Its variables, of which those of the role celery_exporter and `flower_url_prefix` are read.
    """
    groups = facts["groups"]
    found = {}
    if variables.get(NODE, False):
        address = f"http://127.0.0.1:{NODE_PORT}/metrics"
        found["node"] = OtherExporter(address, {"exporter": "node"})
    if variables.get(REDIS, False) and host in groups.get("redis", ()):
        port = variables.get("celery_exporter_redis_port", REDIS_PORT)
        for kind, server in _own(facts, host).items():
            address = f"http://127.0.0.1:{port}/scrape?target={_url(server)}"
            found[f"redis-{kind}"] = OtherExporter(address, {"exporter": "redis", "redis": kind})
    if variables.get(FLOWER, False) and host in groups.get("flower", ()):
        prefix = path_prefix(variables.get("flower_url_prefix"))
        path = f"/{prefix}/metrics" if prefix else "/metrics"
        address = f"http://unix:/run/{facts['name']}-flower/flower.sock:{path}"
        found["flower"] = OtherExporter(address, {"exporter": "flower"})
    for name, address in (variables.get("celery_exporter_others") or {}).items():
        found[name] = OtherExporter(str(address), {"exporter": name})
    return found


def addresses(facts: Facts, variables: Mapping[str, Any]) -> dict[str, str]:
    """Return the addresses of this host's other exporters by their path; see `others`."""
    return {name: one.address for name, one in others(facts, facts["host"], variables).items()}


def redis_logins(facts: Facts, password: str) -> dict[str, str]:
    """Return the password file of Debian's prometheus-redis-exporter: a password for each address.

    The version in Debian 12 looks for the address that it is asked for, the one in Debian 13 for that with the user.
    """
    return {
        _url(server, user): password
        for server in _own(facts, facts["host"]).values()
        for user in ("", f"{REDIS_USER}@")
    }


def _own(facts: Facts, host: str) -> dict[str, Mapping[str, Any]]:
    """Return the instances that a host's exporter of Redis asks: of several servers, the host's own."""
    return {
        kind: {**server, "host": host} if server.get("sentinels") else server
        for kind, server in instances(facts).items()
        # Only the first of several hosts has the cache.
        if kind != "cache" or host in facts["groups"].get("redis", ())[:1]
    }


def _url(server: Address | Mapping[str, Any], user: str = "") -> str:
    host = str(server["host"])
    return f"rediss://{user}{f'[{host}]' if ':' in host else host}:{server['port']}"
