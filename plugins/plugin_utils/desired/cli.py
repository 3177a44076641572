"""Computes the settings of the operator's command on a host: `/etc/celery-fleet/<app>/cli.json`, without secrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.names import slice_unit

from .facts import Facts, instances, log_directory
from .groups import MEMBER_GROUPS
from .monitoring.objectives import objectives
from .redis_service import limits

FORMAT = 1


def _slos(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the SLOs of each worker that has some; preflight refuses a worker with different ones on its hosts."""
    return {
        of["worker"]: [one._asdict() for one in objectives(of["slo"])]
        for of in nodes.values()
        if of.get("slo")
    }


def hosts(groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return every host of the fleet with its groups of the fleet.

    Args:
        groups: The fleet's groups.
    """
    found: dict[str, list[str]] = {str(host): [] for host in groups.get("fleet", ())}
    for group in MEMBER_GROUPS:
        for host in groups.get(group, ()):
            found.setdefault(str(host), []).append(group)
    return found


def application(
    facts: Facts, python: str, redis_config: str = "/etc/celery-fleet/redis"
) -> dict[str, Any]:
    """Return the settings of the operator's command for an application on one host.

    Args:
        facts: The application's facts.
        python: The interpreter of the command's own virtualenv.
        redis_config: Directory of the Redis instances' configuration.
    """
    app = facts["name"]
    servers = hosts(facts["groups"])
    redis = {
        kind: {
            "host": str(address["host"]),
            "port": int(address["port"]),
            "unit": "" if address.get("url") else f"redis@{app}-{kind}.service",
            "acl": f"{redis_config}/{app}-{kind}/users.acl",
            "here": "redis" in servers.get(facts["host"], []),
            **(
                {"limits": limits(kind, facts["redis_service"].get(kind, {}))}
                if address.get("url")
                else {}
            ),
            **(
                {"name": address["name"], "sentinels": [dict(one) for one in address["sentinels"]]}
                if address.get("sentinels")
                else {}
            ),
        }
        for kind, address in instances(facts).items()
    }
    return {
        "format": FORMAT,
        "app": app,
        "host": facts["host"],
        "module": facts["module"],
        "user": facts["user"],
        "runtime": facts["runtime"],
        "python": python,
        "root": facts["root"],
        "directory": facts["directory"],
        "units": list(facts["units"]),
        "hosts": servers,
        "workers": {node: list(of["queues"]) for node, of in sorted(facts["nodes"].items())},
        "queues": list(facts["queues"]),
        **({"slos": slos} if (slos := _slos(facts["nodes"])) else {}),
        **({"backup": facts["backup"]} if facts["backup"] else {}),
        **({"external": list(facts["external"])} if facts["external"] else {}),
        **(
            {"clients": {name: dict(of) for name, of in facts["clients"].items()}}
            if facts["clients"]
            else {}
        ),
        "redis": {"ca": facts["redis_ca"], "client": dict(facts["client"]), "instances": redis},
        "schedule": f"/run/{app}-beat/schedule.json",
        "schedule_state": f"{facts['state']}/beat/celerybeat-schedule",
        "slice": slice_unit(app),
        "logs": {"destination": facts["logs"], "directory": log_directory(app)},
    }
