"""Computes what a Redis host needs for replicas and Sentinels, in addition to its instances.

Redis and Sentinel rewrite the file that they are started with. So each is started with a file in its data directory,
which is written once, and with the role's own file after it (`--include`), whose settings win.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.acl import sentinel_acl
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.facts import (
    Address,
    Facts,
    RedisServers,
    Replication,
)

#: systemd creates the instances' and the Sentinel's data directories in here.
DATA = "/var/lib/celery-fleet-redis"


_TLS = ("host.crt", "host.key", "ca.crt")


def hosts_path(facts: Facts, servers: RedisServers) -> str:
    """Return the path of `hosts_file`."""
    return f"{servers['config']}/{facts['name']}-hosts"


def hosts_file(facts: Facts, servers: RedisServers) -> dict[str, Any]:
    """Return the `/etc/hosts` of a host's Redis servers and Sentinel.

    Both wait for DNS in their only thread. A Sentinel that waits, because DNS is slow or no longer knows a host that is
    down, refuses to replace a primary (it calls that TILT).
    """
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    for host, given in servers["replication"]["addresses"].items():
        with contextlib.suppress(ValueError):
            lines.append(f"{ipaddress.ip_address(given[0])} {host}")
    return {"dest": hosts_path(facts, servers), "content": "\n".join(lines) + "\n"}


def instance_files(
    own: str,
    flavor: str,
    replication: Replication,
    primary: Address,
    passwords: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Return the further files of a replicated instance.

    Args:
        own: The instance's configuration directory.
        flavor: Unix group of the server.
        replication: How the host takes part.
        primary: The instance's address; its host begins as the primary.
        passwords: Passwords of Redis's users.
    """
    first = (
        ""
        if primary["host"] == replication["host"]
        else f"replicaof {primary['host']} {int(primary['port'])}\n"
    )
    login = f"masteruser replica\nmasterauth {passwords['replica']}\n"
    return [
        {"dest": f"{own}/first.conf", "content": first},
        {
            "dest": f"{own}/login.conf",
            "content": login,
            "group": flavor,
            "mode": "0640",
            "secret": True,
        },
    ]


def follow(primary: Address, replication: Replication) -> dict[str, Any]:
    """Return how a run moves an instance's primary, and what it waits for; the host's own Sentinel is asked first."""
    own = replication["host"]
    sentinels = sorted(primary["sentinels"], key=lambda place: place["host"] != own)
    return {
        "primary": primary["name"],
        "sentinels": sentinels,
        "replicas": replication["min_replicas"],
        "role_file": f"{DATA}/{primary['name']}/role.conf",
    }


def sentinel_state(
    facts: Facts, servers: RedisServers, primaries: Sequence[Address], passwords: Mapping[str, str]
) -> dict[str, Any]:
    """Return the desired state of a host's Sentinel; without replicas, the state that removes it.

    Args:
        facts: The application's facts.
        servers: Setup of the host's Redis servers.
        primaries: The replicated instances.
        passwords: Passwords of Redis's users, including those of clients.
    """
    name = f"{facts['name']}-sentinel"
    unit, config = f"/etc/systemd/system/{name}.service", servers["config"]
    own, tls, flavor = f"{config}/{name}", servers["tls"], servers["flavor"]
    names = ("first.conf", "sentinel.conf", "logins.conf", "users.acl")
    paths = [f"{own}/{one}" for one in names]
    if not primaries:
        files = [unit, hosts_path(facts, servers), *paths, f"{DATA}/{name}/sentinel.conf"]
        for kind in ("broker", "results"):
            instance = f"{facts['name']}-{kind}"
            files += [f"{config}/{instance}/{one}" for one in ("first.conf", "login.conf")]
            # If there are replicas again some day, it must not name a host of today.
            files.append(f"{DATA}/{instance}/role.conf")
        return {"owned": {"units": [f"{name}.service"], "files": files}}
    replication = servers["replication"]
    monitored = [
        f"sentinel monitor {one['name']} {one['host']} {int(one['port'])} {replication['quorum']}"
        for one in primaries
    ]
    # Others never forget a Sentinel, and count its vote. So one that lost its data comes back as the same.
    by = hashlib.sha1(
        f"{facts['name']} {replication['host']} {replication['port']}".encode(),
        usedforsecurity=False,
    )
    identity = f"sentinel myid {by.hexdigest()}"
    secret = passwords["sentinel"]
    logins = [f"sentinel sentinel-user sentinel\nsentinel sentinel-pass {secret}"]
    logins += [
        f"sentinel auth-user {one['name']} sentinel\nsentinel auth-pass {one['name']} {secret}"
        for one in primaries
    ]
    first, static, login, users = paths
    private = {"group": flavor, "mode": "0640"}
    return {
        "directories": [{"path": own}],
        "files": [
            hosts_file(facts, servers),
            {
                "dest": unit,
                "src": "systemd/sentinel.service.j2",
                "vars": {
                    "sentinel_quorum": replication["quorum"],
                    "sentinel_hosts": list(replication["addresses"]),
                },
            },
            {
                "dest": first,
                "content": "\n".join([identity, "sentinel resolve-hostnames yes", *monitored])
                + "\n",
            },
            {
                "dest": static,
                "src": "redis/sentinel.conf.j2",
                "vars": {
                    "sentinel": {**replication, "name": name, "directory": own},
                    "sentinel_primaries": [one["name"] for one in primaries],
                },
            },
            {"dest": login, "content": "\n".join(logins) + "\n", **private, "secret": True},
            {
                "dest": users,
                "content": sentinel_acl(passwords, servers["setinfo"], facts["clients"]),
                **private,
                "secret": True,
            },
        ],
        "units": [
            {
                "name": f"{name}.service",
                "on_change": "live",
                "timeout": servers["timeout"],
                "redis": {
                    "host": servers["host"],
                    "port": int(replication["port"]),
                    "ca": facts["ca"],
                    "user": "admin",
                    "password": passwords["admin"],
                },
                # It can't read a new certificate while it runs.
                "files": [
                    static,
                    login,
                    users,
                    hosts_path(facts, servers),
                    *(f"{tls}/{one}" for one in _TLS),
                ],
            }
        ],
        "data": [{"path": f"{DATA}/{name}", "keep": "redis_data"}],
        "owned": {},
    }
