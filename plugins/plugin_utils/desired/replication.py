"""Computes what a Redis host needs for replicas and Sentinels, in addition to its instances.

Redis and Sentinel rewrite the file that they are started with. So each is started with a file in its data directory,
which is written once, and with the role's own file after it (`--include`), whose settings win.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .acl import sentinel_acl
from .facts import Address, Facts, RedisServers, Replication

#: systemd creates the instances' and the Sentinel's data directories in here.
DATA = "/var/lib/celery-fleet-redis"


_TLS = ("host.crt", "host.key", "ca.crt")
# 5:7.0.15-1~deb12u5
_VERSION = re.compile(r"(?:\d+:)?(\d+\.\d+)")


def hosts_path(facts: Facts, servers: RedisServers) -> str:
    """Return the path of `hosts_file`."""
    return f"{servers['config']}/{facts['name']}-hosts"


def hosts_file(facts: Facts, servers: RedisServers) -> dict[str, Any]:
    """Return the `/etc/hosts` of a host's Redis servers and Sentinel.

    Both wait for DNS in their only thread. A Sentinel that waits, because DNS is slow or no longer knows a host that is
    down, refuses to replace a primary (it calls that TILT).
    """
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    # Another order of the group must not restart every server.
    for host, given in sorted(servers["replication"]["addresses"].items()):
        with contextlib.suppress(ValueError):
            lines.append(f"{ipaddress.ip_address(given[0])} {host}")
    return {"dest": hosts_path(facts, servers), "content": "\n".join(lines) + "\n"}


def replica_priority(
    hostvars: Mapping[str, Mapping[str, Any]], hosts: Sequence[str], host: str
) -> int:
    """Return Redis's `replica-priority` of a host: 100, or 200 if most hosts have another server or version.

    Sentinels prefer low numbers. A replica that is newer than the others must not become their primary, because they
    may not be able to copy its data.

    Args:
        hostvars: Ansible's, with the facts of all hosts that were reached.
        hosts: The fleet's Redis hosts.
        host: One of them.
    """
    servers = {name: _server(hostvars[name]) for name in hosts}
    known = Counter(server for server in servers.values() if server)
    usual = known.most_common(1)[0][0] if known else ""
    return 100 if servers[host] in ("", usual) else 200


def _server(variables: Mapping[str, Any]) -> str:
    """Return what a host runs or is going to run, such as `redis 8.0`; empty if that is not known."""
    facts = (variables.get("ansible_facts") or {}).get("fleet") or {}
    flavor = str(facts.get("redis_flavor") or "")
    version = _VERSION.match(str((facts.get("versions") or {}).get(f"{flavor}-server") or ""))
    return f"{flavor} {version[1]}" if version else ""


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
                    "sentinel_hosts": sorted(replication["addresses"]),
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
