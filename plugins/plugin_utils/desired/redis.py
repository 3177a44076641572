"""Computes the Redis servers of a host: units, configuration, users."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .acl import acl
from .facts import Facts, RedisServers, has_redbeat, has_standby
from .replication import DATA, follow, hosts_path, instance_files, sentinel_state


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
    data: list[dict[str, Any]] = [{"path": DATA, "whole": False}]
    replicated = {
        address["name"]: address
        for address in (facts["broker"], facts["results"])
        if address.get("sentinels")
    }
    for instance in instances:
        own = f"{config}/{instance['name']}"
        primary = replicated.get(instance["name"])
        unit = f"redis@{instance['name']}.service"
        drop_in = f"/etc/systemd/system/{unit}.d"
        directories += [{"path": own}, {"path": drop_in}]
        files += [
            {
                "dest": f"{drop_in}/10-fleet.conf",
                "src": "systemd/redis.conf.j2",
                "vars": {"redis_replicated": primary is not None},
            },
            {
                "dest": f"{own}/redis.conf",
                "src": "redis/redis.conf.j2",
                "vars": {
                    "redis_instance": dict(instance),
                    "redis_replication": servers["replication"] if primary else {},
                },
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
                    standby=has_standby(facts),
                    redbeat=has_redbeat(facts),
                ),
                "group": flavor,
                "mode": "0640",
                "secret": True,
            },
        ]
        data.append({"path": f"{DATA}/{instance['name']}", "keep": "redis_data"})
        if instance["kind"] != "cache":
            # What an interrupted restore leaves; see module_utils/restore.
            data.append({"path": f"{DATA}/{instance['name']}.restore"})
        read = [f"{own}/redis.conf", f"{own}/users.acl"]
        if primary:
            files += instance_files(own, flavor, servers["replication"], primary, passwords)
            read.append(f"{own}/login.conf")
        checks.append({"redis": read[0], "flavor": flavor, "files": read})
        units.append(
            {
                "name": unit,
                "on_change": "live",
                "timeout": servers["timeout"],
                "files": [
                    *read,
                    *([hosts_path(facts, servers)] if primary else []),
                    f"{tls}/host.crt",
                    f"{tls}/host.key",
                    *([f"{tls}/ca.crt"] if facts["client"] or primary else []),
                ],
                "redis": {
                    "host": servers["host"],
                    "port": int(instance["port"]),
                    "ca": facts["ca"],
                    "user": "admin",
                    "password": passwords["admin"],
                    # In its RuntimeDirectory=, which is deleted with its process.
                    "staged_key": f"/run/redis-{instance['name']}/host.key",
                    # Root's own, because the server that runs may ask for one that this run only brings or has removed.
                    "certificate": f"{tls}/host.crt",
                    "key": f"{tls}/host.key",
                    "queues": instance["kind"] == "broker",
                    **(follow(primary, servers["replication"]) if primary else {}),
                },
            }
        )
    state = {
        "directories": directories,
        "files": files,
        "checks": checks,
        "units": units,
        "data": data,
    }
    more = sentinel_state(facts, servers, list(replicated.values()), passwords)
    return {
        **{key: [*value, *more.get(key, [])] for key, value in state.items()},
        "owned": more["owned"],
    }
