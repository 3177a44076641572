"""A minimal Redis client: each test chooses how to connect and what to send."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.inventory import Fleet
from support.web import authority

#: Seconds to wait for a server that may have failed.
_QUICK = 1.0


class Refused(Exception):  # noqa: N818  # it is an answer, and often the expected one
    """An error that Redis returned."""


class Client:
    """A connection over TLS, without a login."""

    def __init__(
        self, address: str, port: int, cafile: Path | None, name: str, timeout: float = 10
    ) -> None:
        context = ssl.create_default_context(cafile=str(cafile) if cafile else None)
        plain = socket.create_connection((address, port), timeout)
        try:
            self._socket = context.wrap_socket(plain, server_hostname=name)
        except BaseException:
            plain.close()
            raise
        self._stream = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
        self._socket.close()

    def send(self, *words: str | int) -> Any:
        """Send a command and return its answer; Refused if it is an error."""
        encoded = [str(word).encode() for word in words]
        parts = [b"*%d\r\n" % len(encoded), *(b"$%d\r\n%s\r\n" % (len(w), w) for w in encoded)]
        self._socket.sendall(b"".join(parts))
        return self._read()

    def _read(self) -> Any:
        line = self._stream.readline()
        if not line:
            raise ConnectionError("Redis closed the connection")
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"-":
            raise Refused(rest)
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == "-1" else self._stream.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return None if rest == "-1" else [self._read() for _ in range(int(rest))]
        raise ConnectionError(f"no answer of Redis: {line!r}")


def port_of(fleet: Fleet, kind: str) -> int:
    """Return the port of `broker` or `results`."""
    return int(fleet.of("redis")[f"redis_{kind}_port"])


def connect(
    fleet: Fleet,
    kind: str,
    name: str | None = None,
    cafile: Path | None = None,
    host: str | None = None,
    timeout: float = 10,
) -> Client:
    """Connect to `broker` or `results`, by default to the primary and as a correct client does."""
    host = host or primary(fleet, kind)
    variables = fleet.expected[host]
    port = variables["celery_app_sentinel_port"] if kind == "sentinel" else port_of(fleet, kind)
    return Client(
        variables["ansible_host"], int(port), cafile or authority(variables), name or host, timeout
    )


def primary(fleet: Fleet, kind: str) -> str:
    """Return the host of an instance; of several, the primary that a Sentinel names and that says so itself."""
    hosts = fleet.hosts("redis")
    if len(hosts) == 1:
        return hosts[0]
    app = fleet.of("redis")["celery_app_name"]
    for host in hosts:
        with suppress(OSError, Refused):
            with session(fleet, "sentinel", "admin", host, _QUICK) as sentinel:
                found = sentinel.send("SENTINEL", "GET-MASTER-ADDR-BY-NAME", f"{app}-{kind}")
            with session(fleet, kind, "admin", found[0], _QUICK) as admin:
                if "role:master" in admin.send("INFO", "replication"):
                    return str(found[0])
    raise ConnectionError(f"no Sentinel knows a primary of {kind}")


@contextmanager
def session(
    fleet: Fleet, kind: str, user: str, host: str | None = None, timeout: float = 10
) -> Iterator[Client]:
    """Open a connection as one of the ACL's users, by default to the primary."""
    with connect(fleet, kind, host=host, timeout=timeout) as client:
        client.send("AUTH", user, fleet.of("redis")["redis_passwords"][user])
        yield client


def version(fleet: Fleet, kind: str) -> str:
    """Return an instance's name and version, such as `Redis 7.0.15`."""
    with session(fleet, kind, "admin") as admin:
        lines = str(admin.send("INFO", "server")).splitlines()
    found = dict(line.partition(":")[::2] for line in lines)
    if "valkey_version" in found:
        return f"Valkey {found['valkey_version']}"
    return f"Redis {found['redis_version']}"


def acl_log(fleet: Fleet, kind: str, host: str | None = None) -> list[dict[str, str]]:
    """Return what an instance's ACL has refused since its start, or since the log was cleared."""
    with session(fleet, kind, "admin", host) as admin:
        # Without a number Redis returns only ten.
        entries = admin.send("ACL", "LOG", 1000)
    return [dict(zip(entry[::2], map(str, entry[1::2]), strict=True)) for entry in entries]


@contextmanager
def provoked(fleet: Fleet, kind: str, *expected: tuple[str, str, str]) -> Iterator[None]:
    """Expect exactly these refusals (user, reason, object) in the block, and remove them from the log.

    Other refusals stay in the log, so that this test and the last one of the run fail.
    """
    before = acl_log(fleet, kind)
    assert before == []
    yield
    found = acl_log(fleet, kind)
    seen = {(entry["username"], entry["reason"], entry["object"]) for entry in found}
    assert seen == set(expected)
    with session(fleet, kind, "admin") as admin:
        admin.send("ACL", "LOG", "RESET")
