"""Changes settings and users of a running Redis to match its files, without a restart.

ACL LOAD would close connections of users that did not change (Redis 7.0), so users are set one by one. At first a user
only gains rights: it keeps its previous rights and password in addition to those in the file, and a user that was
removed from the file stays. Clients with old settings must be able to work and reconnect until they are restarted.
`finish` removes the additional rights. Until then the unit's record names these users (`split`, `marks`), so the
next run knows them if this one ends early. A restarted server has the rules in its file and a new record.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import files
from .desired_state import RedisAccess, Unit
from .fingerprint import Disk, directives, users
from .left_queues import keys_of
from .redis_client import RedisError, Talk

# Directives of redis.conf.j2 that CONFIG SET accepts and that don't change the server's address.
LIVE = frozenset(
    (
        "acllog-max-len",
        "appendfsync",
        # The server has written what it reads with it (`redis_prepare`).
        "appendonly",
        "client-output-buffer-limit",
        "maxmemory",
        "maxmemory-clients",
        "maxmemory-policy",
        "min-replicas-max-lag",
        "min-replicas-to-write",
        "repl-backlog-size",
        "replica-priority",
        "save",
        "tcp-keepalive",
        "timeout",
        "tls-auth-clients",
        "tls-ca-cert-file",
        "tls-cert-file",
        "tls-protocols",
    )
)
# A directive in login.conf that CONFIG SET accepts. A record has only its fingerprint.
_FOR_PRIMARY = "masterauth"
# Directives that name a file, which CONFIG SET with the same name reads again.
READ_AGAIN = frozenset(("tls-cert-file", "tls-ca-cert-file"))
# The server's own key. systemd only passes it on at the start. So a new key is copied to a directory that the running
# server can read, and set together with its certificate.
_KEY = "tls-key-file"
# The users with which servers and Sentinels log in to each other.
SERVERS = frozenset(("replica", "sentinel"))
# The user of the operator's command.
_OPERATOR = "operator"
# Label in a unit's record for a user that has more rights than its file says. No desired state has it, so it differs.
_WIDER = "wider"
#: Until when users keep rights on queues that left.
EMPTY = "empty"
#: The end of the plan's text for such users.
STILL_ALLOWED = "what was allowed before still is"


@dataclass(frozen=True)
class LiveChange:
    """The changes to make in a running server.

    Attributes:
        settings: Directives with their values; one is a password.
        users: Names of changed and new users.
        gone: Names of users that were removed from the file.
        key: Path of the server's new key, which has to be copied to `RedisAccess.staged_key` first.
    """

    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    users: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    key: str = ""


def change_between(
    known: Mapping[str, str], wanted: Mapping[str, str], unit: Unit, disk: Disk
) -> LiveChange | None:
    """Return the changes that bring a server to the wanted fingerprints; None if it has to be restarted."""
    settings: dict[str, str] = {}
    changed: list[str] = []
    gone: list[str] = []
    key = ""
    for label in sorted(known.keys() | wanted.keys()):
        if known.get(label) == wanted.get(label):
            continue
        kind, _, name = label.partition(" ")
        if kind == "setting" and name == _FOR_PRIMARY and label in wanted:
            settings[name] = _of_disk(unit, disk)
        elif kind == "setting" and name in LIVE and label in wanted:
            # CONFIG SET takes a repeated directive, such as save, as a single value.
            settings[name] = wanted[label].replace("; ", " ")
        elif kind == "user" and label in wanted:
            changed.append(name)
        elif kind == "user" and name != "default":
            gone.append(name)
        elif kind == "file" and (found := _read_anew(name, wanted, unit)):
            settings.update(found)
        elif kind == "file" and (path := _new_key(name, wanted, unit)):
            key = path
        else:
            return None
    if key and unit.redis:
        settings |= {_KEY: unit.redis.staged_key, "tls-cert-file": wanted["setting tls-cert-file"]}
    return LiveChange(settings, tuple(changed), tuple(gone), key)


def _of_disk(unit: Unit, disk: Disk) -> str:
    """Return the password with which a replica logs in to its primary."""
    found = [directives(text) for text in texts(unit, disk, "login.conf")]
    return next((one[_FOR_PRIMARY] for one in found if _FOR_PRIMARY in one), "")


def texts(unit: Unit, disk: Disk, name: str) -> list[str]:
    """Return the contents of the unit's files of this name."""
    contents = (disk.read(path) for path in unit.files if os.path.basename(path) == name)
    return [one.decode(errors="surrogateescape") for one in contents if one is not None]


def _new_key(name: str, wanted: Mapping[str, str], unit: Unit) -> str:
    """Return the path of the server's key file if that is the file that changed and it can be staged."""
    own = os.path.basename(wanted.get(f"setting {_KEY}", ""))
    if unit.redis is None or not unit.redis.staged_key or "setting tls-cert-file" not in wanted:
        return ""
    paths = [path for path in unit.files if name in (path, os.path.basename(path))]
    return next((path for path in paths if os.path.basename(path) == own), "")


def stage(source: str, target: str) -> None:
    """Copy a key to a path that the running server can read, but no user except the directory's owner.

    Raises:
        RedisError: The key can't be written, for example because the directory is missing.
    """
    try:
        with open(source, "rb") as stream:
            content = stream.read()
        put(target, content, 0o400)
    except OSError as error:
        raise RedisError(f"its new key can't be put at {target}: {error.strerror}") from None


def put(target: str, content: bytes, mode: int) -> None:
    """Write a file for the server into a directory of the server's user, to whom it belongs.

    Raises:
        OSError: It can't be written.
    """
    owner = os.stat(os.path.dirname(target))
    files.replace(Path(target), content, mode, owner.st_uid, owner.st_gid)


def _read_anew(name: str, wanted: Mapping[str, str], unit: Unit) -> dict[str, str]:
    paths = [path for path in unit.files if name in (path, os.path.basename(path))]
    return {
        directive: path
        for directive in READ_AGAIN
        for path in paths
        if wanted.get(f"setting {directive}") == path
    }


def wanted_users(unit: Unit, disk: Disk) -> dict[str, str]:
    """Return the rules of each user in the unit's ACL file."""
    return {
        name: rules
        for text in texts(unit, disk, "users.acl")
        for name, rules in users(text).items()
    }


def split(known: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Split a record into its inputs and the users that, according to it, still have their previous rights."""
    wider = {label for label in known if label.partition(" ")[0] == _WIDER}
    inputs = {label: value for label, value in known.items() if label not in wider}
    return inputs, sorted(label.partition(" ")[2] for label in wider)


def marks(users: Iterable[str], until: str = "finished") -> dict[str, str]:
    """Return the record's entries for such users; see `split`. Those of `leave` are marked until `EMPTY`."""
    return {f"{_WIDER} {name}": f"until {until}" for name in users}


def apply(
    access: RedisAccess, change: LiveChange, rules: Mapping[str, str], talk: Talk
) -> tuple[str, ...]:
    """Make the changes without taking rights from any user: first all settings at once, then each user.

    Args:
        access: How to reach the server.
        change: The changes to make.
        rules: The users' rules in the ACL file.
        talk: Sends the commands.

    Returns:
        The users that existed before and keep their previous rights, including those to delete.

    Raises:
        RedisError: The server refused a command; nothing after it was set.
    """
    _set(access, change.settings, talk)
    before = rights(access, change.users, talk)
    _widen(access, change.users, before, rules, talk)
    return (*before, *change.gone)


def keep(
    access: RedisAccess,
    before: Mapping[str, Mapping[str, Any]],
    rules: Mapping[str, str],
    talk: Talk,
) -> None:
    """Give users of the file back what they had before the server restarted, in addition to their rules.

    Raises:
        RedisError: The server refused a command; nothing after it was set.
    """
    _widen(access, before, before, rules, talk)


def revoke(
    access: RedisAccess,
    change: LiveChange,
    wider: Iterable[str],
    rules: Mapping[str, str],
    talk: Talk,
) -> tuple[str, ...]:
    """Do what `finish` does, and close the users' connections: a server does not ask those for a new password.

    The users of servers and Sentinels keep their previous rights: these learn their new passwords one by one, and would
    replace a primary to which they can't connect.

    Returns:
        The users that keep their previous rights.

    Raises:
        RedisError: See `apply`.
    """
    servers = tuple(name for name in change.users if name in SERVERS)
    kept = apply(access, LiveChange(users=servers), rules, talk)
    others = [name for name in change.users if name not in SERVERS]
    wider = [name for name in wider if name not in SERVERS]
    finish(access, replace(change, users=tuple(others)), wider, rules, talk)
    for name in sorted({*others, *wider}.intersection(rules)):
        talk(access, [["CLIENT", "KILL", "USER", name]])
    return kept


def finish(
    access: RedisAccess,
    change: LiveChange,
    wider: Iterable[str],
    rules: Mapping[str, str],
    talk: Talk,
) -> None:
    """Make the changes, and limit the changed users and those in `wider` to the rules in the file.

    Raises:
        RedisError: See `apply`.
    """
    _set(access, change.settings, talk)
    for name in sorted({*change.users, *change.gone, *wider}):
        if name in rules:
            _set_user(access, name, rules[name].split(), talk)
        else:
            talk(access, [["ACL", "DELUSER", name]])


def leave(
    access: RedisAccess, queues: Collection[str], rules: Mapping[str, str], talk: Talk
) -> list[str]:
    """Let the operator look at these queues and empty them, in addition to the rules in the file.

    Returns:
        The users that have more rights than their rules.

    Raises:
        RedisError: See `apply`.
    """
    found = rights(access, [_OPERATOR], talk) if queues and _OPERATOR in rules else {}
    for name, now in found.items():
        kept = _selector({**now, "keys": keys_of(queues), "channels": ""})
        _set_user(access, name, [*rules[name].split(), kept], talk)
    return list(found)


def _set(access: RedisAccess, settings: Mapping[str, str], talk: Talk) -> None:
    if settings:
        words = [word for pair in settings.items() for word in pair]
        _agreed(talk(access, [["CONFIG", "SET", *words]]), "settings")


def _widen(
    access: RedisAccess,
    names: Iterable[str],
    before: Mapping[str, Mapping[str, Any]],
    rules: Mapping[str, str],
    talk: Talk,
) -> None:
    """Set the rules of these users in the file, and what they had before in addition."""
    for name in names:
        own = rules[name].split()
        kept = _kept(own, before[name]) if name in before else []
        _set_user(access, name, [*own, *kept], talk)


def _set_user(access: RedisAccess, name: str, rules: Sequence[str], talk: Talk) -> None:
    """Set exactly these rules in one command, so that no client command runs in between."""
    _agreed(talk(access, [["ACL", "SETUSER", name, "reset", *rules]]), f"user {name}")


def _kept(rules: Sequence[str], before: Mapping[str, Any]) -> list[str]:
    """Return additional rules with which a user keeps its current rights.

    They are selectors, so they allow nothing that neither the old nor the new rules allow: a new command can't access
    an old key. A rule that removes rights (`-command`, `off`) only affects its own set of rules.
    """
    kept = list(dict.fromkeys(_selector(part) for part in (before, *before["selectors"])))
    if "on" not in before["flags"]:
        # The user was off, so its passwords gave no access.
        return kept
    kept.append("on")
    if "nopass" in before["flags"] or _without_password(rules):
        # Adding a password would end `nopass`.
        return [*kept, "nopass"]
    return [*kept, *(f"#{digest}" for digest in before["passwords"])]


def _selector(part: Mapping[str, Any]) -> str:
    # The server's `acl-pubsub-default` decides with which channels a selector begins.
    rules = ("resetchannels", part["commands"], part["keys"], part["channels"])
    return f"({' '.join(rule for rule in rules if rule)})"


def _without_password(rules: Sequence[str]) -> bool:
    """Return whether the last rule about passwords says that none is needed."""
    words = [word for word in rules if word in ("nopass", "resetpass") or word[0] in "#>"]
    return words[-1:] == ["nopass"]


def logins(unit: Unit, disk: Disk) -> list[RedisAccess]:
    """Return how to log in to a server: with the wanted password, and with others in the unit's ACL file."""
    if unit.redis is None:
        return []
    rules = wanted_users(unit, disk).get(unit.redis.user, "").split()
    words = [unit.redis.password, *(rule[1:] for rule in rules if rule.startswith(">"))]
    return [replace(unit.redis, password=word) for word in dict.fromkeys(words)]


def takes_password(access: RedisAccess, talk: Talk) -> bool:
    """Return whether the server currently accepts this user and password."""
    try:
        return talk(access, [["PING"]]) == ["PONG"]
    except RedisError:
        return False


def rights(access: RedisAccess, names: Sequence[str], talk: Talk) -> dict[str, Mapping[str, Any]]:
    """Return what a server says of these users, without those that it does not know."""
    if not names:
        return {}
    answers = talk(access, [["ACL", "GETUSER", name] for name in names])
    return {
        name: answer
        for name, answer in zip(names, answers, strict=True)
        if isinstance(answer, dict)
    }


def _agreed(answers: Sequence[object], what: str) -> None:
    if list(answers) != ["OK"]:
        raise RedisError(f"it answered {answers!r} to {what}")
