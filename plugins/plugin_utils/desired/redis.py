"""Computes the Redis servers of a host: units, configuration, users."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.acl import acl
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.facts import Facts


class RedisServers(TypedDict):
    """The setup of a host's Redis servers."""

    # Directories of the instances' configuration and of the host's certificate.
    config: str
    tls: str
    # A name or an address with which the host reaches itself.
    host: str
    # Seconds until an instance has to serve.
    timeout: float
    # `redis` or `valkey`: the server, and the name of its Unix user.
    flavor: str
    # See `acl`.
    setinfo: bool
    remote_control: bool


# systemd creates the instances' data directories in here.
_DATA = "/var/lib/celery-fleet-redis"


def redis_state(
    facts: Facts,
    servers: RedisServers,
    instances: Iterable[Mapping[str, Any]],
    passwords: Mapping[str, str],
) -> dict[str, Any]:
    """Return the desired state of a host's Redis instances.

    Args:
        facts: The application's facts. If clients show a certificate, Redis reads their authorities, too.
        servers: Setup of the servers.
        instances: Each with `kind` (broker, results, cache) and `name`, and the variables of the configuration's
            template.
        passwords: Passwords of the ACL users, including those of clients.
    """
    config, tls, flavor = servers["config"], servers["tls"], servers["flavor"]
    directories: list[dict[str, Any]] = [{"path": "/etc/celery-fleet"}, {"path": config}]
    files: list[dict[str, Any]] = []
    checks: list[dict[str, Any]] = []
    units: list[dict[str, Any]] = []
    data: list[dict[str, Any]] = [{"path": _DATA, "whole": False}]
    for instance in instances:
        own = f"{config}/{instance['name']}"
        unit = f"redis@{instance['name']}.service"
        drop_in = f"/etc/systemd/system/{unit}.d"
        directories += [{"path": own}, {"path": drop_in}]
        files += [
            {"dest": f"{drop_in}/10-fleet.conf", "src": "systemd/redis.conf.j2"},
            {
                "dest": f"{own}/redis.conf",
                "src": "redis/redis.conf.j2",
                "vars": {"redis_instance": dict(instance)},
            },
            {
                "dest": f"{own}/users.acl",
                "content": acl(
                    str(instance["kind"]),
                    passwords,
                    facts["queues"],
                    servers["setinfo"],
                    servers["remote_control"],
                    facts["clients"],
                ),
                "group": flavor,
                "mode": "0640",
                "secret": True,
            },
        ]
        data.append({"path": f"{_DATA}/{instance['name']}", "keep": "redis_data"})
        read = [f"{own}/redis.conf", f"{own}/users.acl"]
        checks.append({"redis": read[0], "flavor": flavor, "files": read})
        units.append(
            {
                "name": unit,
                "on_change": "live",
                "timeout": servers["timeout"],
                "files": [
                    *read,
                    f"{tls}/host.crt",
                    f"{tls}/host.key",
                    *([f"{tls}/ca.crt"] if facts["client"] else []),
                ],
                "redis": {
                    "host": servers["host"],
                    "port": int(instance["port"]),
                    "ca": facts["ca"],
                    "user": "admin",
                    "password": passwords["admin"],
                    # In its RuntimeDirectory=, which is deleted with its process.
                    "staged_key": f"/run/redis-{instance['name']}/host.key",
                    **facts["client"],
                },
            }
        )
    return {
        "directories": directories,
        "files": files,
        "checks": checks,
        "units": units,
        "data": data,
    }
