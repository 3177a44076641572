"""Moves the role of the primary to a replica before a server restarts, and waits for the replication afterwards.

Runs on the host, inside the `reconcile` module. Sentinels decide which replica becomes the primary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from .desired_state import RedisAccess
from .redis_client import Command, RedisError, RedisUntrustedError, Talk

# Without writes, so that the replica has all of them when it becomes the primary. It is longer than the time between
# two of our questions, and ends by itself.
_PAUSE: Command = ("CLIENT", "PAUSE", "5000", "WRITE")
# Seconds within which a replica has to be the primary.
_PATIENCE = 20.0
_REPLICA = re.compile(r"slave\d+")


def replication(access: RedisAccess, talk: Talk) -> dict[str, str]:
    """Return what a server says of its replication.

    Raises:
        RedisError: The server does not answer.
    """
    [answer] = talk(access, [["INFO", "replication"]])
    return dict(line.partition(":")[::2] for line in str(answer).splitlines() if ":" in line)


def is_connected(found: Mapping[str, str], replicas: int = 1) -> bool:
    """Return whether a replica has its primary's data, or a primary has so many replicas."""
    if found.get("role") == "slave":
        return found.get("master_link_status") == "up"
    online = sum(
        "state=online" in value.split(",")
        for key, value in found.items()
        if _REPLICA.fullmatch(key)
    )
    return found.get("role") == "master" and online >= replicas


def untrusted(access: RedisAccess, talk: Talk) -> str:
    """Return the first host with a Sentinel whose certificate is not valid; empty if there is none."""
    for place in access.sentinels:
        try:
            talk(replace(access, host=place.host, port=place.port), [["PING"]])
        except RedisUntrustedError:
            return place.host
        except RedisError:
            continue
    return ""


def hand_over(
    access: RedisAccess, talk: Talk, clock: Callable[[], float], sleep: Callable[[float], None]
) -> tuple[str, int] | None:
    """Let a replica become the primary if this server is the primary, and stop its writes until it restarts.

    Sentinel would make it a replica later: its own messages wait for the end of the pause as well.

    Returns:
        Host and port of the new primary; None for a replica, and for a primary without one, which stays what it is.

    Raises:
        RedisError: The server does not answer, all Sentinels refuse, or no replica becomes the primary in time.
    """
    found = replication(access, talk)
    if found.get("role") != "master" or not is_connected(found):
        return None
    refusals = []
    for place in access.sentinels:
        sentinel = replace(access, host=place.host, port=place.port)
        try:
            before = _primary(sentinel, talk)
            talk(access, [_PAUSE])
            talk(sentinel, [["SENTINEL", "FAILOVER", access.primary]])
            return _next_primary(access, sentinel, before, talk, clock, sleep)
        except RedisError as error:
            refusals.append(str(error))
    talk(access, [["CLIENT", "UNPAUSE"]])
    raise RedisError("; ".join(refusals))


def _next_primary(
    access: RedisAccess,
    sentinel: RedisAccess,
    before: object,
    talk: Talk,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> tuple[str, int]:
    deadline = clock() + _PATIENCE
    while (now := _primary(sentinel, talk)) == before:
        if clock() > deadline:
            raise RedisError(
                f"no replica was the primary {_PATIENCE:.0f} s after SENTINEL FAILOVER"
            )
        talk(access, [_PAUSE])
        sleep(0.2)
    return now


def _primary(sentinel: RedisAccess, talk: Talk) -> tuple[str, int]:
    [answer] = talk(sentinel, [["SENTINEL", "GET-MASTER-ADDR-BY-NAME", sentinel.primary]])
    if not isinstance(answer, list) or len(answer) != 2:
        raise RedisError(f"Sentinel at {sentinel.host} knows no primary {sentinel.primary}")
    return str(answer[0]), int(answer[1])


def role(primary: tuple[str, int]) -> bytes:
    """Return the content of the file with which a replica of this primary starts."""
    return f"replicaof {primary[0]} {primary[1]}\n".encode()
