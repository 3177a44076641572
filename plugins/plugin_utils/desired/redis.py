"""Redis servers on a host: units, configuration, users."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.acl import acl

# Where systemd makes the instances' directories.
_DATA = "/var/lib/celery-fleet-redis"


def redis_state(
    instances: Iterable[Mapping[str, Any]],
    config: str,
    tls: str,
    passwords: Mapping[str, str],
    names: Sequence[str],
    host: str,
    ca: str,
    timeout: float,
    flavor: str = "redis",
    setinfo: bool = False,
    client: Mapping[str, str] | None = None,
    remote_control: bool = False,
) -> dict[str, Any]:
    """All that the Redis instances of a host need there, in the form that `settle` takes.

    Args:
        instances: Each with `kind` (broker or results) and `name`, and what the configuration's template reads.
        config: Directory of the instances' configuration.
        tls: Directory of the host's certificate.
        passwords: Of the ACL users.
        names: All queues.
        host: A name or an address under which the host reaches itself.
        ca: Path, on the host, of the certificate that signs its own.
        timeout: Seconds until an instance has to serve.
        flavor: `redis` or `valkey`: which server it is, and what its Unix user is called.
        setinfo: See `acl`.
        client: As for `process_settings`, where clients show a certificate: then Redis reads their authorities, too.
        remote_control: See `acl`.
    """
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
                "content": acl(str(instance["kind"]), passwords, names, setinfo, remote_control),
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
                "timeout": timeout,
                "files": [
                    *read,
                    f"{tls}/host.crt",
                    f"{tls}/host.key",
                    *([f"{tls}/ca.crt"] if client else []),
                ],
                "redis": {
                    "host": host,
                    "port": int(instance["port"]),
                    "ca": ca,
                    "user": "admin",
                    "password": passwords["admin"],
                    # In its RuntimeDirectory=, which goes with its process.
                    "staged_key": f"/run/redis-{instance['name']}/host.key",
                    **(client or {}),
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
