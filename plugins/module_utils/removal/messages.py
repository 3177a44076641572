"""Counts the messages that would be lost with a host's broker, and records the decision about them.

Runs on the host, inside the `remove_application` module, as root.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import redis_roles
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.desired_state import (
    RedisAccess,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.redis_client import (
    RedisError,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.application import (
    SETTLED,
    InstalledApplication,
)

# Celery's default priority steps, each with its own list per queue.
_STEPS = (0, 3, 6, 9)

_SEPARATOR = "\x06\x16"

# Maximum number of commands in one call to Redis.
_QUEUES_AT_ONCE = 200


def messages(there: InstalledApplication) -> dict[str, Any]:
    """Return how many messages the broker of this host holds.

    `state` is `counted`, `settled` (decided in an earlier run), `none` (there is no data) or `unknown`; then `reason`
    says why. The numbers are `waiting`, `held`, `dead`, and `queues` by name. If there are several Redis hosts,
    `primaries` are the instances whose primary is here, and `copied` says whether another host has all data of each.
    """
    unit = f"redis@{there.app}-broker.service"
    if there.host.show([unit])[unit].active != "active":
        if there.host.exists(f"{there.paths.directory}/{SETTLED}"):
            return {"state": "settled"}
        if not there.has_redis_data():
            return {"state": "none"}
        return {"state": "unknown", "reason": f"{unit} does not run"}
    try:
        return _counted(there)
    except (RedisError, OSError, ValueError, KeyError, TypeError) as error:
        return {"state": "unknown", "reason": f"the broker does not answer: {error}"}


def settle_messages(there: InstalledApplication, number: int) -> None:
    """Record that the loss of the messages was decided, because Redis can't be asked afterwards."""
    path = Path(there.host.at(f"{there.paths.directory}/{SETTLED}"))
    if there.present and not path.exists():
        path.write_text(json.dumps({"messages": number}) + "\n")
        path.chmod(0o600)


def _counted(there: InstalledApplication) -> dict[str, Any]:
    etc, host = there.paths.directory, there.host
    settings = json.loads(Path(host.at(f"{etc}/credentials/operator.json")).read_text())
    celery = settings["celery"]
    named = json.loads(Path(host.at(f"{etc}/cli.json")).read_text())
    options = celery.get("broker_transport_options") or {}
    separator = options.get("sep") or _SEPARATOR
    steps = options.get("priority_steps") or _STEPS
    # If there are Sentinels, the login is in the address of each, and this host's own instance is asked.
    url = urlsplit(str(celery["broker_url"]).partition(";")[0])
    broker = (named["redis"].get("instances") or {}).get("broker") or {}
    own = bool(broker.get("sentinels"))
    access = RedisAccess(
        str(named["host"]) if own else url.hostname or "",
        int(broker["port"]) if own else url.port or 6379,
        str(named["redis"]["ca"]),
        unquote(url.username or ""),
        unquote(url.password or ""),
        **named["redis"].get("client", {}),
    )
    replication = _replication(there, access, named, celery) if own else {}
    lists = [
        (str(queue), f"{queue}{separator}{step}" if step else str(queue))
        for queue in named["queues"]
        for step in steps
    ]
    queues: dict[str, int] = {}
    for first in range(0, len(lists), _QUEUES_AT_ONCE):
        some = lists[first : first + _QUEUES_AT_ONCE]
        lengths = host.talk(access, [["LLEN", key] for _, key in some])
        for (queue, _), length in zip(some, lengths, strict=True):
            queues[queue] = queues.get(queue, 0) + int(str(length))
    rest = [
        ["ZRANGE", "unacked_index", "0", "-1"],
        ["ZCARD", "fleet:dead-letters:index"],
    ]
    held, dead = host.talk(access, rest)
    return {
        "state": "counted",
        "waiting": sum(queues.values()),
        "held": len(held) if isinstance(held, list) else 0,
        "dead": int(str(dead)),
        "queues": {name: length for name, length in queues.items() if length},
        **replication,
    }


def _replication(
    there: InstalledApplication,
    broker: RedisAccess,
    named: Mapping[str, Any],
    celery: Mapping[str, Any],
) -> dict[str, Any]:
    """Return which primaries this host has, and whether each instance has a copy elsewhere."""
    url = urlsplit(str(celery["result_backend"]).partition(";")[0])
    results = replace(
        broker,
        port=int(named["redis"]["instances"]["results"]["port"]),
        user=unquote(url.username or ""),
        password=unquote(url.password or ""),
    )
    found = {
        kind: redis_roles.replication(access, there.host.talk)
        for kind, access in (("broker", broker), ("results", results))
    }
    return {
        "primaries": [kind for kind, said in found.items() if said.get("role") == "master"],
        "copied": all(redis_roles.is_connected(said) for said in found.values()),
    }
