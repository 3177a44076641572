"""Counts the messages that would be lost with a host's broker, and records the decision about them.

Runs on the host, inside the `remove_application` module, as root.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..reconcile import left_queues, redis_roles
from ..reconcile.desired_state import RedisAccess
from ..reconcile.redis_client import RedisError
from .application import SETTLED, InstalledApplication

# Lists of a broker without tasks: mailboxes, events, and the fleet's own keys.
_WITHOUT_TASKS = ("*.celery.pidbox", "celeryev.*", "fleet:*")


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
    # If there are Sentinels, the login is in the address of each, and this host's own instance is asked.
    url = urlsplit(str(celery["broker_url"]).partition(";")[0])
    broker = (named["redis"].get("instances") or {}).get("broker") or {}
    own = bool(broker.get("sentinels"))
    if not own and not (broker.get("here") and broker.get("unit")):
        # No other server gets a password of this one.
        unit = f"redis@{there.app}-broker.service"
        reason = f"{unit} still runs, but the fleet's broker is elsewhere by now, at {url.hostname}"
        return {"state": "unknown", "reason": reason}
    access = RedisAccess(
        str(named["host"]) if own else url.hostname or "",
        int(broker["port"]) if own else url.port or 6379,
        str(named["redis"]["ca"]),
        unquote(url.username or ""),
        unquote(url.password or ""),
        **named["redis"].get("client", {}),
    )
    replication = _replication(there, access, named, celery) if own else {}
    queues = queues_of(there, access)
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
        "queues": queues,
        **replication,
    }


def queues_of(there: InstalledApplication, operator: RedisAccess) -> dict[str, int]:
    """Return how many messages wait in each queue that is in the broker, whether the inventory names it or not."""
    path = f"{there.paths.redis_config}/{there.app}-broker/users.acl"
    admin = replace(operator, user="admin", password=admin_password(there.host.at(path)))
    try:
        return left_queues.waiting(admin, _WITHOUT_TASKS, there.host.talk)
    except RedisError as error:
        if "NOPERM" not in str(error):
            raise
    # In a fleet that an earlier version deployed, it may only give itself these rights.
    there.host.talk(admin, [["ACL", "SETUSER", "admin", *left_queues.RIGHTS.split()]])
    return left_queues.waiting(admin, _WITHOUT_TASKS, there.host.talk)


def admin_password(path: str) -> str:
    """Return the password of the user `admin` in an ACL file."""
    found = re.search(r"^user admin .*?>(\S+)", Path(path).read_text(), re.MULTILINE)
    return found[1] if found else ""


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
