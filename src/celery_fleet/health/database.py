"""Read the URL of a database: its kind, its passwords, and whether its port accepts connections."""

from __future__ import annotations

import re
import socket
from urllib.parse import parse_qsl, unquote, urlsplit

#: Seconds that a server may take to accept a connection.
CONNECT = 5

#: Schemes that name a file instead of a server.
FILES = ("sqlite", "spatialite")
#: Default port of each scheme; a driver may follow after a `+`.
PORTS = {
    **dict.fromkeys(("postgres", "postgresql", "pgsql", "postgis"), 5432),
    **dict.fromkeys(("mysql", "mariadb", "mysqlgis"), 3306),
    "cockroachdb": 26257,
    "oracle": 1521,
    "mssql": 1433,
    "mongodb": 27017,
    "clickhouse": 9000,
}


def scheme_of(url: str) -> str:
    """Return the kind of database that a URL names, without its driver; empty if it is not known."""
    scheme = url.partition("://")[0].partition("+")[0].lower() if "://" in url else ""
    return scheme if scheme in PORTS or scheme in FILES else ""


def connect(url: str) -> None:
    """Connect to the server of a URL and close the connection.

    Raises:
        OSError: The server does not accept connections.
        ValueError: The URL can't be read.
    """
    parts = urlsplit(url)
    host, port = unquote(parts.hostname or "localhost"), parts.port or PORTS[scheme_of(url)]
    socket.create_connection((host, port), CONNECT).close()


def secrets_of(url: str) -> list[str]:
    """Return the passwords of a URL, quoted and unquoted.

    If a password is not quoted as it should be, the list also has each part of it: an error message about such a URL
    may name just that part.
    """
    before, _, behind = url.partition("://")[2].rpartition("@")
    password = before.partition(":")[2]
    query = parse_qsl(behind.partition("?")[2])
    found = [password, *re.split(r"[/?#\[\]@:]", password)]
    found += [value for name, value in query if "pass" in name.lower()]
    return [*found, *map(unquote, found)]
