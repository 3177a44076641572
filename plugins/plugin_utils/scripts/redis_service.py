"""Asks Redis servers that the fleet does not run what they are and what they allow.

This file is not imported on the host but sent there as text. Input: JSON on stdin with `servers`, each with `kind`,
`url` and `ca`, which is PEM text or empty for the authorities of the host's system. Output: one JSON object with an
answer for each kind:

    {broker: {version: "7.2.4", role: master, cluster: "0", policy: noeviction, aof: "1", refused: {COMMAND: reason}}}

An answer is `{error: reason}` if the server can't be used at all, and lacks what the server does not tell. All keys
begin with `fleet:probe` and are deleted again.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import sys
from typing import Any, BinaryIO
from urllib.parse import SplitResult, unquote, urlsplit

TIMEOUT = 5.0
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"

KEY = f"fleet:probe:{os.getpid()}:{socket.gethostname()}"
LIST, HASH, SORTED, SET, TEXT = (
    f"{KEY}:{kind}" for kind in ("list", "hash", "zset", "set", "text")
)
SHA = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"
# The commands of Celery, kombu and the fleet's own delivery. Each has an argument that does no harm.
NEEDED = (
    ("HELLO",),
    ("LPUSH", LIST, "x"),
    ("RPUSH", LIST, "x"),
    ("LLEN", LIST),
    ("LRANGE", LIST, "0", "0"),
    ("LREM", LIST, "1", "y"),
    ("LTRIM", LIST, "0", "-1"),
    ("BLMOVE", LIST, LIST, "RIGHT", "RIGHT", "0.1"),
    ("RPOP", LIST),
    ("BRPOP", LIST, "1"),
    ("HSET", HASH, "x", "y"),
    ("HGET", HASH, "x"),
    ("HEXISTS", HASH, "x"),
    ("HLEN", HASH),
    ("HSCAN", HASH, "0"),
    ("HDEL", HASH, "x"),
    ("ZADD", SORTED, "1", "x"),
    ("ZCARD", SORTED),
    ("ZCOUNT", SORTED, "0", "1"),
    ("ZRANGE", SORTED, "0", "0"),
    ("ZRANGEBYSCORE", SORTED, "0", "1"),
    ("ZREVRANGEBYSCORE", SORTED, "1", "0"),
    ("ZSCORE", SORTED, "x"),
    ("ZSCAN", SORTED, "0"),
    ("ZREM", SORTED, "x"),
    ("SADD", SET, "x"),
    ("SISMEMBER", SET, "x"),
    ("SMEMBERS", SET),
    ("SREM", SET, "x"),
    ("SET", TEXT, "1"),
    ("GET", TEXT),
    ("MGET", TEXT),
    ("INCRBY", TEXT, "1"),
    ("EXPIRE", TEXT, "60"),
    ("SETEX", TEXT, "60", "1"),
    ("EXISTS", TEXT),
    ("TIME",),
    ("SCRIPT", "LOAD", "return 1"),
    ("EVALSHA", SHA, "0"),
    ("WATCH", TEXT),
    ("UNWATCH",),
    ("MULTI",),
    ("DISCARD",),
    ("MULTI",),
    ("EXEC",),
    ("PUBLISH", KEY, "x"),
    ("DEL", LIST, HASH, SORTED, SET, TEXT),
    ("SUBSCRIBE", KEY),
    ("UNSUBSCRIBE", KEY),
    ("PSUBSCRIBE", f"{KEY}*"),
    ("PUNSUBSCRIBE", f"{KEY}*"),
)
# What the fleet can do without.
OPTIONAL = (("CLIENT", "TRACKING", "ON"), ("CLIENT", "TRACKING", "OFF"))


class ServerError(Exception):
    """The server's answer is an error."""


class Connection:
    """A connection with RESP2, which every server speaks."""

    def __init__(self, address: SplitResult, ca: str) -> None:
        """Connect and log in.

        Raises:
            OSError, ValueError, ServerError: The server can't be reached or verified, or refuses the login.
        """
        plain = socket.create_connection((address.hostname or "", address.port or 6379), TIMEOUT)
        if address.scheme == "rediss":
            if not (ca or os.path.exists(AUTHORITIES)):
                raise ValueError(
                    "the host has no list of authorities (Debian's package ca-certificates)"
                )
            context = ssl.create_default_context(
                cafile=None if ca else AUTHORITIES, cadata=ca or None
            )
            plain = context.wrap_socket(plain, server_hostname=address.hostname)
        self._socket = plain
        self._stream: BinaryIO = plain.makefile("rb")
        if address.password:
            name = [unquote(address.username)] if address.username else []
            self.ask("AUTH", *name, unquote(address.password))
        if address.path.strip("/"):
            self.ask("SELECT", address.path.strip("/"))

    def ask(self, *words: str) -> Any:
        """Send a command and return its answer.

        Raises:
            OSError, ValueError, ServerError: There is no answer, or it is an error.
        """
        parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in map(str.encode, words)]
        self._socket.sendall(b"".join([b"*%d\r\n" % len(words), *parts]))
        return self._answer()

    def _answer(self) -> Any:
        line = self._stream.readline()
        kind, rest = line[:1], line[1:].strip().decode("utf-8", "replace")
        if kind == b"-":
            raise ServerError(rest)
        if kind == b"+":
            return rest
        if kind not in b":$*" or not rest.lstrip("-").isdigit():
            raise ValueError("what answers is not Redis")
        number = int(rest)
        if kind == b":" or number < 0:
            return number
        if kind == b"*":
            return [self._answer() for _ in range(number)]
        return self._stream.read(number + 2)[:-2].decode("utf-8", "replace")


def information(connection: Connection, section: str) -> dict[str, str]:
    """Return one section of INFO; empty if the server does not allow it."""
    try:
        answer = connection.ask("INFO", section)
    except ServerError:
        return {}
    lines = (line.partition(":") for line in str(answer).splitlines() if not line.startswith("#"))
    return {key: value.strip() for key, colon, value in lines if colon}


def found(server: dict[str, str]) -> dict[str, Any]:
    """Return what one server is and what it refuses.

    Raises:
        OSError, ValueError, ServerError: It can't be used.
    """
    connection = Connection(urlsplit(server["url"]), server["ca"])
    about: dict[str, str] = {}
    for section in ("server", "replication", "cluster", "memory", "persistence"):
        about.update(information(connection, section))
    if "maxmemory_policy" not in about:
        with contextlib.suppress(ServerError, IndexError):
            about["maxmemory_policy"] = connection.ask("CONFIG", "GET", "maxmemory-policy")[1]
    refused = {}
    for words in (*NEEDED, *OPTIONAL):
        try:
            connection.ask(*words)
        except ServerError as error:
            # A server that lacks a command, or a user without the right. Errors of the probe itself say something else.
            if (
                "NOPERM" in str(error)
                or "unknown" in str(error).lower()
                or "not allowed" in str(error)
            ):
                refused[" ".join(words[:2] if words[0] in ("CLIENT", "SCRIPT") else words[:1])] = (
                    str(error)
                )
    names = {
        "version": "redis_version",
        "role": "role",
        "cluster": "cluster_enabled",
        "policy": "maxmemory_policy",
        "aof": "aof_enabled",
    }
    told = {name: about[field] for name, field in names.items() if field in about}
    return {**told, "refused": refused}


def main() -> None:
    """Answer a request."""
    answers = {}
    for server in json.load(sys.stdin)["servers"]:
        try:
            answers[server["kind"]] = found(server)
        except (OSError, ValueError, ServerError) as error:
            reason = getattr(error, "verify_message", "") or getattr(error, "strerror", "")
            answers[server["kind"]] = {"error": str(reason or error)}
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
