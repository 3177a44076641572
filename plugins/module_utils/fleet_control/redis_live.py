"""Bring settings and users of a running Redis to what its files say, without a restart.

ACL LOAD would throw out connections of users who did not change (Redis 7.0), so users are set one by one. While a
password changes, the old one is kept beside the new one: whoever runs with it must be able to reconnect until it has
been restarted. `surplus` finds such passwords, and a change without `keep` ends them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .fingerprint import Disk, users
from .wanted import RedisAccess, Unit

# Directives that CONFIG SET of Redis 7.0 takes and that change nothing about how the server is reached: those that the
# fleet's template writes, and what else people commonly set.
LIVE = frozenset(
    (
        "acllog-max-len",
        "active-defrag-cycle-max",
        "active-defrag-cycle-min",
        "active-defrag-ignore-bytes",
        "active-defrag-threshold-lower",
        "active-defrag-threshold-upper",
        "active-expire-effort",
        "activedefrag",
        "activerehashing",
        "aof-load-truncated",
        "aof-rewrite-incremental-fsync",
        "aof-timestamp-enabled",
        "aof-use-rdb-preamble",
        "appendfsync",
        # Live is also the only safe way: a server that starts with it for the first time starts empty.
        "appendonly",
        "auto-aof-rewrite-min-size",
        "auto-aof-rewrite-percentage",
        "busy-reply-threshold",
        "client-output-buffer-limit",
        "client-query-buffer-limit",
        "dynamic-hz",
        "hash-max-listpack-entries",
        "hash-max-listpack-value",
        "hz",
        "jemalloc-bg-thread",
        "latency-monitor-threshold",
        "latency-tracking",
        "lazyfree-lazy-eviction",
        "lazyfree-lazy-expire",
        "lazyfree-lazy-server-del",
        "lazyfree-lazy-user-del",
        "lazyfree-lazy-user-flush",
        "lfu-decay-time",
        "lfu-log-factor",
        "list-compress-depth",
        "list-max-listpack-size",
        "loglevel",
        "maxclients",
        "maxmemory",
        "maxmemory-clients",
        "maxmemory-eviction-tenacity",
        "maxmemory-policy",
        "maxmemory-samples",
        "no-appendfsync-on-rewrite",
        "notify-keyspace-events",
        "proto-max-bulk-len",
        "rdb-save-incremental-fsync",
        "rdbcompression",
        "save",
        "set-max-intset-entries",
        "shutdown-timeout",
        "slowlog-log-slower-than",
        "slowlog-max-len",
        "stop-writes-on-bgsave-error",
        "stream-node-max-bytes",
        "stream-node-max-entries",
        "tcp-keepalive",
        "timeout",
        "tls-auth-clients",
        "tls-ca-cert-file",
        "tls-cert-file",
        "tls-ciphers",
        "tls-ciphersuites",
        "tls-prefer-server-ciphers",
        "tls-protocols",
        "tls-session-cache-size",
        "tls-session-cache-timeout",
        "tls-session-caching",
        "tracking-table-max-keys",
        "zset-max-listpack-entries",
        "zset-max-listpack-value",
    )
)
# Directives that name a file which CONFIG SET of the same name reads anew.
READ_ANEW = frozenset(("tls-cert-file", "tls-ca-cert-file"))
# Seconds for the server's answer to all commands of one change.
_PATIENCE = 20.0
_CLI = "/usr/bin/redis-cli"


class RedisError(Exception):
    """A server did not take a change, or did not answer; the message holds no secret."""


Command = Sequence[str]
# Sends commands and returns the answer to each.
Talk = Callable[[RedisAccess, Sequence[Command]], list[object]]


@dataclass(frozen=True)
class Change:
    """What has to be set in a running server.

    Attributes:
        settings: Directives with their values.
        users: Names of users that changed or are new.
        gone: Names of users to delete.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    users: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


def change_between(
    known: Mapping[str, str], wanted: Mapping[str, str], unit: Unit
) -> Change | None:
    """What brings a server from its fingerprints to the wanted ones; nothing where only a restart does."""
    settings: dict[str, str] = {}
    changed: list[str] = []
    gone: list[str] = []
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
        else:
            return None
    return Change(settings, tuple(changed), tuple(gone))


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


def apply(
    access: RedisAccess, change: Change, rules: Mapping[str, str], *, keep: bool, talk: Talk
) -> None:
    """Set it: first the settings, all or none of them, then user after user, each at once.

    Args:
        access: How to reach the server.
        change: What to set.
        rules: Of the users, as the ACL file has them.
        keep: Whether a user's older passwords go on being accepted.
        talk: Sends the commands.

    Raises:
        RedisError: The server refused a command; nothing after it was set.
    """
    if change.settings:
        words = [word for pair in change.settings.items() for word in pair]
        _agreed(talk(access, [["CONFIG", "SET", *words]]), "settings")
    hashes = _hashes(access, change.users, talk) if keep else {}
    for name in change.users:
        own = rules.get(name, "").split()
        old = hashes.get(name, set()) - _passwords(own)
        # A password beside `nopass` would take that away.
        kept = [] if "nopass" in own else [f"#{digest}" for digest in sorted(old)]
        _agreed(talk(access, [["ACL", "SETUSER", name, "reset", *own, *kept]]), f"user {name}")
    for name in change.gone:
        talk(access, [["ACL", "DELUSER", name]])


def surplus(access: RedisAccess, rules: Mapping[str, str], talk: Talk) -> list[str]:
    """Users for whom the server accepts a password that their rules do not name."""
    hashes = _hashes(access, tuple(rules), talk)
    return [name for name in rules if hashes.get(name, set()) - _passwords(rules[name].split())]


def takes_password(access: RedisAccess, talk: Talk) -> bool:
    """Whether the server knows the user with this password now."""
    try:
        return talk(access, [["PING"]]) == ["PONG"]
    except RedisError:
        return False


def _hashes(access: RedisAccess, names: Sequence[str], talk: Talk) -> dict[str, set[str]]:
    if not names:
        return {}
    answers = talk(access, [["ACL", "GETUSER", name] for name in names])
    return {
        name: {str(digest) for digest in answer.get("passwords", [])}
        for name, answer in zip(names, answers, strict=True)
        if isinstance(answer, dict)
    }


def _passwords(rules: Sequence[str]) -> set[str]:
    plain = {
        hashlib.sha256(word[1:].encode(errors="surrogateescape")).hexdigest()
        for word in rules
        if word.startswith(">")
    }
    return plain | {word[1:] for word in rules if word.startswith("#")}


def _agreed(answers: Sequence[object], what: str) -> None:
    if list(answers) != ["OK"]:
        raise RedisError(f"it answered {answers!r} to {what}")


# --- the client ----------------------------------------------------------------------------------------


def _quoted(word: str) -> str:
    """One word of a command as redis-cli reads it from its standard input."""
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}"
        for byte in word.encode(errors="surrogateescape")
    )
    return f'"{escaped}"'


def redacted(text: str) -> str:
    """A server's message without passwords and their hashes, which it repeats where it refuses them."""
    return re.sub(r"(?<![\w-])[><#!][^\s'\"]+", "<secret>", text)


def parse_answers(output: str, commands: Sequence[Command]) -> list[object]:
    """What redis-cli printed for each command with `--json`: a line of JSON, or `error:` and its text.

    Raises:
        RedisError: A command was refused or has no answer.
    """
    lines = output.splitlines()
    answers: list[object] = []
    for number, command in enumerate(commands):
        what = " ".join(command[:2])
        line = lines[number] if number < len(lines) else ""
        if line.startswith("error:"):
            raise RedisError(f"it refused {what}: {redacted(line.removeprefix('error:'))}")
        try:
            answers.append(json.loads(line))
        except ValueError:
            raise RedisError(f"it gave no answer to {what}") from None
    return answers


def talk_by_cli(access: RedisAccess, commands: Sequence[Command]) -> list[object]:
    """Send commands over TLS by redis-cli: by standard input, since anybody can read a command line.

    Raises:
        RedisError: It can't be reached, refuses the login or a command.
    """
    where = f"{access.host}:{access.port}"
    arguments = ["--tls", "--cacert", access.ca, "-h", access.host, "-p", str(access.port)]
    text = "".join(" ".join(_quoted(word) for word in command) + "\n" for command in commands)
    try:
        done = subprocess.run(
            [_CLI, *arguments, "--user", access.user, "--no-auth-warning", "--json"],
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            env={"LC_ALL": "C.UTF-8", "REDISCLI_AUTH": access.password},
            check=False,
        )
    except FileNotFoundError:
        raise RedisError(f"{_CLI} is not installed") from None
    except subprocess.TimeoutExpired:
        raise RedisError(f"Redis at {where} did not answer within {_PATIENCE:.0f} s") from None
    trouble = [
        line for line in done.stderr.splitlines() if "AUTH failed" in line or "connect" in line
    ]
    if trouble:
        raise RedisError(f"Redis at {where}, user {access.user}: {redacted(trouble[0])}")
    try:
        return parse_answers(done.stdout, commands)
    except RedisError as error:
        raise RedisError(f"Redis at {where}, user {access.user}: {error}") from None
