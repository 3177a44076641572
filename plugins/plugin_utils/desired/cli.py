"""What the operator's command finds on a host: the content of `/etc/celery-fleet/<app>/cli.json`; no secret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FORMAT = 1


def hosts(groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Every host of the fleet with the groups that give it its work.

    Args:
        groups: Ansible's.
    """
    of_ours = ("redis", "celery_workers", "celery_beat", "celery_producers", "flower")
    found: dict[str, list[str]] = {str(host): [] for host in groups.get("fleet", ())}
    for group in of_ours:
        for host in groups.get(group, ()):
            found.setdefault(str(host), []).append(group)
    return found


def application(
    app: str,
    *,
    host: str,
    module: str,
    user: str,
    runtime: str,
    python: str,
    root: str,
    directory: str,
    units: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    nodes: Mapping[str, Mapping[str, Any]],
    queues: Sequence[str],
    broker: Mapping[str, Any],
    results: Mapping[str, Any],
    ca: str,
    client: Mapping[str, str] | None = None,
    redis_config: str = "/etc/celery-fleet/redis",
    timezone: str | None = None,
    slice_unit: str,
    logs: str = "journal",
) -> dict[str, Any]:
    """All that the operator's command has to know of an application on one host.

    Args:
        app: Its name.
        host: The host's name in the inventory.
        module: What `celery -A` takes.
        user: Unix user of its processes.
        runtime: Directory of the fleet's runtime.
        python: The interpreter of the command's own virtualenv.
        root: Directory of its releases.
        directory: Of its configuration.
        units: Its units on this host.
        groups: Ansible's.
        nodes: All workers by node name, as `workers.nodes` has them.
        queues: All queues that the inventory names.
        broker: Host and port.
        results: Host and port.
        ca: Path of the certificate that signs the servers'.
        client: Paths of the `certificate` and `key` that are shown to Redis, where it asks for them.
        redis_config: Directory of the instances' configuration.
        timezone: The zone that the inventory sets, if it does.
        slice_unit: systemd's slice in which all of the application runs.
        logs: `journal` or `file`.
    """
    servers = hosts(groups)
    instances = {
        kind: {
            "host": str(address["host"]),
            "port": int(address["port"]),
            "unit": f"redis@{app}-{kind}.service",
            "acl": f"{redis_config}/{app}-{kind}/users.acl",
            "here": "redis" in servers.get(host, []),
        }
        for kind, address in (("broker", broker), ("results", results))
    }
    return {
        "format": FORMAT,
        "app": app,
        "host": host,
        "module": module,
        "user": user,
        "runtime": runtime,
        "python": python,
        "root": root,
        "directory": directory,
        "units": list(units),
        "hosts": servers,
        "workers": {node: list(of["queues"]) for node, of in sorted(nodes.items())},
        "queues": list(queues),
        "redis": {"ca": ca, "client": dict(client or {}), "instances": instances},
        "schedule": f"/run/{app}-beat/schedule.json",
        "timezone": timezone,
        "slice": slice_unit,
        "logs": {"destination": logs, "directory": f"/var/log/{app}"},
    }
