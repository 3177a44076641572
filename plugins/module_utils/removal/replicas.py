"""Moves the primaries of several Redis hosts to those that stay, before the others stop.

Runs on a host that leaves, inside the `remove_application` module, as root.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from ..reconcile import fingerprint, redis_roles
from ..reconcile.desired_state import RedisAccess, SentinelPlace
from ..reconcile.redis_client import RedisError, Talk
from ..reconcile.report import ReconcileError
from .application import InstalledApplication
from .messages import admin_password

# Seconds within which Sentinels have to know the priorities: they ask each server every ten.
_PATIENCE = 25.0
# Redis's default priority.
_USUAL = 100
_KINDS = ("broker", "results")


def hand_over(there: InstalledApplication, staying: Collection[str]) -> list[str]:
    """Let servers of hosts that stay become the primaries; return the instances that moved.

    Args:
        there: The application on this host, which leaves.
        staying: Redis hosts that stay. All others call this at the same time.

    Raises:
        ReconcileError: A server or all Sentinels refuse, or no host that stays has a copy.
    """
    talk, clock, sleep = there.host.talk, there.host.clock, there.host.sleep
    found = _running(there)
    moved = []
    try:
        for access in found:
            _note_priority(there, access)
            _prefer(access, 0, talk)
        for access in found:
            _await_priorities(there, access, staying)
            if redis_roles.hand_over(access, talk, clock, sleep):
                moved.append(access.primary)
            elif redis_roles.replication(access, talk).get("role") == "master":
                raise RedisError(f"no replica of {access.primary} is connected")
    except RedisError as error:
        for access in found:
            with contextlib.suppress(RedisError):
                _prefer(access, _USUAL, talk)
        raise ReconcileError(
            f"the primaries can't be moved to {', '.join(sorted(staying))}: {error}\n"
            "Redis still runs. Fix that and run the same command again; or run site.yml, which starts everything again."
        ) from error
    return moved


def _prefer(access: RedisAccess, priority: int, talk: Talk) -> None:
    """Set a server's priority; Sentinels never choose one with 0."""
    talk(access, [["CONFIG", "SET", "replica-priority", str(priority)]])


def _note_priority(there: InstalledApplication, access: RedisAccess) -> None:
    """Record that the server no longer has the priority of its file: if it stays after all, `site.yml` sets it."""
    unit, directory = f"redis@{access.primary}.service", there.host.at(fingerprint.RECORDS)
    record = fingerprint.read_object(f"{directory}/{unit}.json")
    inputs, invocation = record.get("inputs"), there.host.show([unit])[unit].invocation
    if isinstance(inputs, dict) and record.get("invocation") == invocation:
        inputs["setting replica-priority"] = fingerprint.UNSURE
        fingerprint.write_record(unit, invocation, inputs, directory=directory)


def _running(there: InstalledApplication) -> list[RedisAccess]:
    """Return how an operator logs in to the servers of this host that run."""
    host = there.host
    named = json.loads(Path(host.at(f"{there.paths.directory}/cli.json")).read_text())
    found = []
    for kind in _KINDS:
        about = named["redis"]["instances"][kind]
        name = f"{there.app}-{kind}"
        unit = f"redis@{name}.service"
        if host.show([unit])[unit].active != "active":
            continue
        places = [SentinelPlace(str(one["host"]), int(one["port"])) for one in about["sentinels"]]
        found.append(
            RedisAccess(
                str(named["host"]),
                int(about["port"]),
                str(named["redis"]["ca"]),
                "admin",
                admin_password(host.at(f"{there.paths.redis_config}/{name}/users.acl")),
                **named["redis"].get("client", {}),
                primary=name,
                sentinels=tuple(sorted(places, key=lambda place: place.host != named["host"])),
            )
        )
    return found


def _await_priorities(
    there: InstalledApplication, access: RedisAccess, staying: Collection[str]
) -> None:
    """Wait until this host's Sentinel knows that only hosts that stay may get the primary."""
    host, place = there.host, access.sentinels[0]
    sentinel = replace(access, host=place.host, port=place.port)
    deadline = host.clock() + _PATIENCE
    while True:
        [answer] = host.talk(sentinel, [["SENTINEL", "REPLICAS", access.primary]])
        late = [
            one["name"]
            for one in (answer if isinstance(answer, list) else ())
            # Port 0 is a backup that was being made.
            if one["ip"] not in staying and one["slave-priority"] != "0" and one["port"] != "0"
        ]
        if not late:
            return
        if host.clock() > deadline:
            raise RedisError(f"{', '.join(late)} may still get the primary of {access.primary}")
        host.sleep(0.5)
