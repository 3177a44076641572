"""Bring settings and users of a running Redis to what its files say, without a restart.

ACL LOAD would throw out connections of users who did not change (Redis 7.0), so users are set one by one. At first a
user only gains: what it was allowed before, its old password included, stays beside what its file says, and a user who
left the file stays as well. Whoever runs with old settings must be able to go on and to reconnect until it has been
restarted. `finish` ends that; until then the unit's record names these users (`split`, `marks`), so that it is not
forgotten where a run ends before. A server that is started anew has the rules of its file, and a new record.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.fingerprint import (
    Disk,
    users,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.redis_client import (
    RedisError,
    Talk,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.wanted import (
    RedisAccess,
    Unit,
)

# Directives of templates/redis/redis.conf.j2 that CONFIG SET accepts and that change nothing about how the server is
# reached.
LIVE = frozenset(
    (
        "acllog-max-len",
        "appendfsync",
        # Live is also the only safe way: a server that starts with it for the first time starts empty.
        "appendonly",
        "maxmemory",
        "maxmemory-clients",
        "maxmemory-policy",
        "save",
        "tcp-keepalive",
        "timeout",
        "tls-auth-clients",
        "tls-ca-cert-file",
        "tls-cert-file",
        "tls-protocols",
    )
)
# Directives that name a file which CONFIG SET of the same name reads anew.
READ_ANEW = frozenset(("tls-cert-file", "tls-ca-cert-file"))
# The server's own key: systemd hands it over at the start alone, so a new one is put where the running server can read
# it, and set together with its certificate.
_KEY = "tls-key-file"
# Label in the record of a unit for a user who is allowed more than the file says. A label of its own differs from all
# that is ever wanted.
_WIDER = "wider"


@dataclass(frozen=True)
class Change:
    """What has to be set in a running server.

    Attributes:
        settings: Directives with their values.
        users: Names of users that changed or are new.
        gone: Names of users who left the file.
        key: Path of a new key of the server's, which has to lie at the access's `staged_key` before.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    users: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    key: str = ""


def change_between(
    known: Mapping[str, str], wanted: Mapping[str, str], unit: Unit
) -> Change | None:
    """What brings a server from its fingerprints to the wanted ones; nothing where only a restart does."""
    settings: dict[str, str] = {}
    changed: list[str] = []
    gone: list[str] = []
    key = ""
    for label in sorted(known.keys() | wanted.keys()):
        if known.get(label) == wanted.get(label):
            continue
        kind, _, name = label.partition(" ")
        if kind == "setting" and name in LIVE and label in wanted:
            # A directive that stands there several times, such as save, is one value to CONFIG SET.
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
    return Change(settings, tuple(changed), tuple(gone), key)


def _new_key(name: str, wanted: Mapping[str, str], unit: Unit) -> str:
    """Path of the file whose content the server's key is, where it is that file that changed and it can be staged."""
    own = os.path.basename(wanted.get(f"setting {_KEY}", ""))
    if unit.redis is None or not unit.redis.staged_key or "setting tls-cert-file" not in wanted:
        return ""
    paths = [path for path in unit.files if name in (path, os.path.basename(path))]
    return next((path for path in paths if os.path.basename(path) == own), "")


def stage(source: str, target: str) -> None:
    """Put a key where the running server can read it: its directory's owner alone may.

    Raises:
        RedisError: The server's directory is not there.
    """
    fresh = f"{target}.{os.getpid()}"
    try:
        owner = os.stat(os.path.dirname(target))
        with open(source, "rb") as stream:
            content = stream.read()
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o400)
        with os.fdopen(handle, "wb") as stream:
            os.fchown(handle, owner.st_uid, owner.st_gid)
            stream.write(content)
        os.replace(fresh, target)
    except OSError as error:
        raise RedisError(f"its new key can't be put at {target}: {error.strerror}") from None


def _read_anew(name: str, wanted: Mapping[str, str], unit: Unit) -> dict[str, str]:
    paths = [path for path in unit.files if name in (path, os.path.basename(path))]
    return {
        directive: path
        for directive in READ_ANEW
        for path in paths
        if wanted.get(f"setting {directive}") == path
    }


def wanted_users(unit: Unit, disk: Disk) -> dict[str, str]:
    """Rules of each user that the unit's ACL file has."""
    texts = (disk.read(path) for path in unit.files if os.path.basename(path) == "users.acl")
    return {
        name: rules
        for text in texts
        if text is not None
        for name, rules in users(text.decode(errors="surrogateescape")).items()
    }


def split(known: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The inputs of a record, and the users of whom it says that they may still do what they could before."""
    wider = {label for label in known if label.partition(" ")[0] == _WIDER}
    inputs = {label: value for label, value in known.items() if label not in wider}
    return inputs, sorted(label.partition(" ")[2] for label in wider)


def marks(users: Iterable[str]) -> dict[str, str]:
    """What a record says of such users; see `split`."""
    return {f"{_WIDER} {name}": "until finished" for name in users}


def apply(
    access: RedisAccess, change: Change, rules: Mapping[str, str], talk: Talk
) -> tuple[str, ...]:
    """Set it without taking anything from a user: first the settings, all or none of them, then user after user.

    Args:
        access: How to reach the server.
        change: What to set.
        rules: Of the users, as the ACL file has them.
        talk: Sends the commands.

    Returns:
        The users who were there before and may still do what they could, those to delete among them.

    Raises:
        RedisError: The server refused a command; nothing after it was set.
    """
    _set(access, change.settings, talk)
    before = _users(access, change.users, talk)
    for name in change.users:
        kept = _kept(rules[name].split(), before[name]) if name in before else []
        _set_user(access, name, [*rules[name].split(), *kept], talk)
    return (*before, *change.gone)


def finish(
    access: RedisAccess,
    change: Change,
    wider: Iterable[str],
    rules: Mapping[str, str],
    talk: Talk,
) -> None:
    """Set it, and leave all whom it concerns, and the `wider`, what the file says and no more.

    Raises:
        RedisError: See `apply`.
    """
    _set(access, change.settings, talk)
    for name in sorted({*change.users, *change.gone, *wider}):
        if name in rules:
            _set_user(access, name, rules[name].split(), talk)
        else:
            talk(access, [["ACL", "DELUSER", name]])


def _set(access: RedisAccess, settings: Mapping[str, str], talk: Talk) -> None:
    if settings:
        words = [word for pair in settings.items() for word in pair]
        _agreed(talk(access, [["CONFIG", "SET", *words]]), "settings")


def _set_user(access: RedisAccess, name: str, rules: Sequence[str], talk: Talk) -> None:
    """Exactly so, at once: no command of anybody falls into the time between."""
    _agreed(talk(access, [["ACL", "SETUSER", name, "reset", *rules]]), f"user {name}")


def _kept(rules: Sequence[str], before: Mapping[str, Any]) -> list[str]:
    """Rules that leave a user, beside its own, what it may do now.

    As selectors, so that nothing is allowed that neither the old nor the new rules allow: a command that is new does
    not reach a key that is old. What takes away (`-command`, `off`) takes nothing from the other.
    """
    kept = list(dict.fromkeys(_selector(part) for part in (before, *before["selectors"])))
    if "on" not in before["flags"]:
        # Its passwords opened nothing.
        return kept
    kept.append("on")
    if "nopass" in before["flags"] or _without_password(rules):
        # A password beside it would take that away.
        return [*kept, "nopass"]
    return [*kept, *(f"#{digest}" for digest in before["passwords"])]


def _selector(part: Mapping[str, Any]) -> str:
    # What a selector begins with is a matter of the server's `acl-pubsub-default`.
    rules = ("resetchannels", part["commands"], part["keys"], part["channels"])
    return f"({' '.join(rule for rule in rules if rule)})"


def _without_password(rules: Sequence[str]) -> bool:
    """Whether the last word on passwords is that none is needed."""
    words = [word for word in rules if word in ("nopass", "resetpass") or word[0] in "#>"]
    return words[-1:] == ["nopass"]


def takes_password(access: RedisAccess, talk: Talk) -> bool:
    """Whether the server knows the user with this password now."""
    try:
        return talk(access, [["PING"]]) == ["PONG"]
    except RedisError:
        return False


def _users(access: RedisAccess, names: Sequence[str], talk: Talk) -> dict[str, Mapping[str, Any]]:
    """What the server knows of users, without those whom it does not know."""
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
