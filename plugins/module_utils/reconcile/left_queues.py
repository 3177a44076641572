"""Finds tasks that wait in queues of a broker which the inventory no longer names, so that no worker runs them.

Runs on the host, inside the modules `reconcile` and `remove_application`, as root.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any, cast

from .desired_state import RedisAccess
from .redis_client import Talk

#: The plan's text if tasks wait in such queues.
TASKS_WAIT = "tasks wait in queues that the inventory does not name"
# What the user `admin` needs for it: the names of all keys and the lengths of lists, but no content.
RIGHTS = "+scan +llen %R~*"
# Maximum number of keys that one SCAN looks at, which takes Redis a few milliseconds.
_AT_ONCE = "10000"
# What kombu appends to the name of a queue for the list of a lower priority, and the ACL's pattern for it.
_PRIORITY = re.compile(r"\x06\x16\d+\Z")
PRIORITIES = "??[369]"


def waiting(access: RedisAccess, known: Collection[str], talk: Talk) -> dict[str, int]:
    """Return how many messages wait in each queue that is not known and not empty.

    Args:
        access: How `admin` logs in to the broker.
        known: Names of queues and other lists, or patterns with `*`.
        talk: Sends the commands.

    Raises:
        RedisError: The server does not answer, or `admin` lacks `RIGHTS`.
    """
    patterns = [name for name in known if "*" in name]
    lists: dict[str, str] = {}
    cursor = ""
    while cursor != "0":
        command = ["SCAN", cursor or "0", "COUNT", _AT_ONCE, "TYPE", "list"]
        [answer] = talk(access, [command])
        cursor, keys = cast("list[Any]", answer)
        lists.update({key: _PRIORITY.sub("", key) for key in keys})
    left = {
        key: queue
        for key, queue in sorted(lists.items())
        if queue not in known and not any(fnmatchcase(queue, pattern) for pattern in patterns)
    }
    lengths = talk(access, [["LLEN", key] for key in left]) if left else []
    found: dict[str, int] = {}
    for queue, length in zip(left.values(), lengths, strict=True):
        found[queue] = found.get(queue, 0) + int(str(length))
    return {queue: length for queue, length in found.items() if length}


def named(rules: Mapping[str, str], admin: str) -> set[str]:
    """Return the keys that clients may use by the rules of an ACL file, a queue's lists by its name only.

    Args:
        rules: The rules of each user.
        admin: The user with `RIGHTS`. No client logs in as this user, nor as `default`.
    """
    words = (
        word.rstrip(")").partition("~")
        for name, text in rules.items()
        if name not in ("default", admin)
        for word in text.split()
    )
    return {key.removesuffix(PRIORITIES) for kind, _, key in words if kind in ("", "%R", "%W")}


def keys_of(queues: Collection[str]) -> str:
    """Return the patterns of all lists of these queues, which may have any names, for an ACL rule."""
    # `?` stands for any character, also for one that a rule can't have or that is part of a pattern.
    names = [re.sub(r"[^\w.:@+=~/-]", "?", queue) for queue in sorted(queues)]
    return " ".join(f"~{name} ~{name}{PRIORITIES}" for name in names)
